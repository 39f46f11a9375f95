//! Turns of others on our own gateway: set up before they leave, run once, aborted when nobody waits.

use std::sync::atomic::{AtomicU32, Ordering};

use agent_mesh_testkit::{Cut, FakeGateway, Fault, Gate, How, Reply, Script};
use agent_team_mesh::client::Secret;
use agent_team_mesh::client::protocol::methods::agent::{InputProvenance, Outcome};
use agent_team_mesh::ops::relay::{Relay, RelayError, Turn};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::team::{SOON, TOKEN, Team};

/// The id that the scripted gateway says it has.
const ITS_ID: &str = "bfb7205b8d51379805975236f23fdcae82bb29ab2640d3b2f53872664a521892";

/// A way to a gateway that plays this script, its owner being us.
async fn relay(script: Script) -> (Team, Relay, FakeGateway) {
    relay_of(script, "another").await
}

async fn relay_of(script: Script, own_id: &str) -> (Team, Relay, FakeGateway) {
    let gateway = FakeGateway::start(script.shared_token(TOKEN)).await;
    let team = Team::new([]).next_run(|config| {
        config.gateway.endpoint = gateway.url().parse().unwrap();
        config.gateway.token = Some(Secret::new(TOKEN.into()));
    });
    let mesh = agent_team_mesh::Mesh::new(team.mesh.config().clone());
    (team, Relay::new(mesh, own_id.to_owned()), gateway)
}

fn turn(run_id: &str, session: &str) -> Turn {
    Turn {
        run_id: run_id.into(),
        session: format!("agent:main:mesh:{session}"),
        message: "hello".into(),
        system: Some("who speaks".into()),
        provenance: Some(InputProvenance { kind: "inter_session".into(), ..InputProvenance::default() }),
        permission_mode: Some("read-only".into()),
        deadline: Instant::now() + SOON,
    }
}

async fn run(relay: &Relay, turn: &Turn) -> (Result<Outcome, RelayError>, Vec<String>) {
    run_again(relay, turn, None).await
}

async fn run_again(
    relay: &Relay,
    turn: &Turn,
    began: Option<Timestamp>,
) -> (Result<Outcome, RelayError>, Vec<String>) {
    let (pieces, mut written) = mpsc::channel(32);
    let mut all = Vec::new();
    let result = relay.run(turn, began, &pieces).await;
    while let Ok(piece) = written.try_recv() {
        all.push(piece);
    }
    (result, all)
}

