//! Who gets in, and what the door looks like.

use agent_mesh_testkit::{Challenge, FakeGateway, Opening, Refusal, Script};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::peer::{TOKEN, connected, pipe, tcp};

#[tokio::test]
async fn a_device_token_gets_in_and_hello_is_the_recorded_one() {
    let gateway = FakeGateway::start(Script::new().device_token(TOKEN).issues_device_token("fresh")).await;
    let mut peer = tcp(gateway.address()).await.unwrap();
    let hello = peer.hello(|_| {}).await.unwrap();
    let payload = &hello["payload"];
    assert_eq!((&payload["type"], &payload["protocol"]), (&json!("hello-ok"), &json!(4)));
    assert_eq!(payload["auth"]["deviceToken"], "fresh");
    assert_eq!(payload["server"]["bootId"], gateway.boot_id());
    assert!(payload["features"]["methods"].as_array().unwrap().len() > 400);
    assert_eq!(gateway.connections(), 1);
    assert_eq!(gateway.requests("connect")[0]["auth"]["deviceToken"], TOKEN);
}

#[tokio::test]
async fn wrong_and_missing_credentials_have_their_own_codes() {
    let gateway = FakeGateway::in_memory(Script::new().shared_token("shared").device_token(TOKEN));
    for (auth, with_device, code) in [
        (json!({"token": "wrong"}), true, "AUTH_TOKEN_MISMATCH"),
        (json!({"deviceToken": "wrong"}), true, "AUTH_DEVICE_TOKEN_MISMATCH"),
        (json!({"bootstrapToken": "wrong"}), true, "AUTH_BOOTSTRAP_TOKEN_INVALID"),
        (json!({}), true, "AUTH_TOKEN_MISSING"),
        (json!({}), false, "DEVICE_IDENTITY_REQUIRED"),
        (json!({"deviceToken": TOKEN}), false, "DEVICE_IDENTITY_REQUIRED"),
    ] {
        let mut peer = pipe(&gateway).await.unwrap();
        let answer = peer
            .hello(|params| {
                params["auth"] = auth;
                if !with_device {
                    params.as_object_mut().unwrap().remove("device");
                }
            })
            .await
            .unwrap();
        assert_eq!(answer["error"]["details"]["code"], code);
        assert_eq!(peer.close_code().await, Some(1008));
    }
    assert_eq!(gateway.connects(), 6);
}

#[tokio::test]
async fn pairing_waits_for_approval_and_keeps_its_request_id() {
    let gateway =
        FakeGateway::in_memory(Script::new().shared_token("s").pairing_required().issues_device_token(TOKEN));
    let shared = |params: &mut serde_json::Value| params["auth"] = json!({"token": "s"});
    let first = pipe(&gateway).await.unwrap().hello(shared).await.unwrap();
    let again = pipe(&gateway).await.unwrap().hello(shared).await.unwrap();
    assert_eq!(first["error"]["details"]["code"], "PAIRING_REQUIRED");
    assert_eq!(first["error"]["details"]["requestId"], again["error"]["details"]["requestId"]);
    let (request, device) = gateway.pending_pairings().remove(0);
    assert_eq!(device, "d".repeat(64));
    assert!(gateway.approve(&request));
    assert!(!gateway.approve(&request), "only once");
    let hello = pipe(&gateway).await.unwrap().hello(shared).await.unwrap();
    assert_eq!(hello["payload"]["auth"]["deviceToken"], TOKEN);
    connected(&gateway).await;
    // Without a device the same token connects, with no scopes at all.
    let mut bare = pipe(&gateway).await.unwrap();
    let hello = bare
        .hello(|params| {
            shared(params);
            params.as_object_mut().unwrap().remove("device");
        })
        .await
        .unwrap();
    assert_eq!(hello["payload"]["auth"]["scopes"], json!([]));
    assert_eq!(bare.call("status", json!({})).await["details"]["code"], "MISSING_SCOPE");
    assert_eq!(bare.call("health", json!({})).await["ok"], true);
}

#[tokio::test]
async fn protocol_mismatch_has_the_shape_of_each_version() {
    for (spoken, min, max, details) in [
        (3, 4, 4, json!({"expectedProtocol": 3})),
        (
            4,
            3,
            3,
            json!({"code": "PROTOCOL_MISMATCH", "clientMinProtocol": 3, "clientMaxProtocol": 3,
                   "expectedProtocol": 4, "minimumProbeProtocol": 3}),
        ),
    ] {
        let gateway = FakeGateway::in_memory(Script::new().protocol(spoken));
        let mut peer = pipe(&gateway).await.unwrap();
        let range = |params: &mut serde_json::Value| {
            params["minProtocol"] = json!(min);
            params["maxProtocol"] = json!(max);
        };
        let answer = peer.hello(range).await.unwrap();
        assert_eq!(answer["error"]["message"], "protocol mismatch");
        assert_eq!(answer["error"]["details"], details);
        assert_eq!(peer.close_code().await, Some(1002));
    }
}

