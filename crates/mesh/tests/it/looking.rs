//! `list` and `ping` look, and leave nothing behind.

use agent_mesh_testkit::{FakeGateway, Refusal, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::list::{Status, list};
use agent_team_mesh::ops::ping::{Pinged, ping};
use serde_json::json;

use crate::team::{SOON, TOKEN, Team, nobody};

fn steps(pinged: &Pinged) -> Vec<(&'static str, bool)> {
    pinged.steps.iter().map(|step| (step.step, step.ok)).collect()
}

async fn ping_bob(team: &Team) -> Pinged {
    ping(&team.mesh, team.agent("bob"), SOON).await.unwrap()
}

const ANSWERS: [(&str, bool); 5] =
    [("resolve", true), ("tcp", true), ("tls", true), ("ws", true), ("challenge", true)];

#[tokio::test]
async fn list_never_authenticates() {
    let bob = FakeGateway::start(Script::new().shared_token(TOKEN)).await;
    let team = Team::new([("Bob", bob.url()), ("Dead", nobody()), ("Pending", String::new())]);
    team.token_for("bob", TOKEN);
    team.device_token_for("dead", "tok-device");
    let rows = list(&team.mesh).await.unwrap();
    let shown: Vec<_> =
        rows.iter().map(|row| (row.name.as_str(), row.status, row.token, row.paired, row.is_self)).collect();
    let expected = [
        ("Alice", Status::NoAddress, "missing", false, true),
        ("Bob", Status::Online, "configured", false, false),
        ("Dead", Status::Unreachable, "configured", true, false),
        ("Pending", Status::NoAddress, "missing", false, false),
    ];
    assert_eq!(shown, expected);
    assert!(rows[2].reason.as_ref().unwrap().contains("refused"), "{:?}", rows[2].reason);
    assert_eq!((bob.connects(), bob.received().len()), (0, 0), "not one frame was sent");
}

#[tokio::test]
async fn ping_goes_through_its_steps_in_order() {
    let (team, bob) = Team::with_bob(Script::new().device_token("tok-device")).await;
    team.device_token_for("bob", "tok-device");
    let pinged = ping_bob(&team).await;
    assert_eq!(steps(&pinged), [&ANSWERS[..], &[("auth", true), ("scope", true)]].concat());
    assert!(pinged.answered && pinged.rtt_ms.is_some() && pinged.error.is_none());
    let [sent] = bob.requests("connect").try_into().unwrap();
    assert_eq!(sent["auth"], json!({"deviceToken": "tok-device"}), "the device token alone");
    assert_eq!(sent["device"]["id"], team.mesh.device().unwrap().id());
}

#[tokio::test]
async fn ping_without_a_device_token_shows_no_device_and_files_no_request() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN).pairing_required()).await;
    let pinged = ping_bob(&team).await;
    assert_eq!(steps(&pinged), [&ANSWERS[..], &[("auth", true), ("scope", false)]].concat());
    assert!(matches!(pinged.error, Some(MeshError::Scope { .. })), "{pinged:?}");
    assert!(bob.requests("connect")[0].get("device").is_none());
    assert!(bob.pending_pairings().is_empty());
}

#[tokio::test]
async fn ping_without_any_token_stops_at_the_challenge() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN)).await;
    team.mesh.token_store().remove("bob").unwrap();
    let pinged = ping_bob(&team).await;
    assert_eq!(steps(&pinged), [&ANSWERS[..], &[("auth", false)]].concat());
    assert!(pinged.answered && matches!(pinged.error, Some(MeshError::NoCredential { .. })));
    assert_eq!(bob.received().len(), 0);
}

#[tokio::test]
async fn a_refused_credential_is_not_shown_by_the_next_ping() {
    let (team, bob) = Team::with_bob(Script::new().refuse(Refusal::token_mismatch())).await;
    let first = ping_bob(&team).await;
    let second = ping_bob(&team).await;
    assert_eq!(steps(&first), [&ANSWERS[..], &[("auth", false)]].concat());
    assert_eq!(steps(&second), steps(&first));
    assert!(matches!(second.error, Some(MeshError::RefusedBefore { .. })), "{second:?}");
    assert_eq!(bob.connects(), 1);
}

/// A gateway that is starting did not refuse anything.
#[tokio::test]
async fn a_gateway_that_is_starting_is_asked_again() {
    let (team, bob) = Team::with_bob(Script::new().refuse_first(1, Refusal::starting_up())).await;
    assert!(ping_bob(&team).await.error.is_some());
    assert!(ping_bob(&team).await.error.is_none());
    assert_eq!(bob.connects(), 2);
}

#[tokio::test]
async fn ping_names_the_step_that_failed() {
    let team = Team::new([("Bob", nobody())]);
    let pinged = ping_bob(&team).await;
    assert_eq!(steps(&pinged), [("resolve", true), ("tcp", false)]);
    assert!(!pinged.answered && pinged.rtt_ms.is_none());
    assert!(pinged.steps[1].detail.contains("refused"), "{pinged:?}");
}
