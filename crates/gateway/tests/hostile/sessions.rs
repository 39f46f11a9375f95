//! Sessions of others, by every name that might lead there.

use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

/// That whatever Alice reads under this key, it is nothing of the owner's or Bob's.
async fn leads_nowhere(key: &str) {
    assault(async |door| {
        let _owner = door.with_secrets().await;
        let mut bob = door.bob().await;
        bob.turn("main", SECRET, "bobs-run").await;
        let answer = door.alice().await.call("chat.history", json!({ "sessionKey": key })).await;
        keeps_quiet(&answer);
        assert!(answer["ok"] == false || answer["payload"]["messages"] == json!([]), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn main_is_not_the_owners_main() {
    leads_nowhere("main").await;
}

#[tokio::test]
async fn the_owners_main_by_its_full_name_is_not_there() {
    leads_nowhere("agent:main:main").await;
}

#[tokio::test]
async fn another_session_of_the_owners_is_not_there() {
    leads_nowhere("private").await;
}

#[tokio::test]
async fn bobs_session_is_not_there() {
    leads_nowhere("agent:main:mesh:bob").await;
}

#[tokio::test]
async fn bobs_session_in_capitals_is_not_there() {
    leads_nowhere("AGENT:MAIN:MESH:BOB").await;
}

#[tokio::test]
async fn no_way_leads_up_and_over() {
    leads_nowhere("agent:main:mesh:alice:../bob").await;
}

#[tokio::test]
async fn no_colons_lead_out() {
    leads_nowhere("agent:main:mesh:alice:::agent:main:mesh:bob").await;
}

#[tokio::test]
async fn an_escaped_colon_is_no_colon() {
    leads_nowhere("agent%3Amain%3Amesh%3Abob").await;
}

#[tokio::test]
async fn a_nul_does_not_end_a_key() {
    leads_nowhere("agent:main:mesh:bob\u{0}").await;
}

#[tokio::test]
async fn a_star_is_no_pattern() {
    leads_nowhere("agent:main:*").await;
}

#[tokio::test]
async fn a_letter_that_looks_like_another_is_another() {
    leads_nowhere("agent:main:mesh:b\u{43e}b").await;
}

#[tokio::test]
async fn a_letter_that_becomes_two_in_lower_case_leads_nowhere() {
    leads_nowhere("agent:main:mesh:\u{130}bob").await;
}

#[tokio::test]
async fn the_global_session_is_not_there() {
    leads_nowhere("global").await;
}

#[tokio::test]
async fn sessions_of_timers_are_not_there() {
    leads_nowhere("agent:main:cron:daily").await;
}

#[tokio::test]
async fn another_agent_is_not_there() {
    leads_nowhere("agent:other:main").await;
}

#[tokio::test]
async fn a_key_of_a_thousand_characters_is_refused() {
    assault(async |door| {
        let key = "x".repeat(1000);
        let error = door.alice().await.error("chat.history", json!({ "sessionKey": key })).await;
        assert!(error["code"] == "INVALID_REQUEST" && error.to_string().len() < 500);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_no_text_is_refused() {
    assault(async |door| {
        for key in [json!(7), json!({ "$ne": "" }), json!(["main"]), Value::Null] {
            let error = door.alice().await.error("chat.history", json!({ "sessionKey": key })).await;
            assert_eq!(error["code"], "INVALID_REQUEST");
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_of_history_has_an_end_however_much_is_asked() {
    assault(async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "hi", "k").await;
        let most = json!({ "sessionKey": "main", "limit": u32::MAX, "maxChars": u32::MAX });
        assert_eq!(alice.ok("chat.history", most).await["totalMessages"], 2);
        let below = json!({ "sessionKey": "main", "limit": -1 });
        assert_eq!(alice.error("chat.history", below).await["code"], "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn what_a_peer_is_told_has_the_names_that_he_knows() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let (ack, _) = alice.turn("main", "hi", "k").await;
        assert_eq!(ack["payload"]["sessionKey"], "agent:main:main");
        let history = alice.ok("chat.history", json!({ "sessionKey": "main" })).await;
        assert_eq!(history["sessionKey"], "agent:main:main");
        assert_eq!(alice.event("chat").await["payload"]["sessionKey"], "agent:main:main");
    })
    .await;
}

#[tokio::test]
async fn the_same_name_is_another_session_for_each() {
    assault(async |door| {
        let (mut alice, mut bob) = (door.alice().await, door.bob().await);
        alice.turn("plans", "alices words", "k").await;
        bob.turn("plans", "bobs words", "k").await;
        let history = bob.ok("chat.history", json!({ "sessionKey": "plans" })).await.to_string();
        assert!(history.contains("bobs words") && !history.contains("alices words"));
    })
    .await;
}

#[tokio::test]
async fn a_subscription_to_the_owners_session_hears_nothing() {
    assault(async |door| {
        let mut alice = door.enter(&by_device(ALICES).scoped(), ALICE).await;
        for key in ["main", "agent:main:private", "agent:main:mesh:bob"] {
            alice.ok("sessions.messages.subscribe", json!({ "key": key })).await;
        }
        let _owner = door.with_secrets().await;
        door.bob().await.turn("main", SECRET, "bobs").await;
        hears_nothing(&mut alice, "chat").await;
    })
    .await;
}

#[tokio::test]
async fn without_the_cap_a_peer_hears_nothing_of_others_either() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let _owner = door.with_secrets().await;
        door.bob().await.turn("main", SECRET, "bobs").await;
        hears_nothing(&mut alice, "chat").await;
    })
    .await;
}

#[tokio::test]
async fn nobody_is_told_of_devices_that_ask() {
    assault(async |door| {
        let mut alice = door.alice().await;
        door.knock(&by_device(STRANGE), MALLORY).await;
        hears_nothing(&mut alice, "device.pair.requested").await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_subscribes_to_so_many_sessions_and_no_more() {
    assault_with(
        "",
        |config| config.limits.subscriptions = 10,
        async |door| {
            let mut alice = door.alice().await;
            for i in 0..10 {
                alice.ok("sessions.messages.subscribe", json!({ "key": format!("s{i}") })).await;
            }
            let error = alice.error("sessions.messages.subscribe", json!({ "key": "one more" })).await;
            assert_eq!(error["code"], "INVALID_REQUEST");
        },
    )
    .await;
}

#[tokio::test]
async fn a_member_whose_key_has_a_colon_gets_into_no_other_session() {
    let (puppet, mut turns) = Puppet::new();
    let access = |rules: &str| {
        let mut access = access(rules);
        let evil = agent_mesh_gateway::Member {
            key: "alice:deploy".into(),
            device_id: Some(device_id(STRANGE)),
            ..Default::default()
        };
        access.roster = agent_mesh_gateway::Roster::new([evil]);
        access
    };
    let door = Door::open(puppet, "", |config| config.access = access("")).await;
    door.enter(&by_device(STRANGE), MALLORY).await.ok("agent", say("main", "hi", "k")).await;
    assert_eq!(turns.recv().await.unwrap().turn.session_key, "agent:main:mesh:alice%3adeploy");
}
