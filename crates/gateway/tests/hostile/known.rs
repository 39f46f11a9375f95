//! Keys that only the ledger still knows: whoever says them again gets what became of the run, and no second one.

use std::collections::HashMap;
use std::sync::Arc;

use agent_mesh_gateway::{
    Accepted, Decision, End, Held as Written, Kept, Ledger, MemoryLedger, Origin, Past, Unfinished,
};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::door::*;
use crate::support::*;

/// A ledger with a run of last week: Alice's "old", by whichever method she asks for it.
#[derive(Default)]
struct Diary(MemoryLedger);

impl Diary {
    fn known(run: &Written) -> Option<Accepted> {
        let past = Past {
            run_id: run.run_id.clone(),
            origin: if run.is_chat { Origin::Chat } else { Origin::Agent },
            session_key: run.session.clone(),
            from: run.peer.clone(),
            message: "hello".to_owned(),
            end: End::Replied("of last week".to_owned()),
            began_at: 1,
            ended_at: Some(2),
        };
        (run.run_id == "old" && run.peer == "alice").then(|| Accepted::Known(Box::new(past)))
    }
}

impl Ledger for Diary {
    fn runs_since(&self, since: i64) -> Kept<'_, HashMap<String, u32>> {
        self.0.runs_since(since)
    }

    fn accept(&self, run: Written, begins: bool) -> Kept<'_, Accepted> {
        match Self::known(&run) {
            Some(known) => Box::pin(async { Ok(known) }),
            None => self.0.accept(run, begins),
        }
    }

    fn began<'a>(&'a self, name: &'a str) -> Kept<'a, ()> {
        self.0.began(name)
    }

    fn ended(&self, name: &str, end: End) -> Kept<'static, ()> {
        self.0.ended(name, end)
    }

    fn unfinished(&self) -> Kept<'_, Vec<Unfinished>> {
        self.0.unfinished()
    }

    fn held(&self) -> Kept<'_, Vec<Written>> {
        self.0.held()
    }

    fn hold(&self, held: Written) -> Kept<'_, Accepted> {
        match Self::known(&held) {
            Some(known) => Box::pin(async { Ok(known) }),
            None => self.0.hold(held),
        }
    }

    fn decided(&self, id: String, decision: Decision) -> Kept<'_, ()> {
        self.0.decided(id, decision)
    }

    fn is_paused(&self) -> Kept<'_, bool> {
        self.0.is_paused()
    }

    fn pause(&self, paused: bool) -> Kept<'_, ()> {
        self.0.pause(paused)
    }
}

/// A door with that ledger, Alice in it, and the turns of its agent.
async fn with_alice(rules: &str) -> (Door, Peer, UnboundedReceiver<Held>) {
    let (puppet, turns) = Puppet::new();
    let door = Door::open(puppet, rules, |config| config.ledger = Arc::new(Diary::default())).await;
    let alice = door.alice().await;
    (door, alice, turns)
}

#[tokio::test]
async fn a_known_key_is_answered_at_once_also_behind_a_run_that_goes_on() {
    let (_door, mut alice, mut turns) = with_alice("").await;
    let again = alice.request("agent", say("main", "hello", "old")).await;
    assert_eq!(reply(&alice.answer(&again).await), "of last week");

    let first = alice.request("agent", say("busy", "hello", "new")).await;
    assert_eq!(alice.answer(&first).await["payload"]["status"], "accepted");
    let new = turns.recv().await.unwrap();
    assert_eq!(new.turn.run_id, "new", "the old one had no turn");
    // A key is known per method and session of its sender: the table of runs has that of `main` now.
    let behind = alice.request("chat.send", say("busy", "hello", "old")).await;
    assert_eq!(alice.answer(&behind).await["payload"], json!({ "runId": "old", "status": "ok" }));
    let queued = alice.ok("chat.history", json!({ "sessionKey": "busy" })).await["pendingInputs"].clone();
    assert_eq!(queued["total"], 0, "it waits for nothing: {queued}");
    new.finish.send(Ok("done".into())).unwrap();
    assert_eq!(reply(&alice.answer(&first).await), "done");
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn a_known_key_with_other_words_is_a_conflict_of_chat_send() {
    let (_door, mut alice, mut turns) = with_alice("").await;
    let error = alice.error("chat.send", say("main", "other words", "old")).await;
    assert_eq!(error["details"]["reason"], "chat-request-conflict");
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn a_known_key_is_not_held_again_and_nobody_else_learns_of_it() {
    let (door, mut alice, mut turns) = with_alice("[peers.alice]\nmode = \"approve\"\n").await;
    let again = alice.request("agent", say("main", "hello", "old")).await;
    assert_eq!(reply(&alice.answer(&again).await), "of last week");
    let held = alice.ok("agent", say("main", "hello", "new")).await;
    assert_eq!(held["held"], true, "{held}");
    let mut bob = door.bob().await;
    let own = bob.request("agent", say("main", "hello", "old")).await;
    assert_eq!(bob.answer(&own).await["payload"]["status"], "accepted", "to Bob the key is a new one");
    turns.recv().await.unwrap().finish.send(Ok("Bob's".into())).unwrap();
    assert_eq!(reply(&bob.answer(&own).await), "Bob's");
}
