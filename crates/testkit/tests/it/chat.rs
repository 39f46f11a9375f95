//! `chat.send` in a busy session: whose answer is it?

use agent_mesh_testkit::{FakeGateway, Gate, Reply, Script};
use serde_json::{Value, json};
use tokio::io::DuplexStream;

use crate::peer::{Peer, connected, send_params};

async fn two_sends(mode: Option<&str>) -> (FakeGateway, Peer<DuplexStream>, Gate, Value) {
    let gate = Gate::new();
    let held = gate.clone();
    let gateway = FakeGateway::in_memory(
        Script::new().reply(move |turn| Reply::text(format!("re {}", turn.message)).when(&held)),
    );
    let mut peer = connected(&gateway).await;
    assert_eq!(peer.call("chat.send", send_params("x", "a", "A")).await["status"], "started");
    gateway.until(|gateway| gateway.ledger().total() == 1).await;
    let mut second = send_params("x", "b", "B");
    if let Some(mode) = mode {
        second["queueMode"] = json!(mode);
    }
    let ack = peer.call("chat.send", second).await;
    (gateway, peer, gate, ack)
}

async fn wait(peer: &mut Peer<DuplexStream>, run: &str) -> Value {
    peer.call("agent.wait", json!({"runId": run, "timeoutMs": 5000})).await
}

#[tokio::test]
async fn by_default_the_second_send_is_merged_and_the_first_gets_its_answer() {
    let (gateway, mut peer, gate, ack) = two_sends(None).await;
    assert_eq!(ack["status"], "started");
    gate.open();
    let a = wait(&mut peer, "a").await;
    assert_eq!(a["terminalReply"]["text"], "re B", "the answer to the *second* send");
    let b = wait(&mut peer, "b").await;
    assert_eq!(b["status"], "ok");
    assert!(b.get("terminalReply").is_none());
    let history = peer.call("chat.history", json!({"sessionKey": "x"})).await;
    let rows: Vec<&Value> = history["messages"].as_array().unwrap().iter().collect();
    assert_eq!(rows[2]["idempotencyKey"], "b:user");
    assert_eq!(rows[3]["content"][0]["text"], "re B");
    assert_eq!(rows[3]["__openclaw"]["runId"], "a");
    assert!(gateway.ledger().repeated().is_empty());
}

#[tokio::test]
async fn followup_answers_under_a_run_nobody_knows() {
    let (gateway, mut peer, gate, _) = two_sends(Some("followup")).await;
    assert_eq!(wait(&mut peer, "b").await["status"], "pending");
    gate.open();
    assert_eq!(wait(&mut peer, "a").await["terminalReply"]["text"], "re A");
    gateway.until(|gateway| gateway.ledger().runs_of_key("b") == 1).await;
    let b = wait(&mut peer, "b").await;
    assert!(b.get("terminalReply").is_none(), "{b}");
    let history = peer.call("chat.history", json!({"sessionKey": "x"})).await;
    assert_eq!(history["messages"][3]["content"][0]["text"], "re B");
    assert_ne!(history["messages"][3]["__openclaw"]["runId"], "b");
}

#[tokio::test]
async fn collect_loses_the_key() {
    let (gateway, mut peer, gate, _) = two_sends(Some("collect")).await;
    gate.open();
    gateway.until(|gateway| gateway.ledger().total() == 2).await;
    let history = peer.call("chat.history", json!({"sessionKey": "x"})).await;
    let row = &history["messages"][2];
    assert!(row["content"].as_str().unwrap().starts_with("[Queued messages while agent was busy]"));
    assert!(row.get("idempotencyKey").is_none());
}

#[tokio::test]
async fn interrupt_aborts_the_first() {
    let (_gateway, mut peer, gate, ack) = two_sends(Some("interrupt")).await;
    assert_eq!(ack["interruptedActiveRun"], true);
    gate.open();
    assert_eq!(wait(&mut peer, "a").await["status"], "error");
    assert_eq!(wait(&mut peer, "b").await["terminalReply"]["text"], "re B");
}

#[tokio::test]
async fn the_same_key_again() {
    let (_gateway, mut peer, gate, _) = two_sends(None).await;
    assert_eq!(peer.call("chat.send", send_params("x", "a", "A")).await["status"], "in_flight");
    let conflict = peer.call("chat.send", send_params("x", "a", "other")).await;
    assert_eq!(conflict["details"]["reason"], "chat-request-conflict");
    gate.open();
    wait(&mut peer, "a").await;
    assert_eq!(peer.call("chat.send", send_params("x", "a", "A")).await["status"], "ok");
}

#[tokio::test]
async fn long_texts_are_cut_in_wait_and_history_but_not_in_the_message() {
    let long = "ä".repeat(10_000);
    let text = long.clone();
    let gateway = FakeGateway::in_memory(Script::new().reply(move |_| Reply::text(&text)));
    let mut peer = connected(&gateway).await;
    peer.agent("k", "hi").await.unwrap();
    let waited = wait(&mut peer, "k").await;
    assert_eq!(waited["terminalReply"]["text"].as_str().unwrap().chars().count(), 4096);
    let session = json!({"sessionKey": "mesh:alice"});
    let row = peer.call("chat.history", session).await["messages"][1].take();
    assert_eq!(row["__openclaw"]["truncated"], true);
    let id = json!({"sessionKey": "mesh:alice", "messageId": row["__openclaw"]["id"]});
    let whole = peer.call("chat.message.get", id).await;
    assert_eq!(whole["message"]["content"][0]["text"], long);
    let paged = peer.call("chat.history", json!({"sessionKey": "mesh:alice", "limit": 1, "offset": 1})).await;
    assert_eq!((&paged["messages"][0]["role"], &paged["hasMore"]), (&json!("user"), &json!(false)));
}
