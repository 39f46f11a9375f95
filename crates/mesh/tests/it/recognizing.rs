//! Another gateway at the address of one we know: nothing of ours leaves but what lets us in.

use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Refusal, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::doctor::{Status, doctor};
use agent_team_mesh::ops::outbox::{self, Report};
use agent_team_mesh::ops::ping::{IdentityStatus, ping};
use agent_team_mesh::ops::send::SendRequest;
use agent_team_mesh::ops::wait::wait;
use agent_team_mesh::pins::{Mark, PinnedBy};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::{Record, State};
use agent_team_mesh::registry::{Agent, Registry, Via};
use serde_json::json;
use tokio::time::Duration;

use crate::team::{SOON, TOKEN, Team, message};

/// The identity of the recorded gateway.
const BOB: &str = "bfb7205b8d51379805975236f23fdcae82bb29ab2640d3b2f53872664a521892";
/// Of the one that takes its address over.
const OTHER: &str = "07e5000000000000000000000000000000000000000000000000000000000000";

fn asked(gateway: &FakeGateway) -> usize {
    gateway.requests("gateway.identity.get").len()
}

/// The next run, in which Bob's entry leads to this gateway.
fn moved(team: Team, to: &FakeGateway) -> Team {
    let bob = Agent { url: Some(to.url()), ..Agent::new("Bob", "bob") };
    let registry = Registry { agents: vec![Agent::new("Alice", "alice"), bob], ..Registry::default() };
    registry.save(&team.mesh.config().registry).unwrap();
    team.next_run(|_| {})
}

async fn stranger() -> FakeGateway {
    FakeGateway::start(Script::new().shared_token(TOKEN).identity(OTHER).issues_device_token("tok-foreign"))
        .await
}

