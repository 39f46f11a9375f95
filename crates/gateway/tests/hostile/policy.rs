//! The rules of the policy, each at its edge: what is one too much, and what the sender is told then.

use serde_json::json;

use crate::door::*;
use crate::support::*;

#[tokio::test]
async fn a_stranger_to_the_policy_does_not_come_in() {
    let rules = "[default]\nmode = \"deny\"\n[peers.alice]\n";
    assault_on(rules, async |door| {
        let answer = door.knock(&by_device(BOBS), BOB).await;
        assert_eq!((code(&answer), &answer["error"]["code"]), ("POLICY_DENIED", &json!("FORBIDDEN")));
        assert_eq!(answer["error"]["details"]["rule"], "mode");
        door.alice().await;
    })
    .await;
}

#[tokio::test]
async fn an_approved_device_is_a_stranger_to_the_policy_too() {
    let rules = "[default]\nmode = \"deny\"\n[peers.alice]\n";
    assault_on(rules, async |door| {
        let asked = door.knock(&by_device(5), MALLORY).await;
        let request = asked["error"]["details"]["requestId"].clone();
        door.owner().await.ok("device.pair.approve", json!({ "requestId": request })).await;
        assert_eq!(code(&door.knock(&by_device(5), MALLORY).await), "POLICY_DENIED");
    })
    .await;
}

#[tokio::test]
async fn one_who_is_denied_by_name_does_not_come_in_by_his_tag() {
    let rules = "[tags.team]\nmode = \"allow\"\n[peers.alice]\nmode = \"deny\"\n";
    assault_on(rules, async |door| {
        assert_eq!(code(&door.knock(&by_device(ALICES), ALICE).await), "POLICY_DENIED");
        door.bob().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_may_be_as_large_as_it_says_and_not_one_byte_more() {
    assault_on("[peers.alice]\nmessage-bytes = 10", async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "0123456789", "k1").await;
        let error = alice.error("agent", say("main", "0123456789!", "k2")).await;
        assert_eq!((rule(&error), &error["details"]["limit"]), ("message-bytes", &json!(10)));
        assert_eq!((&error["code"], &error["retryable"]), (&json!("FORBIDDEN"), &json!(null)));
    })
    .await;
}

#[tokio::test]
async fn a_messages_size_is_that_of_its_bytes() {
    assault_on("[peers.alice]\nmessage-bytes = 10", async |door| {
        let error = door.alice().await.error("chat.send", say("main", "戴泽戴泽", "k")).await;
        assert_eq!(rule(&error), "message-bytes");
    })
    .await;
}

#[tokio::test]
async fn requests_of_a_minute_are_counted_over_all_connections() {
    assault_on("[peers.alice]\nrequests-per-minute = 4", async |door| {
        let (mut one, mut two) = (door.alice().await, door.alice().await);
        for _ in 0..2 {
            one.ok("health", json!({})).await;
            two.ok("health", json!({})).await;
        }
        let error = one.error("health", json!({})).await;
        assert_eq!((rule(&error), &error["code"]), ("requests-per-minute", &json!("UNAVAILABLE")));
        let wait = error["retryAfterMs"].as_u64().unwrap();
        assert!(wait > 0 && wait <= 15_000 && error["details"]["retryAfterMs"] == wait);
        door.bob().await.ok("health", json!({})).await;
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_refused_count_as_well() {
    assault_on("[peers.alice]\nrequests-per-minute = 3", async |door| {
        let mut alice = door.alice().await;
        for _ in 0..3 {
            assert_eq!(alice.error("config.get", json!({})).await["code"], "FORBIDDEN");
        }
        assert_eq!(rule(&alice.error("config.get", json!({})).await), "requests-per-minute");
    })
    .await;
}

#[tokio::test]
async fn runs_at_a_time_are_counted_over_all_sessions() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "[peers.alice]\nconcurrent-runs = 2", |_| {}).await;
    let mut alice = door.alice().await;
    alice.ok("agent", say("a", "work", "k1")).await;
    alice.ok("agent", say("b", "work", "k2")).await;
    let error = alice.error("agent", say("c", "work", "k3")).await;
    assert_eq!((rule(&error), &error["details"]["limit"]), ("concurrent-runs", &json!(2)));
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    turns.recv().await.unwrap().finish.send(Ok("done".into())).unwrap();
    alice.frame().await;
    alice.ok("agent", say("c", "work", "k3")).await;
}

#[tokio::test]
async fn a_run_that_waits_counts_as_one_at_a_time() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "[peers.alice]\nconcurrent-runs = 2", |_| {}).await;
    let mut alice = door.alice().await;
    for key in ["k1", "k2"] {
        alice.ok("agent", say("one-session", "work", key)).await;
    }
    assert_eq!(rule(&alice.error("agent", say("one-session", "work", "k3")).await), "concurrent-runs");
    let abort = json!({ "sessionKey": "one-session", "runId": "k2" });
    alice.send(&json!({ "type": "req", "id": "abort", "method": "chat.abort", "params": abort })).await;
    while alice.frame().await.unwrap()["id"] != "abort" {}
    alice.ok("agent", say("one-session", "work", "k3")).await;
    turns.recv().await.unwrap();
}

