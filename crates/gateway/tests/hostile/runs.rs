//! Runs of others, and keys that are used again.

use serde_json::{Value, json};
use tokio::time::Duration;

use crate::door::*;
use crate::support::*;

#[tokio::test]
async fn another_peers_run_looks_as_if_it_had_never_been() {
    assault(async |door| {
        door.bob().await.turn("main", SECRET, "bobs-run").await;
        let mut alice = door.alice().await;
        let theirs = alice.ok("agent.wait", json!({ "runId": "bobs-run", "timeoutMs": 1 })).await;
        let never = alice.ok("agent.wait", json!({ "runId": "never-was", "timeoutMs": 1 })).await;
        assert_eq!((&theirs["status"], &never["status"]), (&json!("timeout"), &json!("timeout")));
        let keys = |answer: &Value| answer.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&theirs), keys(&never));
    })
    .await;
}

#[tokio::test]
async fn the_owners_run_looks_as_if_it_had_never_been() {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        let wait = json!({ "runId": "owners-main", "timeoutMs": 1 });
        let answer = door.alice().await.ok("agent.wait", wait).await;
        assert!(answer["status"] == "timeout" && answer["terminalReply"].is_null());
    })
    .await;
}

#[tokio::test]
async fn another_peers_key_gives_its_own_reply_and_not_his() {
    assault(async |door| {
        door.bob().await.turn("main", SECRET, "one-key").await;
        let (ack, done) = door.alice().await.turn("main", "mine", "one-key").await;
        assert_eq!((&ack["payload"]["status"], reply(&done)), (&json!("accepted"), "echo: mine"));
    })
    .await;
}

#[tokio::test]
async fn the_owners_key_gives_its_own_reply_and_not_his() {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        let (_, done) = door.alice().await.turn("main", "mine", "owners-main").await;
        assert_eq!(reply(&done), "echo: mine");
    })
    .await;
}

#[tokio::test]
async fn a_run_of_another_under_way_is_not_found_by_its_key() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    door.bob().await.ok("agent", say("main", SECRET, "one-key")).await;
    turns.recv().await.unwrap();
    let ack = door.alice().await.ok("agent", say("main", "mine", "one-key")).await;
    assert_eq!(ack["status"], "accepted", "not in_flight");
}

#[tokio::test]
async fn another_peers_run_cannot_be_stopped() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    door.bob().await.ok("agent", say("main", "work", "bobs-run")).await;
    let held = turns.recv().await.unwrap();
    let mut alice = door.alice().await;
    for key in ["main", "agent:main:mesh:bob", "mesh:bob"] {
        let stop = json!({ "sessionKey": key, "runId": "bobs-run" });
        assert_eq!(alice.ok("chat.abort", stop).await["runIds"], json!([]), "{key}");
    }
    assert!(!held.turn.cancel.is_cancelled());
}

#[tokio::test]
async fn the_owners_run_in_a_peers_session_is_not_the_peers_to_stop() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    let mut owner = door.owner().await;
    owner.ok("agent", say("agent:main:mesh:alice", "work", "owners-run")).await;
    let held = turns.recv().await.unwrap();
    let stopped = door.alice().await.ok("chat.abort", json!({ "sessionKey": "main" })).await;
    assert_eq!(stopped["runIds"], json!([]));
    assert!(!held.turn.cancel.is_cancelled());
}

#[tokio::test]
async fn a_run_that_came_before_is_never_run_again() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    let mut alice = door.alice().await;
    alice.ok("agent", say("main", "pay 5", "k")).await;
    turns.recv().await.unwrap().finish.send(Ok("paid".into())).unwrap();
    alice.frame().await;
    for _ in 0..5 {
        let again = alice.call("agent", say("main", "pay 5", "k")).await;
        assert_eq!(reply(&again), "paid");
    }
    assert!(turns.try_recv().is_err());
}

