//! Frames that are none, before and after the hello.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::door::*;

/// How a door ends a connection after this first text.
async fn first_text(door: &Door, text: &str) -> (u16, String) {
    let mut stranger = door.dial(MALLORY).await;
    stranger.send_text(text).await;
    stranger.close().await
}

/// How Alice's connection answers this text.
async fn said(door: &Door, text: &str) -> serde_json::Value {
    let mut alice = door.alice().await;
    alice.send_text(text).await;
    alice.frame().await.unwrap()
}

#[tokio::test]
async fn a_first_frame_that_is_no_json_ends_it_without_a_word() {
    assault(async |door| assert_eq!(first_text(door, "\u{0}\u{1}junk").await, (1000, String::new()))).await;
}

#[tokio::test]
async fn a_first_frame_cut_in_the_middle_ends_it() {
    assault(async |door| {
        assert_eq!(first_text(door, r#"{"type":"req","id":"1","method":"conn"#).await.0, 1000);
    })
    .await;
}

#[tokio::test]
async fn an_array_of_requests_is_no_frame() {
    assault(async |door| {
        let batch = r#"[{"type":"req","id":"1","method":"health"}]"#;
        assert_eq!(first_text(door, batch).await, (1008, "invalid request frame".into()));
    })
    .await;
}

#[tokio::test]
async fn a_bare_string_is_no_frame() {
    assault(async |door| assert_eq!(first_text(door, r#""connect""#).await.0, 1008)).await;
}

#[tokio::test]
async fn a_stranger_cannot_call_anything_before_he_connects() {
    assault(async |door| {
        let (close, why) = first_text(door, r#"{"type":"req","id":"1","method":"agent","params":{}}"#).await;
        assert_eq!((close, &*why), (1008, "invalid handshake: first request must be connect"));
    })
    .await;
}

#[tokio::test]
async fn a_stranger_cannot_play_the_gateway() {
    assault(async |door| {
        let hello = r#"{"type":"res","id":"1","ok":true,"payload":{"type":"hello-ok"}}"#;
        assert_eq!(first_text(door, hello).await.0, 1008);
    })
    .await;
}

#[tokio::test]
async fn a_stranger_cannot_send_an_event() {
    assault(async |door| {
        let shutdown = r#"{"type":"event","event":"shutdown","payload":{}}"#;
        assert_eq!(first_text(door, shutdown).await.0, 1008);
    })
    .await;
}

#[tokio::test]
async fn a_first_frame_over_64_kib_is_too_big() {
    assault(async |door| {
        let text = format!(r#"{{"type":"req","id":"{}"}}"#, "x".repeat(64 * 1024));
        assert_eq!(first_text(door, &text).await.0, 1009);
    })
    .await;
}

#[tokio::test]
async fn a_deep_first_frame_is_refused_and_not_followed_down() {
    assault(async |door| {
        let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
        let text = format!(r#"{{"type":"req","id":"1","method":"connect","params":{deep}}}"#);
        assert!(matches!(first_text(door, &text).await.0, 1000 | 1008));
    })
    .await;
}

#[tokio::test]
async fn a_connect_with_the_same_field_twice_is_refused() {
    assault(async |door| {
        let text = r#"{"type":"req","id":"1","id":"2","method":"connect","params":{}}"#;
        assert!(matches!(first_text(door, text).await.0, 1000 | 1008));
    })
    .await;
}

#[tokio::test]
async fn a_connect_without_parameters_is_refused() {
    assault(async |door| {
        let (close, why) = first_text(door, r#"{"type":"req","id":"1","method":"connect"}"#).await;
        assert!(close == 1008 && why.starts_with("invalid connect params"), "{close} {why}");
    })
    .await;
}

#[tokio::test]
async fn a_byte_order_mark_is_no_json() {
    assault(async |door| {
        let text = "\u{feff}{\"type\":\"req\",\"id\":\"1\",\"method\":\"health\"}";
        assert_eq!(first_text(door, text).await.0, 1000);
    })
    .await;
}

#[tokio::test]
async fn half_of_a_surrogate_pair_in_an_id_is_no_json() {
    assault(async |door| {
        let text = r#"{"type":"req","id":"\ud800","method":"health"}"#;
        assert!(matches!(first_text(door, text).await.0, 1000 | 1008));
    })
    .await;
}

#[tokio::test]
async fn a_request_without_an_id_is_answered_as_invalid() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"req","method":"health"}"#).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("invalid"), &json!("INVALID_REQUEST")));
    })
    .await;
}

#[tokio::test]
async fn an_empty_id_is_answered_as_invalid() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"req","id":"","method":"health"}"#).await;
        assert_eq!((&answer["id"], &answer["ok"]), (&json!("invalid"), &json!(false)));
    })
    .await;
}

#[tokio::test]
async fn an_id_that_is_a_number_is_answered_as_invalid() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"req","id":7,"method":"health"}"#).await;
        assert_eq!((&answer["id"], &answer["ok"]), (&json!("invalid"), &json!(false)));
    })
    .await;
}