fn reply(result: Result<Outcome, RelayError>) -> String {
    match result {
        Ok(Outcome::Reply(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_is_set_up_before_its_first_turn_leaves_and_one_connection_serves_all() {
    let script = Script::new().reply(|turn| Reply::text(turn.run_id.clone()).deltas(["run", "-"]));
    let (_team, relay, gateway) = relay(script).await;
    let (result, pieces) = run(&relay, &turn("run-1", "alice")).await;
    assert_eq!((reply(result), pieces), ("run-1".into(), vec!["run".to_owned(), "-".to_owned()]));
    assert_eq!(reply(run(&relay, &turn("run-2", "alice")).await.0), "run-2");
    assert_eq!(reply(run(&relay, &turn("run-3", "bob")).await.0), "run-3");

    let asked: Vec<_> = gateway.received().iter().map(|frame| frame.frame["method"].clone()).collect();
    let set_up = ["sessions.patch", "sessions.messages.subscribe", "agent"];
    let expected = [&["connect", "gateway.identity.get"][..], &set_up, &["agent"], &set_up].concat();
    assert_eq!(asked, expected);
    assert_eq!(
        gateway.requests("sessions.patch")[0],
        json!({ "key": "agent:main:mesh:alice", "permissionMode": "read-only" })
    );
    assert_eq!(
        gateway.requests("agent")[0],
        json!({
            "message": "hello", "idempotencyKey": "run-1", "sessionKey": "agent:main:mesh:alice",
            "extraSystemPrompt": "who speaks", "inputProvenance": { "kind": "inter_session" },
        })
    );
    assert_eq!(gateway.connections(), 1);
}

#[tokio::test]
async fn what_may_be_done_is_set_again_when_it_changes_and_left_alone_where_nothing_is_said() {
    let (_team, relay, gateway) = relay(Script::new()).await;
    let with =
        |run: &str, mode: Option<&str>| Turn { permission_mode: mode.map(Into::into), ..turn(run, "s") };
    for (run_id, mode) in
        [("1", Some("read-only")), ("2", Some("workspace")), ("3", Some("full")), ("4", None)]
    {
        reply(run(&relay, &with(run_id, mode)).await.0);
    }
    let modes: Vec<Value> =
        gateway.requests("sessions.patch").iter().map(|patch| patch["permissionMode"].clone()).collect();
    assert_eq!(modes, [json!("read-only"), json!("workspace"), Value::Null], "`full` is what null means");
}

#[tokio::test]
async fn a_connection_cut_anywhere_costs_no_reply_and_no_second_turn() {
    let trials = Cut::ALL.map(|cut| async move {
        let script = Script::new()
            .reply(|_| Reply::text("done").deltas(["d"]))
            .fault(Fault::new(cut, How::Drop).on_connection(1));
        let (_team, relay, gateway) = relay(script).await;
        let (result, _) = run(&relay, &turn("run-1", "alice")).await;
        assert_eq!(reply(result), "done", "{cut:?}");
        assert_eq!(gateway.ledger().total(), 1, "{cut:?}");
    });
    join_all(trials).await;
}

#[tokio::test]
async fn a_turn_that_waits_in_a_gateway_that_restarts_is_answered() {
    let (_team, relay, gateway) = relay(Script::new().reply(|_| Reply::text("done"))).await;
    relay.open(Instant::now() + SOON).await.unwrap();
    gateway.restart().await;
    assert_eq!(reply(run(&relay, &turn("run-1", "alice")).await.0), "done");
    assert_eq!(gateway.ledger().total(), 1);
}

#[tokio::test]
async fn a_run_that_a_killed_gateway_resumes_is_followed() {
    let asked = AtomicU32::new(0);
    let script = Script::new().recovers_after(std::time::Duration::ZERO).reply(move |_| {
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::never(),
            _ => Reply::text("recovered"),
        }
    });
    let (_team, relay, gateway) = relay(script).await;
    let turn = turn("run-1", "alice");
    let kill = async {
        gateway.until(|gateway| gateway.ledger().total() == 1).await;
        gateway.kill().await;
    };
    let ((result, _), ()) = tokio::join!(run(&relay, &turn), kill);
    assert_eq!(reply(result), "recovered");
    assert_eq!(gateway.requests("agent").len(), 1, "it is not sent again");
}

/// A process of ours was killed in the middle of the turn; the next one only knows that it began.
#[tokio::test]
async fn a_turn_of_a_process_that_is_no_more_is_followed_and_not_sent_again() {
    for is_over in [false, true] {
        let gate = Gate::new();
        let held = gate.clone();
        let script = Script::new().reply(move |_| Reply::text("the answer").when(&held));
        let (team, relay, gateway) = relay(script).await;
        let (turn, began) = (turn("run-1", "alice"), Timestamp::now());
        let mesh = agent_team_mesh::Mesh::new(team.mesh.config().clone());
        let next = Relay::new(mesh, "another".to_owned());
        let first = run(&relay, &turn);
        let second = async {
            gateway.until(|gateway| gateway.ledger().total() == 1).await;
            if is_over {
                gate.open();
                gateway.until(|gateway| gateway.history(&turn.session).len() == 2).await;
            }
            let follow = run_again(&next, &turn, Some(began));
            let end = async {
                gateway.until(|gateway| !gateway.requests("chat.history").is_empty()).await;
                gate.open();
            };
            tokio::join!(follow, end).0
        };
        let (_, (result, _)) = tokio::join!(first, second);
        assert_eq!(reply(result), "the answer");
        assert_eq!(gateway.requests("agent").len(), 1);
    }
}

/// It may have begun, and nothing shows whether it did.
#[tokio::test]
async fn a_turn_of_a_process_that_is_no_more_without_a_trace_is_not_begun_again() {
    let (_team, relay, gateway) = relay(Script::new()).await;
    let (result, _) = run_again(&relay, &turn("run-1", "alice"), Some(Timestamp::now())).await;
    assert!(matches!(result, Err(RelayError::Unknown(_))), "{result:?}");
    assert!(gateway.requests("agent").is_empty());
}

#[tokio::test]
async fn a_turn_that_nobody_waits_for_is_aborted_over_there() {
    let (_team, relay, gateway) = relay(Script::new().reply(|_| Reply::never())).await;
    let abandoned = turn("run-1", "alice");
    tokio::select! {
        _ = run(&relay, &abandoned) => panic!("it never ends"),
        () = gateway.until(|gateway| gateway.ledger().total() == 1) => {}
    }
    gateway.until(|gateway| gateway.requests("chat.abort").len() == 1).await;
    let wanted = json!({ "sessionKey": "agent:main:mesh:alice", "runId": "run-1" });
    assert_eq!(gateway.requests("chat.abort"), [wanted]);

    let late =
        Turn { deadline: Instant::now() + std::time::Duration::from_millis(300), ..turn("run-2", "alice") };
    assert!(matches!(run(&relay, &late).await.0, Err(RelayError::Deadline)));
    gateway.until(|gateway| gateway.requests("chat.abort").len() == 2).await;
}

#[tokio::test]
async fn a_run_that_ends_leaves_nothing_to_abort() {
    let (_team, relay, gateway) = relay(Script::new()).await;
    reply(run(&relay, &turn("run-1", "alice")).await.0);
    // Whatever was sent before this is answered before it.
    reply(run(&relay, &turn("run-2", "alice")).await.0);
    assert!(gateway.requests("chat.abort").is_empty());
}

#[tokio::test]
async fn a_refusal_starts_nothing_and_is_no_reason_to_ask_again() {
    let refused = || Reply::refused(json!({ "code": "INVALID_REQUEST", "message": "no" }));
    let (_team, relay, gateway) = relay(Script::new().reply(move |_| refused())).await;
    assert!(matches!(run(&relay, &turn("run-1", "alice")).await.0, Err(RelayError::Refused(_))));
    assert_eq!(gateway.requests("agent").len(), 1);
    let script = Script::new().reply(|_| Reply::provider_error("HTTP 400"));
    let (_team, relay, _gateway) = self::relay(script).await;
    assert!(matches!(run(&relay, &turn("run-1", "alice")).await.0, Ok(Outcome::Failed(_))));
}

#[tokio::test]
async fn a_wrong_token_is_shown_once_a_turn_and_our_own_door_is_not_entered() {
    let (_team, relay, gateway) =
        relay(Script::new().refuse(agent_mesh_testkit::Refusal::token_mismatch())).await;
    assert!(matches!(run(&relay, &turn("run-1", "alice")).await.0, Err(RelayError::Unreachable(_))));
    assert_eq!(gateway.connects(), 1);
    let (_team, relay, gateway) = relay_of(Script::new(), ITS_ID).await;
    assert!(matches!(run(&relay, &turn("run-1", "alice")).await.0, Err(RelayError::Itself)));
    assert!(gateway.requests("agent").is_empty());
}
