//! Messages that wait for the owner's word: they do not run before it, and nobody else has it.

use std::sync::Arc;

use agent_mesh_gateway::MemoryLedger;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;

use crate::door::*;
use crate::support::*;

const APPROVE: &str = "[peers.alice]\nmode = \"approve\"\n";

async fn door() -> (Door, UnboundedReceiver<Held>) {
    let (puppet, turns) = Puppet::new();
    (Door::open(puppet, APPROVE, |_| {}).await, turns)
}

/// Alice says something that is held; gives the id of her request.
async fn ask(alice: &mut Peer, session: &str, message: &str, key: &str) -> String {
    let id = alice.request("agent", say(session, message, key)).await;
    let ack = alice.answer(&id).await["payload"].clone();
    assert_eq!((&ack["status"], &ack["held"]), (&json!("accepted"), &json!(true)), "{ack}");
    id
}

async fn inbox(owner: &mut Peer) -> Vec<Value> {
    owner.ok("mesh.inbox.list", json!({})).await["held"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_held_message_does_not_run_before_the_owners_word() {
    let (door, mut turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    let id = ask(&mut alice, "main", "please", "k").await;
    let held = inbox(&mut owner).await;
    assert_eq!((&held[0]["from"]["key"], &held[0]["preview"]), (&json!("alice"), &json!("please")));
    assert!(matches!(turns.try_recv(), Err(TryRecvError::Empty)));
    owner.ok("mesh.inbox.approve", json!({ "id": held[0]["id"] })).await;
    turns.recv().await.unwrap().finish.send(Ok("done".into())).unwrap();
    assert_eq!(reply(&alice.answer(&id).await), "done");
}

#[tokio::test]
async fn a_rejected_message_never_runs_and_its_sender_is_told() {
    let (door, mut turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    let id = ask(&mut alice, "main", "please", "k").await;
    let held = inbox(&mut owner).await;
    owner.ok("mesh.inbox.reject", json!({ "id": held[0]["id"] })).await;
    let answer = alice.answer(&id).await;
    assert_eq!(answer["error"]["message"], "rejected by its owner");
    assert!(turns.try_recv().is_err());
    let again = alice.call("agent", say("main", "please", "k")).await;
    assert_eq!(again["error"]["message"], "rejected by its owner", "the same key asks for no other word");
}

#[tokio::test]
async fn what_was_decided_cannot_be_decided_again() {
    let (door, mut turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    ask(&mut alice, "main", "please", "k").await;
    let held = inbox(&mut owner).await;
    let id = json!({ "id": held[0]["id"] });
    owner.ok("mesh.inbox.approve", id.clone()).await;
    assert_eq!(owner.error("mesh.inbox.approve", id.clone()).await["code"], "INVALID_REQUEST");
    assert_eq!(owner.error("mesh.inbox.reject", id).await["code"], "INVALID_REQUEST");
    turns.recv().await.unwrap();
    assert!(turns.try_recv().is_err(), "one word, one run");
}

#[tokio::test]
async fn of_two_words_at_once_one_counts() {
    let (door, _turns) = door().await;
    let (mut alice, mut one, mut two) = (door.alice().await, door.owner().await, door.owner().await);
    ask(&mut alice, "main", "please", "k").await;
    let id = json!({ "id": inbox(&mut one).await[0]["id"] });
    let (yes, no) =
        tokio::join!(one.call("mesh.inbox.approve", id.clone()), two.call("mesh.inbox.reject", id.clone()));
    assert_ne!(yes["ok"], no["ok"], "{yes} {no}");
}

#[tokio::test]
async fn nobody_but_the_owner_has_that_word() {
    let (door, mut turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    ask(&mut alice, "main", "please", "k").await;
    let id = json!({ "id": inbox(&mut owner).await[0]["id"] });
    for method in ["mesh.inbox.approve", "mesh.inbox.reject", "mesh.inbox.show"] {
        assert_eq!(alice.error(method, id.clone()).await["code"], "FORBIDDEN", "{method}");
        assert_eq!(door.bob().await.error(method, id.clone()).await["code"], "FORBIDDEN", "{method}");
    }
    assert!(turns.try_recv().is_err());
    assert_eq!(inbox(&mut owner).await.len(), 1);
}

#[tokio::test]
async fn what_is_held_holds_up_nobody_else() {
    let (door, mut turns) = door().await;
    let mut alice = door.alice().await;
    ask(&mut alice, "main", "please", "k").await;
    door.bob().await.ok("agent", say("main", "hi", "bobs")).await;
    assert_eq!(turns.recv().await.unwrap().turn.from.principal.key(), "bob");
}

#[tokio::test]
async fn what_is_held_is_not_in_the_history_yet() {
    let (door, _turns) = door().await;
    let mut alice = door.alice().await;
    ask(&mut alice, "main", "please", "k").await;
    let history = alice.ok("chat.history", json!({ "sessionKey": "main" })).await;
    assert_eq!(history["messages"], json!([]));
    let waiting = json!([{ "runId": "k", "state": "queued", "held": true }]);
    assert_eq!(history["pendingInputs"]["items"], waiting);
}

#[tokio::test]
async fn a_sender_can_take_back_what_is_held() {
    let (door, mut turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    let id = ask(&mut alice, "main", "please", "k").await;
    let taken = json!({ "sessionKey": "main", "runId": "k" });
    let abort = alice.request("chat.abort", taken).await;
    assert_eq!(alice.answer(&id).await["payload"]["summary"], "aborted");
    assert_eq!(alice.answer(&abort).await["payload"]["runIds"], json!(["k"]));
    assert!(inbox(&mut owner).await.is_empty() && turns.try_recv().is_err());
}

#[tokio::test]
async fn nobody_takes_back_what_another_has_held() {
    let (door, _turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    ask(&mut alice, "main", "please", "k").await;
    for key in ["main", "agent:main:mesh:alice"] {
        let stopped = door.bob().await.ok("chat.abort", json!({ "sessionKey": key, "runId": "k" })).await;
        assert_eq!(stopped["runIds"], json!([]));
    }
    assert_eq!(inbox(&mut owner).await.len(), 1);
}

#[tokio::test]
async fn a_message_sent_twice_is_held_once() {
    let (door, _turns) = door().await;
    let (mut alice, mut owner) = (door.alice().await, door.owner().await);
    ask(&mut alice, "main", "please", "k").await;
    let again = alice.ok("agent", say("main", "please", "k")).await;
    assert_eq!((&again["status"], &again["held"]), (&json!("in_flight"), &json!(true)));
    assert_eq!(inbox(&mut owner).await.len(), 1);
}

#[tokio::test]
async fn a_flood_of_messages_to_be_held_ends_at_a_limit() {
    let (puppet, _turns) = Puppet::new();
    let door = Door::open(puppet, APPROVE, |config| config.limits.queued_runs_per_device = 5).await;
    let mut alice = door.alice().await;
    for i in 0..5 {
        ask(&mut alice, "main", "please", &format!("k{i}")).await;
    }
    let error = alice.error("agent", say("main", "please", "one-more")).await;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    assert_eq!(inbox(&mut door.owner().await).await.len(), 5);
}

#[tokio::test]
async fn a_sender_who_has_left_does_not_take_his_message_with_him() {
    let (door, mut turns) = door().await;
    let mut alice = door.alice().await;
    ask(&mut alice, "main", "please", "k").await;
    drop(alice);
    let mut owner = door.owner().await;
    let id = json!({ "id": inbox(&mut owner).await[0]["id"] });
    owner.ok("mesh.inbox.approve", id).await;
    turns.recv().await.unwrap().finish.send(Ok("done".into())).unwrap();
    let wait = json!({ "runId": "k", "timeoutMs": 5_000 });
    assert_eq!(door.alice().await.ok("agent.wait", wait).await["terminalReply"]["text"], "done");
}

#[tokio::test]
async fn what_is_held_outlives_the_gateway() {
    let ledger = MemoryLedger::default();
    let with_ledger = |ledger: &MemoryLedger| {
        let ledger = ledger.clone();
        |config: &mut agent_mesh_gateway::Config| config.ledger = Arc::new(ledger)
    };
    let (puppet, _) = Puppet::new();
    let mut door = Door::open(puppet, APPROVE, with_ledger(&ledger)).await;
    ask(&mut door.alice().await, "main", "please", "k").await;
    door.gateway.stop();
    (&mut door.gateway.running).await.unwrap();

    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, APPROVE, with_ledger(&ledger)).await;
    let mut alice = door.alice().await;
    let again = alice.ok("agent", say("main", "please", "k")).await;
    assert_eq!((&again["status"], &again["held"]), (&json!("in_flight"), &json!(true)));
    let mut owner = door.owner().await;
    let id = json!({ "id": inbox(&mut owner).await[0]["id"] });
    owner.ok("mesh.inbox.approve", id).await;
    let turn = turns.recv().await.unwrap().turn;
    assert_eq!((turn.from.principal.key(), &*turn.message), ("alice", "please"));
    assert_eq!(turn.session_key, "agent:main:mesh:alice");
}

#[tokio::test]
async fn a_paused_door_takes_no_new_run_of_a_peer_and_says_why() {
    assault(async |door| {
        let (mut alice, mut owner) = (door.alice().await, door.owner().await);
        alice.turn("main", "before", "k0").await;
        owner.ok("mesh.pause", json!({})).await;
        let error = alice.error("agent", say("main", "hi", "k1")).await;
        assert_eq!((&error["code"], &error["details"]["reason"]), (&json!("UNAVAILABLE"), &json!("paused")));
        assert_eq!(error["retryable"], true);
        assert_eq!(reply(&alice.call("agent", say("main", "before", "k0")).await), "echo: before");
        owner.turn("main", "the owner may", "o").await;
        owner.ok("mesh.resume", json!({})).await;
        alice.turn("main", "hi", "k1").await;
    })
    .await;
}

#[tokio::test]
async fn a_pause_outlives_the_gateway() {
    let ledger = MemoryLedger::default();
    let (one, two) = (ledger.clone(), ledger.clone());
    assault_with(
        "",
        |config| config.ledger = Arc::new(one),
        async |door| {
            door.owner().await.ok("mesh.pause", json!({})).await;
        },
    )
    .await;
    assault_with(
        "",
        |config| config.ledger = Arc::new(two),
        async |door| {
            let error = door.alice().await.error("agent", say("main", "hi", "k")).await;
            assert_eq!(error["details"]["reason"], "paused");
        },
    )
    .await;
}
