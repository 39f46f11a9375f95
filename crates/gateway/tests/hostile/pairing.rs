//! Strangers that ask to be let in, once or a thousand times.

use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

async fn pending(door: &Door) -> Vec<Value> {
    let listed = door.owner().await.ok("device.pair.list", json!({})).await;
    listed["pending"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_stranger_asks_without_any_token() {
    assault(async |door| {
        let answer = door.knock(&by_device(STRANGE), MALLORY).await;
        assert_eq!((code(&answer), &answer["error"]["code"]), ("PAIRING_REQUIRED", &json!("NOT_PAIRED")));
        assert_eq!(pending(door).await[0]["deviceId"], device_id(STRANGE));
    })
    .await;
}

#[tokio::test]
async fn a_stranger_through_a_tunnel_asks_as_well_and_is_nobody() {
    assault(async |door| {
        assert_eq!(code(&door.knock(&by_device(STRANGE), LOCAL).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_askings_of_one_device_are_one_request() {
    assault(async |door| {
        let mut ids = Vec::new();
        for _ in 0..30 {
            ids.push(door.knock(&by_device(STRANGE), MALLORY).await["error"]["details"]["requestId"].clone());
        }
        ids.dedup();
        assert_eq!((ids.len(), pending(door).await.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn many_devices_of_one_address_push_out_each_other_and_nobody_else() {
    assault(async |door| {
        door.knock(&by_device(5), BOB).await;
        for seed in 100..120 {
            door.knock(&by_device(seed), MALLORY).await;
        }
        let rows = pending(door).await;
        let from = |ip: &str| rows.iter().filter(|row| row["remoteIp"] == ip).count();
        assert_eq!((from("10.0.0.2"), from("10.0.0.66")), (1, 8));
    })
    .await;
}

#[tokio::test]
async fn many_devices_of_many_addresses_end_at_a_limit() {
    assault_with(
        "",
        |config| config.limits.pending_devices = 4,
        async |door| {
            for seed in 100..104 {
                door.knock(&by_device(seed), &format!("10.1.0.{seed}:1")).await;
            }
            let answer = door.knock(&by_device(120), "10.1.0.120:1").await;
            assert_eq!(
                (&answer["error"]["code"], &answer["error"]["retryable"]),
                (&json!("UNAVAILABLE"), &json!(true))
            );
            door.alice().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_request_for_everything_is_one_for_messaging() {
    assault(async |door| {
        let greedy = by_device(STRANGE).scopes(&["operator.admin", "operator.read", "operator.pairing"]);
        door.knock(&greedy, MALLORY).await;
        assert_eq!(pending(door).await[0]["scopes"], json!(["operator.read"]));
    })
    .await;
}

#[tokio::test]
async fn what_the_owner_was_shown_is_what_he_approves() {
    assault(async |door| {
        let modest = by_device(STRANGE).scopes(&["operator.read"]);
        let shown = door.knock(&modest, MALLORY).await["error"]["details"]["requestId"].clone();
        door.knock(&by_device(STRANGE), MALLORY).await;
        let mut owner = door.owner().await;
        let error = owner.error("device.pair.approve", json!({ "requestId": shown })).await;
        assert_eq!(error["message"], "unknown requestId", "it asks for more now, under another id");
    })
    .await;
}

#[tokio::test]
async fn an_approved_device_that_changes_its_platform_asks_anew() {
    assault(async |door| {
        let token = door.gateway.pair(5, &RW).await;
        let hello = Hello::device_token(&token).device(5).platform("another");
        let answer = door.knock(&hello, BOB).await;
        assert_eq!(answer["error"]["details"]["reason"], "metadata-upgrade");
    })
    .await;
}

#[tokio::test]
async fn a_member_is_not_among_those_who_wait() {
    assault(async |door| {
        door.alice().await;
        assert!(pending(door).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_request_tells_the_stranger_nothing_of_the_team() {
    assault(async |door| {
        let text = door.knock(&by_device(STRANGE), MALLORY).await.to_string();
        for word in ["alice", "ALICE", "bob", &device_id(ALICES), "9.9"] {
            assert!(!text.contains(word), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_was_thrown_out_is_out_at_once_and_has_to_ask() {
    assault(async |door| {
        let token = door.gateway.pair(5, &RW).await;
        let mut inside = door.enter(&Hello::device_token(&token).device(5), BOB).await;
        let mut owner = door.owner().await;
        owner.ok("device.pair.remove", json!({ "deviceId": device_id(5) })).await;
        assert_eq!(inside.close().await, (4001, "device removed".into()));
        assert_eq!(code(&door.knock(&by_device(5), BOB).await), "PAIRING_REQUIRED");
    })
    .await;
}
