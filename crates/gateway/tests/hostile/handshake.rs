//! Connects that say too much, too little, or what nobody may say.

use serde_json::{Value, json};
use tokio::time::Duration;

use crate::door::*;
use crate::support::*;

/// How a connect of Carol ends whose parameters were changed.
async fn bent(door: &Door, bend: impl FnOnce(&mut Value)) -> (Value, u16, String) {
    let mut carol = door.dial(CAROL).await;
    let mut params = Hello::token(CAROLS_TOKEN).params(&carol.challenge.clone());
    bend(&mut params);
    carol.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
    let answer = carol.frame().await.unwrap_or_default();
    let (close, why) = carol.close().await;
    (answer, close, why)
}

async fn refused(door: &Door, bend: impl FnOnce(&mut Value)) -> String {
    let (_, close, why) = bent(door, bend).await;
    assert_eq!(close, 1008, "{why}");
    why
}

#[tokio::test]
async fn a_client_of_an_unknown_kind_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["client"]["id"] = json!("evil-client")).await;
        assert!(why.contains("/client/id"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_mode_of_an_unknown_kind_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["client"]["mode"] = json!("root")).await;
        assert!(why.contains("/client/mode"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn nobody_comes_in_as_a_node() {
    assault(async |door| assert_eq!(refused(door, |p| p["role"] = json!("node")).await, "invalid role"))
        .await;
}

#[tokio::test]
async fn nobody_comes_in_as_the_gateway() {
    assault(async |door| assert_eq!(refused(door, |p| p["role"] = json!("gateway")).await, "invalid role"))
        .await;
}

#[tokio::test]
async fn an_unknown_field_of_a_connect_makes_nobody_more() {
    assault(async |door| {
        let hello = Hello::token(CAROLS_TOKEN).spoil(|p| {
            p["isOwner"] = json!(true);
            p["principal"] = json!("owner");
        });
        let mut carol = door.enter(&hello, CAROL).await;
        assert_eq!(carol.error("sessions.list", json!({})).await["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn an_unknown_field_of_the_credentials_makes_nobody_more() {
    assault(async |door| {
        let hello = Hello::token(CAROLS_TOKEN).spoil(|p| p["auth"]["ownerToken"] = json!(TOKEN));
        let mut carol = door.enter(&hello, CAROL).await;
        assert_eq!(carol.error("device.pair.list", json!({})).await["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn a_name_of_a_thousand_characters_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["client"]["displayName"] = json!("x".repeat(1000))).await;
        assert!(why.contains("/client/displayName"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_version_of_a_thousand_characters_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["client"]["version"] = json!("9".repeat(1000))).await;
        assert!(why.contains("/client/version"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_scopes_are_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["scopes"] = json!(vec!["operator.read"; 1000])).await;
        assert!(why.contains("/scopes"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_scope_of_a_thousand_characters_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["scopes"] = json!(["x".repeat(1000)])).await;
        assert!(why.contains("/scopes"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_caps_are_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["caps"] = json!(vec!["x"; 1000])).await;
        assert!(why.contains("/caps"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn scopes_that_look_like_the_owners_give_nothing() {
    assault(async |door| {
        let asked =
            ["operator.*", "OPERATOR.ADMIN", "operator.admin ", "operator", "*", "operator.\u{430}dmin"];
        let mut carol = door.enter(&Hello::token(CAROLS_TOKEN).scopes(&asked), CAROL).await;
        assert_eq!(carol.error("chat.history", json!({ "sessionKey": "main" })).await["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn a_protocol_of_the_future_is_a_mismatch() {
    assault(async |door| {
        let (answer, close, _) = bent(door, |p| {
            p["minProtocol"] = json!(5);
            p["maxProtocol"] = json!(u64::from(u32::MAX));
        })
        .await;
        assert_eq!((code(&answer), close), ("PROTOCOL_MISMATCH", 1002));
    })
    .await;
}

#[tokio::test]
async fn a_protocol_below_zero_is_refused() {
    assault(async |door| {
        let why = refused(door, |p| p["minProtocol"] = json!(-1)).await;
        assert!(why.starts_with("invalid connect params"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn a_web_page_cannot_come_in_with_a_stolen_token() {
    assault(async |door| {
        let fields = "Origin: https://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut socket = crate::http::upgraded(door, CAROL, fields).await;
        let answer = socket.connect(&Hello::token(CAROLS_TOKEN)).await;
        assert_eq!(code(&answer), "CONTROL_UI_ORIGIN_NOT_ALLOWED");
    })
    .await;
}

#[tokio::test]
async fn who_never_connects_is_dropped() {
    assault_with(
        "",
        |config| config.timing.connect = Duration::from_millis(100),
        async |door| {
            let mut idle = door.dial(MALLORY).await;
            assert_eq!(idle.close().await, (1000, String::new()));
        },
    )
    .await;
}

#[tokio::test]
async fn pings_do_not_make_a_stranger_stay() {
    assault_with(
        "",
        |config| config.timing.connect = Duration::from_millis(200),
        async |door| {
            let mut idle = door.dial(MALLORY).await;
            let ping = || tokio_tungstenite::tungstenite::Message::Ping(vec![1].into());
            for _ in 0..50 {
                idle.send_message(ping()).await;
            }
            assert_eq!(idle.close().await.0, 1000);
        },
    )
    .await;
}

#[tokio::test]
async fn too_many_sockets_that_never_connect_are_turned_away_and_others_are_not() {
    assault(async |door| {
        let mut idle = Vec::new();
        for _ in 0..32 {
            idle.push(door.dial(MALLORY).await);
        }
        let one_more = crate::support::Client::upgrade(door.tcp(MALLORY).await).await;
        assert!(one_more.is_err(), "the 33rd");
        door.alice().await;
    })
    .await;
}

#[tokio::test]
async fn one_member_cannot_take_all_connections() {
    assault_with(
        "",
        |config| config.limits.connections_per_device = 3,
        async |door| {
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(door.carol().await);
            }
            let answer = door.knock(&Hello::token(CAROLS_TOKEN), "10.0.0.77:1").await;
            assert_eq!(answer["error"]["details"]["reason"], "too-many-connections");
            door.alice().await;
        },
    )
    .await;
}