#[tokio::test]
async fn an_old_gateway_says_less() {
    let gateway = FakeGateway::in_memory(Script::new().protocol(3));
    let mut peer = pipe(&gateway).await.unwrap();
    let hello = peer.hello(|_| {}).await.unwrap();
    assert_eq!(hello["payload"]["protocol"], 3);
    assert!(hello["payload"].get("auth").is_none() && hello["payload"]["server"].get("bootId").is_none());
    assert_eq!(peer.call("no.such", json!({})).await["code"], "INVALID_REQUEST");
    peer.agent("k", "hi").await.unwrap();
    let wait = peer.call("agent.wait", json!({"runId": "k"})).await;
    assert_eq!(wait["status"], "ok");
    assert!(wait.get("terminalReply").is_none());
    let history = peer.call("chat.history", json!({"sessionKey": "mesh:alice"})).await;
    assert!(history["messages"][1]["__openclaw"].get("runId").is_none());
}

#[tokio::test]
async fn schema_nonce_and_time_are_checked() {
    let gateway = FakeGateway::in_memory(Script::new());
    for (pointer, value, expected) in [
        ("/client/id", json!("agent-mesh"), "at /client/id"),
        ("/client/extra", json!(1), "unexpected property 'extra'"),
        ("/surprise", json!(1), "unexpected property 'surprise'"),
        ("/device/nonce", json!("other"), "nonce"),
        ("/device/signedAt", json!(1), "expired"),
        ("/device/signature", json!("short"), "/device/signature"),
        ("/role", json!("king"), "invalid role"),
    ] {
        let mut peer = pipe(&gateway).await.unwrap();
        let answer = peer
            .hello(|params| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                params.pointer_mut(parent).unwrap()[key] = value;
            })
            .await
            .unwrap();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{pointer}: {message}");
        assert_eq!(peer.close_code().await, Some(1008));
    }
}

#[tokio::test]
async fn refusals_can_end() {
    let gateway = FakeGateway::in_memory(Script::new().refuse_first(2, Refusal::starting_up()));
    for _ in 0..2 {
        let answer = pipe(&gateway).await.unwrap().hello(|_| {}).await.unwrap();
        assert_eq!(answer["error"]["details"]["reason"], "startup-sidecars");
    }
    connected(&gateway).await;
}

#[tokio::test]
async fn something_else_than_a_gateway_listens() {
    let html = Opening::Http(200, "text/html".into(), "<html></html>".into());
    let gateway = FakeGateway::start(Script::new().opening(html)).await;
    assert!(matches!(tcp(gateway.address()).await, Err(Error::Http(answer)) if answer.status() == 200));
    let gateway =
        FakeGateway::in_memory(Script::new().opening(Opening::Garbage(b"SSH-2.0-fake\r\n\r\n".to_vec())));
    assert!(pipe(&gateway).await.is_err());
}

#[tokio::test]
async fn the_challenge_can_be_anything() {
    for (challenge, expected) in [
        (Challenge::Text("not json {".into()), Message::text("not json {")),
        (Challenge::Binary(vec![0xff, 0]), Message::binary(vec![0xff, 0])),
    ] {
        let gateway = FakeGateway::in_memory(Script::new().challenge(challenge));
        let mut peer = pipe(&gateway).await.unwrap();
        let first = futures_util::StreamExt::next(&mut peer.ws).await.unwrap().unwrap();
        assert_eq!(first, expected);
    }
}

#[tokio::test]
async fn hello_takes_extra_fields_and_loses_others() {
    let extra = json!({"future": {"a": [1]}, "policy": {"maxPayload": 10}, "snapshot": null});
    let gateway = FakeGateway::in_memory(Script::new().hello_extra(extra));
    let hello = pipe(&gateway).await.unwrap().hello(|_| {}).await.unwrap();
    assert_eq!(hello["payload"]["future"]["a"][0], 1);
    assert_eq!(hello["payload"]["policy"]["maxPayload"], 10);
    assert_eq!(hello["payload"]["policy"]["tickIntervalMs"], 30_000);
    assert!(hello["payload"].get("snapshot").is_none());
}

#[tokio::test]
async fn the_first_frame_must_be_a_small_connect() {
    let gateway = FakeGateway::in_memory(Script::new());
    for (frame, code) in [
        ("{\"type\":\"req\",\"id\":\"1\",\"method\":\"health\"}".to_owned(), 1008),
        ("nonsense".to_owned(), 1000),
        (format!("\"{}\"", "x".repeat(70_000)), 1009),
    ] {
        let mut peer = pipe(&gateway).await.unwrap();
        peer.next().await.unwrap();
        futures_util::SinkExt::send(&mut peer.ws, Message::text(frame)).await.unwrap();
        assert_eq!(peer.close_code().await, Some(code));
    }
}