#[tokio::test]
async fn a_chat_key_with_other_words_is_a_conflict() {
    assault(async |door| {
        let mut alice = door.alice().await;
        alice.ok("chat.send", say("main", "one", "k")).await;
        let error = alice.error("chat.send", say("main", "two", "k")).await;
        assert_eq!(error["details"]["reason"], "chat-request-conflict");
    })
    .await;
}

#[tokio::test]
async fn a_key_of_control_characters_is_refused() {
    assault(async |door| {
        let error = door.alice().await.error("agent", say("main", "hi", "a\u{1b}[31m")).await;
        assert_eq!(error["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn a_key_of_a_thousand_characters_is_refused() {
    assault(async |door| {
        let error = door.alice().await.error("agent", say("main", "hi", &"k".repeat(1000))).await;
        assert_eq!(error["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn a_run_id_that_is_a_path_is_only_a_text() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    door.alice().await.ok("agent", say("main", "hi", "../../etc/passwd")).await;
    assert_eq!(turns.recv().await.unwrap().turn.run_id, "../../etc/passwd");
}

#[tokio::test]
async fn an_empty_message_runs_nothing() {
    assault(async |door| {
        let mut alice = door.alice().await;
        assert_eq!(alice.error("agent", say("main", "", "k")).await["code"], "INVALID_REQUEST");
        assert_eq!(alice.error("chat.send", say("main", " \n ", "k")).await["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn a_nul_in_a_chat_message_is_refused() {
    assault(async |door| {
        let error = door.alice().await.error("chat.send", say("main", "a\u{0}b", "k")).await;
        assert_eq!(error["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn attachments_are_refused_and_not_dropped() {
    assault(async |door| {
        let mut params = say("main", "look", "k");
        params["attachments"] = json!([{ "type": "file", "fileName": "../../x", "content": "AAAA" }]);
        let error = door.alice().await.error("agent", params).await;
        assert!(error["message"].as_str().unwrap().contains("attachments"));
    })
    .await;
}

#[tokio::test]
async fn a_wait_for_ever_ends() {
    assault_with(
        "",
        |config| config.timing.run = Duration::from_millis(50),
        async |door| {
            let wait = json!({ "runId": "never-was", "timeoutMs": u64::MAX });
            assert_eq!(door.alice().await.ok("agent.wait", wait).await["status"], "timeout");
        },
    )
    .await;
}

#[tokio::test]
async fn a_wait_below_nothing_is_refused() {
    assault(async |door| {
        let wait = json!({ "runId": "x", "timeoutMs": -1 });
        assert_eq!(door.alice().await.error("agent.wait", wait).await["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_waits_at_once_are_too_many() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let mut last = String::new();
        for _ in 0..65 {
            last = alice.request("agent.wait", json!({ "runId": "never-was", "timeoutMs": 60_000 })).await;
        }
        let answer = alice.answer(&last).await;
        assert_eq!(answer["error"]["details"]["reason"], "too-many-requests");
        assert_eq!(alice.ok("health", json!({})).await["ok"], true);
    })
    .await;
}

#[tokio::test]
async fn a_run_cannot_be_made_longer_than_the_door_allows() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |config| config.timing.run = Duration::from_millis(50)).await;
    let mut alice = door.alice().await;
    let mut params = say("main", "work", "k");
    params["timeout"] = json!(u64::from(u32::MAX));
    let id = alice.request("agent", params).await;
    alice.answer(&id).await;
    let _never_finished = turns.recv().await.unwrap();
    assert_eq!(alice.answer(&id).await["payload"]["status"], "timeout");
}

#[tokio::test]
async fn one_peer_leaves_slots_to_another() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "[peers.alice]\nconcurrent-runs = 100", |_| {}).await;
    let mut alice = door.alice().await;
    for i in 0..20 {
        alice.ok("agent", say(&format!("s{i}"), "work", &format!("k{i}"))).await;
    }
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(turns.recv().await.unwrap());
    }
    door.bob().await.ok("agent", say("main", "hi", "bobs")).await;
    assert_eq!(turns.recv().await.unwrap().turn.from.principal.key(), "bob");
}
