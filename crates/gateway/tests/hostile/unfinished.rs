//! Runs that a killed gateway left behind: what only waited runs once, what had begun is not begun again, and what was
//! stopped, or may not be any more, does not come back.

use std::sync::{Arc, Mutex};

use agent_mesh_gateway::{Agent, Deltas, Held as Kept, Ledger, MemoryLedger, ReplyFuture, Turn};
use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

fn left_behind(run: &str, message: &str) -> Kept {
    Kept {
        id: run.into(),
        kept: None,
        run_id: run.into(),
        is_chat: false,
        session: "agent:main:mesh:alice".into(),
        peer: "alice".into(),
        earlier: None,
        name: "Alice".into(),
        device_id: None,
        client: json!({}),
        provenance: None,
        message: message.into(),
        timeout_ms: None,
        since: 0,
    }
}

async fn door(agent: Arc<dyn Agent>, rules: &str, ledger: &MemoryLedger) -> Door {
    let ledger = ledger.clone();
    Door::open(agent, rules, |config| config.ledger = Arc::new(ledger)).await
}

async fn names(ledger: &MemoryLedger) -> Vec<String> {
    ledger.unfinished().await.unwrap().into_iter().map(|one| one.run.run_id).collect()
}

async fn waited(alice: &mut Peer, run: &str) -> Value {
    alice.ok("agent.wait", json!({ "runId": run, "timeoutMs": 5_000 })).await
}

#[tokio::test]
async fn what_only_waited_runs_in_its_order_and_once() {
    let ledger = MemoryLedger::default();
    for run in ["1", "2"] {
        ledger.accept(left_behind(run, run), false).await.unwrap();
    }
    let (puppet, mut turns) = Puppet::new();
    let door = door(puppet, "", &ledger).await;
    let mut alice = door.alice().await;
    let again = alice.ok("agent", say("main", "1", "1")).await;
    assert_eq!(again["status"], "in_flight", "its key is known: {again}");
    for run in ["1", "2"] {
        let held = turns.recv().await.unwrap();
        assert_eq!((&*held.turn.run_id, held.turn.from.principal.key()), (run, "alice"));
        assert_eq!(names(&ledger).await.len(), 3 - run.parse::<usize>().unwrap());
        held.finish.send(Ok(format!("done {run}"))).unwrap();
        assert_eq!(waited(&mut alice, run).await["terminalReply"]["text"], format!("done {run}"));
    }
    assert!(turns.try_recv().is_err() && names(&ledger).await.is_empty());
}

/// An agent that finds out what became of a turn.
struct Finder(Mutex<Vec<(String, i64)>>);

impl Agent for Finder {
    fn reply(&self, turn: Turn, _: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move { Ok(format!("new: {}", turn.message)) })
    }

    fn can_resume(&self) -> bool {
        true
    }

    fn resume(&self, turn: Turn, began_at: i64, _: Deltas) -> ReplyFuture<'_> {
        self.0.lock().unwrap().push((turn.run_id, began_at));
        Box::pin(async { Ok("found".to_owned()) })
    }
}

#[tokio::test]
async fn what_had_begun_is_taken_up_by_an_agent_that_can_and_not_begun_again_by_any() {
    let ledger = MemoryLedger::default();
    ledger.accept(left_behind("1", "hello"), true).await.unwrap();
    let finder = Arc::new(Finder(Mutex::default()));
    {
        let door = door(finder.clone(), "", &ledger).await;
        let mut alice = door.alice().await;
        assert_eq!(waited(&mut alice, "1").await["terminalReply"]["text"], "found");
        assert_eq!(*finder.0.lock().unwrap(), [("1".to_owned(), 0)]);
        let rows = alice.ok("chat.history", json!({ "sessionKey": "main" })).await["messages"].clone();
        let roles: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["role"].clone()).collect();
        assert_eq!(roles, ["user", "assistant"]);
    }
    assert!(names(&ledger).await.is_empty());
    ledger.accept(left_behind("2", "hello"), true).await.unwrap();
    let (puppet, mut turns) = Puppet::new();
    let _door = door(puppet, "", &ledger).await;
    assert!(names(&ledger).await.is_empty(), "it ended before anybody could ask");
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn who_may_do_nothing_any_more_gets_no_run_out_of_a_restart() {
    let ledger = MemoryLedger::default();
    ledger.accept(left_behind("1", "hello"), false).await.unwrap();
    let (puppet, mut turns) = Puppet::new();
    let _door = door(puppet, "[peers.alice]\nmode = \"deny\"\n", &ledger).await;
    assert!(names(&ledger).await.is_empty());
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn what_was_stopped_while_it_waited_does_not_come_back() {
    let ledger = MemoryLedger::default();
    let (puppet, mut turns) = Puppet::new();
    let door = door(puppet, "", &ledger).await;
    let mut alice = door.alice().await;
    for run in ["1", "2"] {
        let id = alice.request("agent", say("main", run, run)).await;
        assert_eq!(alice.answer(&id).await["payload"]["status"], "accepted");
        assert!(names(&ledger).await.contains(&run.to_owned()), "it was written down first");
    }
    let first = turns.recv().await.unwrap();
    let mut other = door.alice().await;
    let stopped = other.ok("chat.abort", json!({ "sessionKey": "main", "runId": "2" })).await;
    assert_eq!(stopped["runIds"], json!(["2"]));
    assert_eq!(names(&ledger).await, ["1"]);
    first.finish.send(Ok("done".into())).unwrap();
    assert_eq!(waited(&mut other, "1").await["status"], "ok");
    assert!(names(&ledger).await.is_empty());
}
