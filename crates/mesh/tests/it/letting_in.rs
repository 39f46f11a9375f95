//! Credentials, rights, pairing.

use agent_mesh_testkit::Script;
use agent_team_mesh::MeshError;
use agent_team_mesh::client::protocol::Fault;
use agent_team_mesh::ops::pair::{PairStatus, pair};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::{Record, State};
use serde_json::json;
use tokio::time::Duration;

use crate::team::{SOON, TOKEN, Team, message};

fn refusal(record: &Record) -> Option<Fault> {
    record.error.as_ref().and_then(MeshError::refusal)
}

#[tokio::test]
async fn a_wrong_token_is_shown_exactly_once() {
    let (team, bob) = Team::with_bob(Script::new().shared_token("another")).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!((record.state, refusal(&record)), (State::Failed, Some(Fault::TokenMismatch)));
    assert_eq!(bob.connects(), 1, "ten failures would lock the address out");
    assert!(!record.error.unwrap().is_unreachable(), "no fallback for a peer that answered");
}

#[tokio::test]
async fn a_token_that_gives_no_rights_is_explained_before_anything_is_sent() {
    let script = Script::new().shared_token(TOKEN).hello_extra(json!({"auth": {"scopes": []}}));
    let (team, bob) = Team::with_bob(script).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Failed);
    assert!(
        matches!(&record.error, Some(MeshError::Scope { missing, .. }) if missing == "operator.write"),
        "{record:?}"
    );
    assert!(bob.requests("agent").is_empty());
}

#[tokio::test]
async fn without_a_credential_nothing_is_dialled() {
    let (team, bob) = Team::with_bob(Script::new()).await;
    team.mesh.token_store().remove("bob").unwrap();
    let record = team.send("bob", &message("hello", SOON)).await;
    assert!(matches!(record.error, Some(MeshError::NoCredential { .. })), "{record:?}");
    assert_eq!(record.state, State::Skipped);
    assert_eq!(bob.connections(), 0);
}

#[tokio::test]
async fn an_unpaired_send_names_the_request_that_bob_approves() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN).pairing_required()).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    let [(request, device)] = bob.pending_pairings().try_into().unwrap();
    assert_eq!(record.state, State::Failed);
    assert_eq!(device, team.mesh.device().unwrap().id());
    let Some(Fault::PairingRequired { request_id: Some(id), .. }) = refusal(&record) else {
        panic!("{record:?}")
    };
    assert_eq!(id, request);
}

#[tokio::test]
async fn pair_waits_for_the_approval_and_the_token_it_brings_is_used_alone() {
    let script = Script::new().shared_token(TOKEN).pairing_required().issues_device_token("tok-device");
    let (team, bob) = Team::with_bob(script).await;
    let approve = async {
        bob.until(|bob| !bob.pending_pairings().is_empty()).await;
        assert!(bob.approve(&bob.pending_pairings()[0].0));
    };
    let mut unobserved = Unobserved;
    let paired = pair(&team.mesh, team.agent("bob"), true, SOON, &mut unobserved);
    let (paired, ()) = tokio::join!(paired, approve);
    assert_eq!(paired.unwrap().status, PairStatus::Approved);

    let team = team.next_run(|_| {});
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Replied, "{record:?}");
    let connects = bob.requests("connect");
    assert_eq!(connects.last().unwrap()["auth"], json!({"deviceToken": "tok-device"}));
    assert!(connects.iter().all(|sent| sent["scopes"] == json!(["operator.read", "operator.write"])));
}

#[tokio::test]
async fn a_device_token_given_with_hello_is_kept() {
    let script = Script::new().shared_token(TOKEN).issues_device_token("tok-device");
    let (team, bob) = Team::with_bob(script).await;
    team.send("bob", &message("one", SOON)).await;
    let kept = team.mesh.device_token_store().get("bob", team.mesh.device().unwrap().id()).unwrap().unwrap();
    assert_eq!((kept.token.expose(), kept.url), ("tok-device", bob.url()));

    let team = team.next_run(|_| {});
    team.send("bob", &message("two", SOON)).await;
    let sent: Vec<_> = bob.requests("connect").iter().map(|sent| sent["auth"].clone()).collect();
    assert_eq!(sent, [json!({"token": TOKEN}), json!({"deviceToken": "tok-device"})]);
}

#[tokio::test]
async fn a_revoked_device_token_is_not_followed_by_the_shared_one() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN)).await;
    team.device_token_for("bob", "tok-revoked");
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(refusal(&record), Some(Fault::DeviceTokenMismatch));
    assert_eq!(bob.connects(), 1);
    // To ask again is what `pair` is for.
    let pairing = pair(&team.mesh, team.agent("bob"), false, Duration::from_secs(5), &mut Unobserved).await;
    assert_eq!(pairing.unwrap().status, PairStatus::Approved);
}
