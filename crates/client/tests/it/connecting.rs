//! Everything that can go wrong before hello, each with an error of its own.

use agent_mesh_testkit::{Challenge, FakeGateway, Opening, Refusal, Script};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use futures_util::{SinkExt, StreamExt};
use openclaw_client::protocol::error::Fault;
use openclaw_client::protocol::methods::info::GatewayIdentityGet;
use openclaw_client::{ConnectError, Link, Step, Trace};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

use crate::caller::{Key, TOKEN, access, ask, connect, connect_to, within};

/// The error of a connection that must fail.
async fn refused(script: Script) -> ConnectError {
    let gateway = FakeGateway::in_memory(script);
    let started = Instant::now();
    let error = connect(&gateway, within(30)).await.err().expect("an error");
    assert!(started.elapsed() <= Duration::from_secs(30), "{error}");
    error
}

#[tokio::test(start_paused = true)]
async fn the_signature_covers_what_was_sent() {
    let gateway = FakeGateway::in_memory(Script::new().device_token(TOKEN));
    let client = connect(&gateway, within(5)).await.unwrap();
    assert!(client.hello().auth.as_ref().unwrap().allows("operator.write"));
    let sent = gateway.requests("connect").remove(0);
    let text = |pointer: &str| sent.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    // Built from the frame on the wire, by the rule in protocol.md 1.6, not by our code.
    let payload = format!(
        "v3|{}|gateway-client|backend|operator|operator.read,operator.write|{}|{TOKEN}|{}|agent-mesh|",
        text("/device/id"),
        sent["device"]["signedAt"],
        text("/device/nonce"),
    );
    let bytes = |pointer: &str| URL_SAFE_NO_PAD.decode(text(pointer)).unwrap();
    let key = VerifyingKey::try_from(bytes("/device/publicKey").as_slice()).unwrap();
    let signature = Signature::from_slice(&bytes("/device/signature")).unwrap();
    key.verify_strict(payload.as_bytes(), &signature).unwrap();
    assert_eq!(sent["caps"], json!(["session-scoped-events"]));
    assert!(sent["client"].get("deviceFamily").is_none());
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_their_meaning() {
    let id = "d".repeat(64);
    for (refusal, fault) in [
        (Refusal::token_mismatch(), Fault::TokenMismatch),
        (Refusal::token_missing(), Fault::TokenMissing),
        (Refusal::device_token_mismatch(), Fault::DeviceTokenMismatch),
        (Refusal::bootstrap_token_invalid(), Fault::BootstrapTokenInvalid),
        (Refusal::device_identity_required(), Fault::DeviceIdentityRequired),
        (Refusal::scope_mismatch(), Fault::ScopeMismatch),
        (Refusal::rate_limited(), Fault::RateLimited { retry_after_ms: Some(299_993) }),
        (Refusal::signature_invalid(), Fault::DeviceAuth("DEVICE_AUTH_SIGNATURE_INVALID".into())),
        (
            Refusal::pairing_required("request-9", &id, "not-paired"),
            Fault::PairingRequired {
                request_id: Some("request-9".into()),
                reason: Some("not-paired".into()),
            },
        ),
        (
            Refusal::starting_up(),
            Fault::Unavailable { reason: Some("startup-sidecars".into()), retry_after_ms: Some(500) },
        ),
    ] {
        let error = refused(Script::new().refuse(refusal)).await;
        assert_eq!(error.step(), Step::Auth);
        assert!(
            matches!(&error, ConnectError::Refused(shape) if shape.fault() == fault),
            "{fault:?}: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_is_tried_once() {
    let gateway = FakeGateway::in_memory(Script::new().device_token("another"));
    assert!(connect(&gateway, within(5)).await.is_err());
    assert_eq!(gateway.connects(), 1, "ten failures would lock the address out");
}

#[tokio::test(start_paused = true)]
async fn other_protocol_versions() {
    for (spoken, expected) in [(2, 2), (5, 5)] {
        let error = refused(Script::new().protocol(spoken)).await;
        let fault = Fault::ProtocolMismatch { expected: Some(expected) };
        assert!(matches!(&error, ConnectError::Refused(shape) if shape.fault() == fault), "{error:?}");
    }
    let gateway = FakeGateway::in_memory(Script::new().protocol(3));
    let client = connect(&gateway, within(5)).await.unwrap();
    assert_eq!((client.hello().protocol, &client.hello().auth), (3, &None));
    ask(&client, "k", "hi", within(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_gateway_at_the_other_end() {
    let garbage = Opening::Garbage(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec());
    let error = refused(Script::new().opening(garbage)).await;
    assert!(matches!(error, ConnectError::NotAGateway { step: Step::Ws, .. }), "{error:?}");
    for status in [200, 403, 404, 503] {
        let html = Opening::Http(status, "text/html".into(), "<html>hello</html>".into());
        let error = refused(Script::new().opening(html)).await;
        assert!(matches!(error, ConnectError::Http(seen) if seen == status), "{error:?}");
    }
    for challenge in [
        Challenge::Text("not json {".into()),
        Challenge::Text(String::new()),
        Challenge::Text("[]".into()),
        Challenge::Text(r#"{"type":"event","event":"connect.challenge"}"#.into()),
        Challenge::Text(
            r#"{"type":"event","event":"connect.challenge","payload":{"nonce":7,"ts":"x"}}"#.into(),
        ),
        Challenge::Text(r#"{"type":"req","id":"1","method":"connect"}"#.into()),
        Challenge::Binary(vec![0xff, 0xfe, 0]),
    ] {
        let shown = format!("{challenge:?}");
        let error = refused(Script::new().challenge(challenge)).await;
        let step = Step::Challenge;
        assert!(
            matches!(&error, ConnectError::NotAGateway { step: s, .. } if *s == step),
            "{shown}: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_challenges_runs_into_the_deadline() {
    for challenge in [
        Challenge::Absent,
        Challenge::Text(r#"{"type":"event","event":"something.else","payload":{}}"#.into()),
    ] {
        let started = Instant::now();
        let error = refused(Script::new().challenge(challenge)).await;
        assert!(matches!(error, ConnectError::Deadline(Step::Challenge)), "{error:?}");
        assert_eq!(started.elapsed().as_secs(), 30);
    }
}

#[tokio::test(start_paused = true)]
async fn hello_with_unknown_fields_and_without_known_ones() {
    let extra = json!({"future": [1, {"a": null}], "auth": {"level": 9}, "server": {"bootId": null},
                       "features": null, "snapshot": null, "policy": null});
    let gateway = FakeGateway::in_memory(Script::new().hello_extra(extra));
    let client = connect(&gateway, within(5)).await.unwrap();
    assert_eq!(client.hello().server.boot_id, None);
    assert_eq!(client.hello().policy.tick_interval_ms, 30_000, "the default");
    ask(&client, "k", "hi", within(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_makes_no_sense() {
    for extra in [json!({"protocol": "four"}), json!({"policy": {"maxPayload": -1}}), json!({"auth": "none"})]
    {
        let error = refused(Script::new().hello_extra(extra.clone())).await;
        assert!(matches!(error, ConnectError::NotAGateway { step: Step::Auth, .. }), "{extra}: {error:?}");
    }
}

#[tokio::test]
async fn over_tcp_too() {
    let gateway = FakeGateway::start(Script::new().issues_device_token("fresh")).await;
    let client = connect_to(&gateway.url(), within(5)).await.unwrap();
    assert_eq!(client.hello().auth.as_ref().unwrap().device_token.as_deref(), Some("fresh"));
    client.close().await;
    gateway.until(|gateway| gateway.open_connections() == 0).await;
    let url = gateway.url();
    drop(gateway);
    let error = connect_to(&url, within(5)).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tcp { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_leaves_together_with_the_connect_frame_and_is_answered() {
    let (ours, theirs) = tokio::io::duplex(65_536);
    let gateway = tokio::spawn(async move {
        let mut socket = tokio_tungstenite::accept_async(theirs).await.unwrap();
        let challenge = json!({ "nonce": "n", "ts": 1 });
        let challenge = json!({ "type": "event", "event": "connect.challenge", "payload": challenge });
        socket.send(Message::text(challenge.to_string())).await.unwrap();
        // Both are read before either is answered: who waits for the hello before it asks waits for ever.
        let mut frames = Vec::new();
        while frames.len() < 2 {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
            frames.push(serde_json::from_str::<Value>(&text).unwrap());
        }
        let hello = json!({ "type": "hello-ok", "protocol": 4, "server": { "version": "1", "connId": "c" } });
        for (frame, payload) in frames.iter().zip([hello, json!({ "deviceId": "d", "publicKey": "p" })]) {
            let answer = json!({ "type": "res", "id": frame["id"], "ok": true, "payload": payload });
            socket.send(Message::text(answer.to_string())).await.unwrap();
        }
        (frames, socket)
    });
    let (mut trace, deadline) = (Trace::default(), within(30));
    let link = Link::over(ours, deadline, &mut trace).await.unwrap();
    let challenged = link.challenge(deadline, &mut trace).await.unwrap();
    let key = Key::new();
    let asking =
        challenged.authenticate_asking(access(), Some(&key), &GatewayIdentityGet {}, deadline, &mut trace);
    let (client, asked) = asking.await.unwrap();
    assert_eq!(asked.answer(deadline).await.unwrap().device_id, "d");
    let (frames, _socket) = gateway.await.unwrap();
    let methods: Vec<_> = frames.iter().map(|frame| frame["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["connect", "gateway.identity.get"]);
    client.close().await;
}