#[tokio::test]
async fn a_known_run_is_answered_though_no_new_one_may_be() {
    assault_on("[peers.alice]\nruns-per-day = 1", async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "hi", "k1").await;
        assert_eq!(rule(&alice.error("agent", say("main", "hi", "k2")).await), "runs-per-day");
        assert_eq!(reply(&alice.call("agent", say("main", "hi", "k1")).await), "echo: hi");
    })
    .await;
}

#[tokio::test]
async fn runs_of_a_day_are_counted_over_both_methods() {
    assault_on("[peers.alice]\nruns-per-day = 2", async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "hi", "k1").await;
        alice.ok("chat.send", say("main", "hi", "k2")).await;
        let error = alice.error("chat.send", say("main", "hi", "k3")).await;
        assert_eq!((rule(&error), &error["details"]["limit"]), ("runs-per-day", &json!(2)));
        assert!(error["retryAfterMs"].as_u64().unwrap() <= 24 * 60 * 60 * 1000);
        door.bob().await.turn("main", "hi", "k1").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_that_is_not_allowed_is_neither_spoken_in_nor_read() {
    assault_on("[peers.alice]\nsessions = [\"main\", \"deploy:*\"]", async |door| {
        let mut alice = door.alice().await;
        for key in ["main", "mesh:alice", "deploy:prod", "mesh:alice:deploy:x"] {
            alice.ok("chat.history", json!({ "sessionKey": key })).await;
        }
        assert_eq!(rule(&alice.error("agent", say("other", "hi", "k")).await), "sessions");
        let read = json!({ "sessionKey": "deploy" });
        assert_eq!(rule(&alice.error("chat.history", read).await), "sessions");
        let hear = json!({ "key": "other" });
        assert_eq!(rule(&alice.error("sessions.messages.subscribe", hear).await), "sessions");
        let stop = json!({ "sessionKey": "other" });
        assert_eq!(rule(&alice.error("chat.abort", stop).await), "sessions");
    })
    .await;
}

#[tokio::test]
async fn a_session_in_capitals_does_not_slip_through() {
    assault_on("[peers.alice]\nsessions = [\"main\"]", async |door| {
        let error = door.alice().await.error("agent", say("OTHER", "hi", "k")).await;
        assert_eq!(rule(&error), "sessions");
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_not_allowed_is_neither_listed_nor_spoken_to() {
    assault_on("[peers.alice]\nagents = [\"helper\"]", async |door| {
        let mut alice = door.alice().await;
        assert_eq!(alice.ok("agents.list", json!({})).await["agents"], json!([]));
        assert_eq!(rule(&alice.error("agent", say("main", "hi", "k")).await), "agents");
        let no_session = json!({ "message": "hi", "idempotencyKey": "k", "agentId": "main" });
        assert_eq!(rule(&alice.error("agent", no_session).await), "agents");
    })
    .await;
}

#[tokio::test]
async fn who_may_not_see_a_reply_grow_sees_it_whole() {
    assault_on("[peers.alice]\nstream = false", async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "a rather long message that is echoed in pieces", "k").await;
        loop {
            let event = alice.event("chat").await;
            assert_ne!(event["payload"]["state"], "delta");
            if event["payload"]["state"] == "final" {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_permission_mode_is_the_owners_to_choose() {
    let (puppet, mut turns) = Puppet::new();
    let rules = "[peers.alice]\npermission-mode = \"full\"";
    let door = Door::open(puppet, rules, |_| {}).await;
    door.alice().await.ok("agent", say("main", "hi", "k")).await;
    assert_eq!(turns.recv().await.unwrap().turn.permission_mode.as_deref(), Some("full"));
    door.bob().await.ok("agent", say("main", "hi", "k")).await;
    assert_eq!(turns.recv().await.unwrap().turn.permission_mode.as_deref(), Some("read-only"));
}

#[tokio::test]
async fn the_owner_is_under_no_rule() {
    let rules = "[default]\nmode = \"deny\"\nmessage-bytes = 1\nruns-per-day = 0\nrequests-per-minute = 0\n";
    assault_on(rules, async |door| {
        let mut owner = door.owner().await;
        assert_eq!(reply(&owner.turn("main", "a long message", "k").await.1), "echo: a long message");
    })
    .await;
}

#[tokio::test]
async fn a_denial_names_no_rule_of_others() {
    let rules = "[peers.alice]\nmessage-bytes = 1\n[peers.bob]\nruns-per-day = 77\n";
    assault_on(rules, async |door| {
        let error = door.alice().await.error("agent", say("main", "hi", "k")).await;
        assert!(!error.to_string().contains("77") && !error.to_string().contains("bob"), "{error}");
    })
    .await;
}