#[track_caller]
fn assert_changed(error: Option<&MeshError>) {
    let Some(MeshError::IdentityChanged { mark, old, new, pinned_by, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((*mark, *pinned_by), (Mark::Identity, PinnedBy::Us));
    assert_eq!((old.as_str(), new.as_str()), (BOB, OTHER));
}

/// A team that has met Bob, in its next run.
async fn acquainted(script: Script) -> (Team, FakeGateway) {
    let (team, bob) = Team::with_bob(script).await;
    let met = team.send("bob", &message("first", SOON)).await;
    assert_eq!(met.state, State::Replied, "{met:?}");
    (team.next_run(|_| {}), bob)
}

#[tokio::test]
async fn the_identity_is_asked_once_for_each_process_and_before_the_message() {
    let (team, bob) = acquainted(Script::new().shared_token(TOKEN)).await;
    assert_eq!(team.mesh.pins().get("bob").unwrap().identity.unwrap().device_id, BOB);
    let methods: Vec<_> = bob.received().iter().map(|one| one.frame["method"].clone()).collect();
    assert_eq!(methods, ["connect", "gateway.identity.get", "agent"]);
    team.send("bob", &message("again", SOON)).await;
    assert_eq!(asked(&bob), 1, "the same process was met before");
    bob.restart().await;
    for text in ["after a restart", "and once more"] {
        assert_eq!(team.send("bob", &message(text, SOON)).await.state, State::Replied);
    }
    assert_eq!(asked(&bob), 2);
}

#[tokio::test]
async fn no_message_reaches_another_gateway_by_any_route() {
    for via in [Via::Agent, Via::Chat] {
        let (team, _bob) = acquainted(Script::new().shared_token(TOKEN)).await;
        let other = stranger().await;
        let team = moved(team, &other);
        let record = team.send("bob", &SendRequest { via: Some(via), ..message("hello", SOON) }).await;
        assert_changed(record.error.as_ref());
        assert_eq!(record.state, State::Failed);
        assert!(!record.error.unwrap().is_unreachable(), "no fallback: somebody answered");
        assert_eq!(other.ledger().total(), 0);
        assert!(other.requests("agent").is_empty() && other.requests("chat.send").is_empty());
        let ours = team.mesh.device().unwrap().id();
        let kept = team.mesh.device_token_store().get("bob", ours).unwrap();
        assert_eq!(kept, None, "what a stranger issues is not Bob's");
    }
}

#[tokio::test]
async fn forgetting_the_gateway_makes_the_next_contact_the_first() {
    let (team, _bob) = acquainted(Script::new().shared_token(TOKEN)).await;
    let other = stranger().await;
    let team = moved(team, &other);
    assert_changed(team.send("bob", &message("hello", SOON)).await.error.as_ref());
    team.mesh.pins().forget("bob").unwrap();
    assert_eq!(team.send("bob", &message("hello", SOON)).await.state, State::Replied);
    assert_eq!(team.mesh.pins().get("bob").unwrap().identity.unwrap().device_id, OTHER);
}

#[tokio::test]
async fn a_device_token_that_another_gateway_refuses_ends_it() {
    let script = || Script::new().shared_token(TOKEN);
    let (team, _bob) = acquainted(script().issues_device_token("tok-device")).await;
    let other = FakeGateway::start(script().identity(OTHER)).await;
    let team = moved(team, &other);
    let record = team.send("bob", &message("hello", SOON)).await;
    assert!(record.error.unwrap().refusal().is_some());
    let shown: Vec<_> = other.requests("connect").into_iter().map(|sent| sent["auth"].clone()).collect();
    assert_eq!(shown, [json!({ "deviceToken": "tok-device" })], "and never the shared token after it");
    assert_eq!(other.ledger().total(), 0);
}

/// The connection is lost in the middle of a run, and when we come back somebody else lives there.
#[tokio::test]
async fn a_message_under_way_is_not_looked_for_at_another_gateway() {
    let (team, _bob) =
        acquainted(Script::new().shared_token(TOKEN).reply(|turn| match turn.message.as_str() {
            "first" => Reply::text("met"),
            _ => Reply::never(),
        }))
        .await;
    let under_way = team.send("bob", &message("slow", Duration::from_millis(300))).await;
    assert_eq!(under_way.state, State::Accepted, "{under_way:?}");
    let other = stranger().await;
    let team = moved(team, &other);
    let record = wait(&team.mesh, &under_way.id, SOON, &mut Unobserved).await.unwrap();
    assert_changed(record.error.as_ref());
    assert_eq!(record.state, State::Accepted, "what was certain before still is");
    assert!(other.requests("chat.history").is_empty(), "{:?}", other.received());
}

#[tokio::test]
async fn the_outbox_gives_up_what_would_go_to_another_gateway() {
    let (team, bob) = acquainted(Script::new().shared_token(TOKEN)).await;
    drop(bob);
    let request = message("later", SOON);
    let kept =
        outbox::send_or_keep(&team.mesh, team.agent("bob"), &request, SOON * 100, &mut Unobserved).await;
    assert_eq!(kept.unwrap().record.state, State::Queued);
    let other = stranger().await;
    let team = moved(team, &other);
    let mut carried: Vec<Record> = Vec::new();
    let mut report = |report: Report| match report {
        Report::Carried(one) => carried.push(one.record),
        other => panic!("{other:?}"),
    };
    outbox::flush(&team.mesh, None, SOON, &mut report).await.unwrap();
    assert_eq!(carried.len(), 1);
    assert_changed(carried[0].error.as_ref());
    assert_eq!((carried[0].state, other.ledger().total()), (State::Failed, 0));
}

#[tokio::test]
async fn gateways_without_an_identity_cost_nothing_and_fail_nothing() {
    let (team, old) = acquainted(Script::new().shared_token(TOKEN).protocol(3)).await;
    // Asked together with `connect`; its answer is not waited for.
    assert_eq!((asked(&old), team.mesh.pins().get("bob").unwrap().identity), (1, None));
    let (team, without) = acquainted(Script::new().shared_token(TOKEN).nameless().identity(OTHER)).await;
    assert_eq!(team.send("bob", &message("again", SOON)).await.state, State::Replied);
    // At first contact alone: a refusal of the early question may be about the moment, so that it is asked once more.
    assert_eq!((asked(&without), team.mesh.pins().get("bob").unwrap().identity), (2, None));
    // One that had a name does not lose it.
    let (team, _bob) = acquainted(Script::new().shared_token(TOKEN)).await;
    let team = moved(team, &without);
    let record = team.send("bob", &message("hello", SOON)).await;
    assert!(matches!(record.error, Some(MeshError::IdentityChanged { .. })), "{record:?}");
}

/// Lost before anything left: the message certainly did not arrive.
#[tokio::test]
async fn a_connection_lost_while_asking_leaves_the_message_unsent() {
    let script = Script::new()
        .shared_token(TOKEN)
        .fault(Fault::new(Cut::AfterRequestReceived, How::Drop).of("gateway.identity.get"));
    let (team, bob) = Team::with_bob(script).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!(record.state, State::Unreachable, "{record:?}");
    assert!(bob.requests("agent").is_empty());
}

#[tokio::test]
async fn ping_and_doctor_tell_which_gateway_it_is_and_keep_nothing() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN)).await;
    let identity = async |team: &Team| {
        let pinged = ping(&team.mesh, team.agent("bob"), SOON).await.unwrap();
        pinged.identity.map(|identity| (identity.device_id, identity.status))
    };
    assert_eq!(identity(&team).await, Some((BOB.to_owned(), IdentityStatus::New)));
    assert!(!team.mesh.pins().path().exists());
    team.send("bob", &message("hello", SOON)).await;
    assert_eq!(identity(&team).await, Some((BOB.to_owned(), IdentityStatus::Known)));
    let other = stranger().await;
    let team = moved(team, &other);
    assert_eq!(identity(&team).await, Some((OTHER.to_owned(), IdentityStatus::Changed)));
    let report = doctor(&team.mesh, Some(team.agent("bob")), SOON).await;
    let check = report.checks.iter().find(|check| check.to.is_some() && check.name == "identity").unwrap();
    assert_eq!(check.status, Status::Fail);
    // What is known is given up only where Bob says so; the address is looked at first.
    let fix = check.fix.as_ref().unwrap();
    assert!(fix.command.starts_with("$EDITOR") && fix.when.is_some(), "{fix:?}");
    assert_eq!(fix.also[0].command, "agent-mesh trust reset bob");
    assert_eq!(fix.also[0].when.as_deref(), Some("only if Bob really has a new gateway"));
    drop(bob);
}

#[tokio::test]
async fn a_gateway_that_starts_is_asked_again_and_not_taken_for_another() {
    let script = Script::new().shared_token(TOKEN).refuse_first(1, Refusal::starting_up());
    let (team, bob) = Team::with_bob(script).await;
    assert_eq!(team.send("bob", &message("hello", SOON)).await.state, State::Replied);
    assert_eq!((bob.connects(), asked(&bob)), (2, 1));
}