#[tokio::test]
async fn an_id_of_a_megabyte_is_not_echoed() {
    assault(async |door| {
        let id = "x".repeat(1_000_000);
        let answer = said(door, &format!(r#"{{"type":"req","id":"{id}","method":"health"}}"#)).await;
        assert!(answer["id"] == "invalid" && answer.to_string().len() < 2000);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_field_of_a_frame_is_skipped_and_not_echoed() {
    assault(async |door| {
        let field = "y".repeat(100_000);
        let answer = said(door, &format!(r#"{{"type":"req","id":"7","method":"health","{field}":1}}"#)).await;
        assert!(answer["id"] == "7" && answer["ok"] == true && answer.to_string().len() < 2000);
    })
    .await;
}

#[tokio::test]
async fn a_method_that_is_an_object_is_answered_as_invalid() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"req","id":"7","method":{"$ne":""}}"#).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("7"), &json!("INVALID_REQUEST")));
    })
    .await;
}

#[tokio::test]
async fn a_response_from_a_peer_is_answered_as_invalid() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"res","id":"7","ok":true,"payload":{}}"#).await;
        assert_eq!((&answer["id"], &answer["ok"]), (&json!("7"), &json!(false)));
    })
    .await;
}

#[tokio::test]
async fn an_event_from_a_peer_reaches_nobody() {
    assault(async |door| {
        let mut bob = door.bob().await;
        let mut alice = door.alice().await;
        alice.send_text(r#"{"type":"event","event":"chat","payload":{"runId":"x","state":"final"}}"#).await;
        assert_eq!(alice.frame().await.unwrap()["ok"], false);
        hears_nothing(&mut bob, "chat").await;
    })
    .await;
}

#[tokio::test]
async fn junk_after_the_hello_is_ignored_and_costs_nothing_else() {
    assault(async |door| {
        let mut alice = door.alice().await;
        for junk in ["", "{", "\u{0}", "tru"] {
            alice.send_text(junk).await;
        }
        assert_eq!(alice.ok("health", json!({})).await["ok"], true);
    })
    .await;
}

#[tokio::test]
async fn parameters_nested_a_hundred_thousand_deep_are_refused() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let frame = format!(r#"{{"type":"req","id":"7","method":"chat.history","params":{deep}}}"#);
        alice.send_text(&frame).await;
        assert_eq!(alice.answer("7").await["error"]["code"], "INVALID_REQUEST", "never followed down");
    })
    .await;
}

#[tokio::test]
async fn parameters_that_are_a_list_are_refused() {
    assault(async |door| {
        let answer = said(door, r#"{"type":"req","id":"7","method":"agent","params":["x"]}"#).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("7"), &json!("INVALID_REQUEST")));
    })
    .await;
}

#[tokio::test]
async fn binary_junk_after_the_hello_is_ignored() {
    assault(async |door| {
        let mut alice = door.alice().await;
        alice.send_message(Message::Binary(vec![0xff; 4096].into())).await;
        assert_eq!(alice.ok("health", json!({})).await["ok"], true);
    })
    .await;
}

#[tokio::test]
async fn one_id_used_twice_is_answered_twice() {
    assault(async |door| {
        let mut alice = door.alice().await;
        for _ in 0..2 {
            alice.send(&json!({ "type": "req", "id": "same", "method": "health" })).await;
        }
        for _ in 0..2 {
            assert_eq!(alice.answer("same").await["ok"], true);
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_connect_is_refused_and_changes_nothing() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let connect = crate::support::Hello::token(crate::support::TOKEN).scopes(&["operator.admin"]);
        let params = connect.params(&alice.challenge.clone());
        assert_eq!(alice.error("connect", params).await["code"], "INVALID_REQUEST");
        assert_eq!(alice.error("sessions.list", json!({})).await["code"], "FORBIDDEN");
    })
    .await;
}
