//! A gateway that refuses a message for now gets it again, within the deadline; one that refuses it for good does not.

use std::sync::atomic::{AtomicU32, Ordering};

use agent_mesh_testkit::{Gate, Reply, Script};
use agent_team_mesh::MeshError;
use agent_team_mesh::record::State;
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::team::{SOON, Team, message};

/// Refuses the first so many messages with this error.
fn refusing(times: u32, error: serde_json::Value) -> Script {
    let refused = AtomicU32::new(0);
    Script::new().reply(move |turn| {
        if refused.fetch_add(1, Ordering::Relaxed) < times {
            return Reply::refused(error.clone());
        }
        Reply::text(format!("re: {}", turn.message))
    })
}

fn unavailable(retry_after_ms: u64) -> serde_json::Value {
    json!({ "code": "UNAVAILABLE", "message": "too many runs are waiting", "retryable": true,
        "retryAfterMs": retry_after_ms, "details": { "reason": "queue-full" } })
}

async fn steps(team: &Team, id: &str) -> Vec<String> {
    let events = team.mesh.archive().unwrap().events(id).await.unwrap();
    events.into_iter().map(|event| event.step).collect()
}

#[tokio::test]
async fn a_message_that_comes_while_the_gateway_drains_is_answered_by_the_next_process() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = Script::new().reply(move |turn| match turn.message.as_str() {
        "long" => Reply::text("at last").when(&held),
        other => Reply::text(format!("re: {other}")),
    });
    let (team, bob) = Team::with_bob(script).await;
    let (long, short) = (message("long", SOON), message("short", SOON));
    let restarted = async {
        bob.until(|bob| bob.requests("agent").len() == 1).await;
        bob.restart().await;
    };
    let meanwhile = async {
        bob.until(|bob| bob.requests("agent").len() == 1).await;
        let boot = bob.boot_id();
        let sent = team.send("bob", &short);
        let opened = async {
            bob.until(|bob| bob.requests("agent").len() == 2).await;
            gate.open();
        };
        let (record, ()) = tokio::join!(sent, opened);
        assert_ne!(bob.boot_id(), boot, "it was answered by the process that turned it away");
        record
    };
    let (long, short, ()) = tokio::join!(team.send("bob", &long), meanwhile, restarted);
    assert_eq!(long.reply.unwrap().text, "at last");
    assert_eq!(short.reply.as_ref().map(|reply| reply.text.as_str()), Some("re: short"), "{short:?}");
    assert_eq!(bob.ledger().total(), 2);
    let expected = ["sending", "reached", "turned-away", "reached", "accepted", "replied"];
    assert_eq!(steps(&team, &short.id).await, expected);
}

#[tokio::test]
async fn a_message_that_was_turned_away_has_certainly_not_left() {
    let (team, bob) = Team::with_bob(refusing(1, unavailable(60_000))).await;
    let start = Instant::now();
    let record = team.send("bob", &message("hello", SOON)).await;
    assert!(start.elapsed() < Duration::from_secs(5), "its time would be over before the gateway is ready");
    assert_eq!(record.state, State::Failed, "{record:?}");
    assert!(matches!(record.error, Some(MeshError::Call { .. })), "{record:?}");
    assert_eq!((bob.requests("agent").len(), bob.ledger().total()), (1, 0));
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_sent_again() {
    // The key of a run that was interrupted in the queue: `UNAVAILABLE`, and no word of trying again.
    let error = json!({ "code": "UNAVAILABLE", "message": "Pending input ownership ended; submit a new turn to continue" });
    let (team, bob) = Team::with_bob(refusing(9, error)).await;
    let record = team.send("bob", &message("hello", SOON)).await;
    assert_eq!((record.state, bob.requests("agent").len()), (State::Failed, 1), "{record:?}");
}
