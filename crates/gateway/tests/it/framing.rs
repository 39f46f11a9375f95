//! What is no proper frame, and what is no proper behaviour.

use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::EchoAgent;
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

#[tokio::test]
async fn a_bad_first_frame_ends_the_connection() {
    let gateway = Fixture::echo().await;
    let connect = |client: &str| {
        format!(
            r#"{{"type":"req","id":"1","method":"connect","params":{{"minProtocol":3,"maxProtocol":4,"client":{client}}}}}"#
        )
    };
    let cases = [
        ("junk".to_owned(), 1000, ""),
        ("{".to_owned(), 1000, ""),
        ("[]".to_owned(), 1008, "invalid request frame"),
        (r#"{"type":"event","event":"x"}"#.to_owned(), 1008, "invalid request frame"),
        (
            r#"{"type":"req","id":"1","method":"health"}"#.to_owned(),
            1008,
            "invalid handshake: first request must be connect",
        ),
        (connect("{}"), 1008, "invalid connect params: missing field `id` at line 1 column 44"),
        (
            connect(r#"{"id":"agent-mesh","mode":"backend","version":"1","platform":"x"}"#),
            1008,
            "invalid connect params: at /client/id: must be equal to one of the allowed values",
        ),
        (
            connect(r#"{"id":"cli","mode":"mesh","version":"1","platform":"x"}"#),
            1008,
            "invalid connect params: at /client/mode: must be equal to one of the allowed values",
        ),
    ];
    for (text, code, reason) in cases {
        let mut client = gateway.dial(LOCAL).await;
        client.send_text(&text).await;
        assert_eq!(client.close().await, (code, reason.to_owned()), "{text}");
    }
}

#[tokio::test]
async fn a_binary_first_frame_is_junk() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.dial(LOCAL).await;
    client.send_message(Message::Binary(vec![0, 159, 146, 150].into())).await;
    assert_eq!(client.close().await.0, 1000);
}

#[tokio::test]
async fn an_unknown_protocol_is_a_mismatch() {
    let gateway = Fixture::echo().await;
    for (min, max, good) in
        [(4, 4, true), (3, 5, true), (1, 99, true), (3, 3, false), (5, 5, false), (5, 4, false)]
    {
        let mut client = gateway.dial(LOCAL).await;
        client
            .send(&json!({ "type": "req", "id": "1", "method": "connect", "params": {
                "minProtocol": min, "maxProtocol": max, "auth": { "token": TOKEN },
                "client": { "id": "cli", "mode": "cli", "version": "1", "platform": "x" },
            }}))
            .await;
        let answer = client.frame().await.unwrap();
        if good {
            assert_eq!(answer["payload"]["protocol"], 4, "{min}-{max}");
            assert_eq!(answer["payload"]["auth"]["scopes"], json!([]), "absent scopes are none");
        } else {
            assert_eq!(answer["error"]["details"]["expectedProtocol"], 4, "{min}-{max}");
            assert_eq!(client.close().await, (1002, "protocol mismatch".to_owned()));
        }
    }
}

#[tokio::test]
async fn a_stranger_may_send_64_kib_and_no_more() {
    let gateway = Fixture::echo().await;
    for size in [64 * 1024 + 1, 1_000_000] {
        let mut client = gateway.dial(BOB).await;
        client.send_text(&"x".repeat(size)).await;
        assert_eq!(client.close().await.0, 1009, "{size}");
    }
    let mut client = gateway.dial(BOB).await;
    client.send_text(&format!("\"{}\"", "x".repeat(64 * 1024 - 2))).await;
    assert_eq!(client.close().await.0, 1008, "as large as it may be, and no frame");
}

#[tokio::test]
async fn an_authenticated_client_may_send_as_much_as_announced() {
    let gateway = Fixture::start(Arc::new(EchoAgent::new()), |config| config.limits.payload = 200_000).await;
    let mut client = gateway.dial(LOCAL).await;
    let hello = client.connect(&Hello::token(TOKEN)).await;
    assert_eq!(hello["payload"]["policy"]["maxPayload"], 200_000);
    let (_, done) = client.turn("main", &"x".repeat(150_000), "k").await;
    assert_eq!(done["payload"]["result"]["payloads"][0]["text"].as_str().unwrap().len(), 150_006);
    client.send_text(&"x".repeat(200_001)).await;
    assert_eq!(client.close().await.0, 1009);
}

/// 20 sockets that may call nothing but `health` held 521 MB with a frame each that never ended.
#[tokio::test]
async fn who_may_not_start_runs_has_nothing_large_to_say() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN);
    for (hello, from) in [(hello.clone(), BOB), (hello.scopes(&["operator.read", "operator.pairing"]), LOCAL)]
    {
        let mut client = gateway.dial(from).await;
        let answer = client.connect(&hello).await;
        assert_eq!(answer["payload"]["policy"]["maxPayload"], 256 * 1024);
        let padded = |size| format!(r#"{{"type":"req","id":"1","method":"health"{}}}"#, " ".repeat(size));
        client.send_text(&padded(256 * 1024 - 50)).await;
        assert_eq!(client.answer("1").await["ok"], true);
        client.send_text(&padded(256 * 1024)).await;
        assert_eq!(client.close().await.0, 1009);
    }
}

#[tokio::test]
async fn large_messages_share_a_budget() {
    let gateway =
        Fixture::start(Arc::new(EchoAgent::new()), |config| config.limits.in_flight_bytes = 500_000).await;
    let (mut one, mut two) = (gateway.owner().await, gateway.owner().await);
    let (_, done) = one.turn("a", &"x".repeat(400_000), "k").await;
    assert_eq!(done["ok"], true);
    two.send_text(&"x".repeat(600_000)).await;
    assert_eq!(two.close().await.0, 1013);
}

#[tokio::test]
async fn the_id_of_a_frame_is_found_without_building_a_tree_and_is_short() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    let deep = format!(r#"{{"type":"req","id":"8","x":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    client.send_text(&deep).await;
    assert_eq!(client.answer("8").await["error"]["code"], "INVALID_REQUEST");
    for frame in [
        json!({ "type": "req", "id": "x".repeat(513), "method": "health" }),
        json!({ "id": "x".repeat(513) }),
    ] {
        client.send(&frame).await;
        assert_eq!(client.answer("invalid").await["error"]["code"], "INVALID_REQUEST");
    }
    let error = client.error("agent.wait", json!({ "runId": { "x".repeat(100_000): 1 } })).await;
    assert!(error["message"].as_str().unwrap().len() < 1000);
    let error = client.error("agent.wait", json!("x".repeat(100_000))).await;
    assert!(error["message"].as_str().unwrap().len() < 1000, "errors quote what they complain about");
}

#[tokio::test(start_paused = true)]
async fn who_never_connects_is_sent_away_after_15_seconds() {
    let gateway = Fixture::echo().await;
    let (mut client, start) = (gateway.dial(LOCAL).await, Instant::now());
    assert_eq!(client.close().await, (1000, String::new()));
    assert_eq!(start.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn frames_after_the_hello_are_forgiven() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.owner().await;
    client.send_text("not json").await;
    client.send_message(Message::Binary(vec![0xff].into())).await;
    let cases = [
        ("[]", "invalid"),
        (r#"{"type":"res","id":"7","ok":true}"#, "7"),
        (r#"{"type":"req","id":"8"}"#, "8"),
        (r#"{"type":"req","id":9,"method":"health"}"#, "invalid"),
        (r#"{"type":"req","id":"","method":"health"}"#, "invalid"),
    ];
    for (text, id) in cases {
        client.send_text(text).await;
        let answer = client.answer(id).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("invalid request frame: "), "{text}: {message}");
    }
    let request = json!({ "type": "req", "id": "b", "method": "health" }).to_string();
    client.send_message(Message::Binary(request.into_bytes().into())).await;
    assert_eq!(client.answer("b").await["ok"], true, "a binary frame may hold JSON");
    assert_eq!(client.error("connect", json!({})).await["code"], "INVALID_REQUEST");
}

#[tokio::test]
async fn an_unknown_method_is_told_to_admins_only() {
    let gateway = Fixture::echo().await;
    let mut admin = gateway.client(&Hello::token(TOKEN).scopes(&["operator.admin"]), LOCAL).await;
    assert_eq!(admin.error("sessions.delete", json!({})).await["message"], "unknown method: sessions.delete");
    assert_eq!(admin.error("", json!({})).await["message"], "unknown method: ");
    let mut owner = gateway.owner().await;
    let error = owner.error("sessions.delete", json!({})).await;
    let details = json!({ "code": "MISSING_SCOPE", "missingScope": "operator.admin", "requiredScopes": ["operator.admin"] });
    assert_eq!((&error["code"], &error["details"]), (&json!("FORBIDDEN"), &details));
}

#[tokio::test(start_paused = true)]
async fn ticks_come_and_are_numbered() {
    let gateway = Fixture::echo().await;
    let (mut client, start) = (gateway.owner().await, Instant::now());
    for (seq, seconds) in [(1, 2), (2, 32), (3, 62)] {
        let tick = client.event("tick").await;
        assert_eq!((&tick["seq"], start.elapsed().as_secs()), (&json!(seq), seconds));
        assert!(tick["payload"]["ts"].is_i64());
    }
}

#[tokio::test(start_paused = true)]
async fn who_answers_no_ping_is_dropped_without_a_close() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN);
    // A client that does not read cannot answer: nothing polls its socket for 75 s.
    let mut silent = gateway.client(&hello, LOCAL).await;
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!(silent.close().await.0, 0);

    // Reading answers pings by itself.
    let mut reader = gateway.client(&hello, LOCAL).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        reader.event("tick").await;
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_dropped() {
    let gateway = Fixture::start(Arc::new(EchoAgent::new()), |config| {
        config.limits.buffered_frames = 8;
    })
    .await;
    let mut client = Client::upgrade(gateway.stream_of(LOCAL, 16 * 1024)).await.unwrap();
    client.connect(&Hello::token(TOKEN)).await;
    for _ in 0..200 {
        client.request("health", json!({})).await;
    }
    assert_eq!(client.close().await, (1008, "slow consumer".to_owned()));
}
