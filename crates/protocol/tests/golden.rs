//! Every frame recorded from the real gateway decodes, and what we read of it survives being written again.
// A frame that does not decode is what these tests look for: panicking is how they say so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openclaw_protocol::connect::{Challenge, ConnectParams, Hello, HelloOk};
use openclaw_protocol::event::{AgentEvent, ChatEvent, ChatState, PairResolved, Shutdown, Tick};
use openclaw_protocol::methods::{agent, chat, device, info, sessions};
use openclaw_protocol::{ErrorShape, Fault, Frame};
use serde::{Serialize, de::DeserializeOwned};

/// All recorded frames of one side, by file name without its ending.
fn recorded(side: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(side);
    let mut frames: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    frames.sort();
    assert!(!frames.is_empty());
    frames
}

fn one(side: &str, name: &str) -> String {
    recorded(side).into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {side}/{name}.json")).1
}

/// Reads a typed value, writes it, reads it again: nothing we understand may be lost or change its shape.
fn round_trip<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(name: &str, raw: &str) -> T {
    let value: T = serde_json::from_str(raw).unwrap_or_else(|e| panic!("{name}: {e}"));
    let again: T = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
    assert_eq!(value, again, "{name}");
    value
}

#[test]
fn every_server_frame_decodes_into_its_type() {
    for (name, text) in recorded("server") {
        let frame = Frame::decode(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let payload = match &frame {
            Frame::Event(event) => event.payload,
            Frame::Response(response) => {
                assert_eq!(response.ok, response.error.is_none(), "{name}");
                response.payload
            }
            other => panic!("{name}: {other:?}"),
        };
        decode_payload(&name, payload.map_or("null", |raw| raw.get()));
    }
}

fn decode_payload(name: &str, raw: &str) {
    match name {
        "connect-challenge" => drop(round_trip::<Challenge>(name, raw)),
        "event-tick" => drop(round_trip::<Tick>(name, raw)),
        "event-shutdown" => drop(round_trip::<Shutdown>(name, raw)),
        "event-device-pair-requested" => drop(round_trip::<device::PendingDevice>(name, raw)),
        "event-device-pair-resolved" | "event-device-pair-rejected" => {
            drop(round_trip::<PairResolved>(name, raw));
        }
        "res-agent-accepted" | "res-agent-in-flight" => drop(round_trip::<agent::AgentAck>(name, raw)),
        "res-agents-list" => drop(round_trip::<info::Agents>(name, raw)),
        "res-chat-abort" => drop(round_trip::<chat::ChatAborted>(name, raw)),
        "res-chat-history" => drop(round_trip::<chat::History>(name, raw)),
        "res-chat-send-started" => drop(round_trip::<chat::ChatSendAck>(name, raw)),
        "res-device-pair-approve" => drop(round_trip::<device::Approved>(name, raw)),
        "res-device-pair-list" | "res-device-pair-list-pending" => {
            drop(round_trip::<device::Pairings>(name, raw));
        }
        "res-device-pair-setup-code" => drop(round_trip::<device::MintedSetupCode>(name, raw)),
        "res-gateway-identity" => drop(round_trip::<info::GatewayIdentity>(name, raw)),
        "res-health" => drop(round_trip::<info::HealthReport>(name, raw)),
        _ if name.starts_with("hello-ok") => drop(round_trip::<HelloOk>(name, raw)),
        _ if name.starts_with("event-chat") => drop(round_trip::<ChatEvent>(name, raw)),
        _ if name.starts_with("event-agent") => drop(round_trip::<AgentEvent>(name, raw)),
        _ if name.starts_with("res-agent-wait") => drop(round_trip::<agent::AgentWaited>(name, raw)),
        _ if name.starts_with("res-agent") => drop(round_trip::<agent::AgentDone>(name, raw)),
        // Events and answers we do not read; decoding the frame is what they show.
        "event-health"
        | "event-task"
        | "event-session-message"
        | "res-status"
        | "res-sessions-list"
        | "res-sessions-messages-subscribe"
        | "res-device-pair-reject" => {}
        _ if name.starts_with("res-error") => {}
        _ => panic!("{name}: no type is named for this recording"),
    }
}

#[test]
fn every_client_frame_decodes_into_its_type() {
    for (name, text) in recorded("client") {
        let Ok(Frame::Request(request)) = Frame::decode(&text) else { panic!("{name}: not a request") };
        let raw = request.params.map_or("null", |raw| raw.get());
        match &*request.method {
            "connect" => drop(round_trip::<ConnectParams>(&name, raw)),
            "agent" => drop(round_trip::<agent::Agent>(&name, raw)),
            "agent.wait" => drop(round_trip::<agent::AgentWait>(&name, raw)),
            "chat.send" => drop(round_trip::<chat::ChatSend>(&name, raw)),
            "chat.history" => drop(round_trip::<chat::ChatHistory>(&name, raw)),
            "chat.abort" => drop(round_trip::<chat::ChatAbort>(&name, raw)),
            "device.pair.approve" => drop(round_trip::<device::PairApprove>(&name, raw)),
            "device.pair.setupCode" => drop(round_trip::<device::MintSetupCode>(&name, raw)),
            "device.pair.reject" => drop(round_trip::<device::PairReject>(&name, raw)),
            "sessions.messages.subscribe" => drop(round_trip::<sessions::MessagesSubscribe>(&name, raw)),
            "device.pair.list" | "agents.list" | "gateway.identity.get" | "sessions.list" | "status" => {}
            method => panic!("{name}: no type is named for {method}"),
        }
    }
}

#[test]
fn every_recorded_refusal_means_what_it_should() {
    let fault = |name: &str| {
        let text = one("server", name);
        let Ok(Frame::Response(response)) = Frame::decode(&text) else { panic!("{name}: not a response") };
        response.error.map(|e: ErrorShape| e.fault()).unwrap()
    };
    assert_eq!(fault("res-error-token-mismatch"), Fault::TokenMismatch);
    assert_eq!(fault("res-error-token-missing"), Fault::TokenMissing);
    assert_eq!(fault("res-error-device-token-mismatch"), Fault::DeviceTokenMismatch);
    assert_eq!(fault("res-error-bootstrap-token-invalid"), Fault::BootstrapTokenInvalid);
    assert!(matches!(
        fault("res-error-pairing-required-code"),
        Fault::PairingRequired { request_id: Some(_), .. }
    ));
    assert_eq!(fault("res-error-device-identity-required"), Fault::DeviceIdentityRequired);
    assert_eq!(fault("res-error-scope-mismatch"), Fault::ScopeMismatch);
    assert_eq!(fault("res-error-protocol-mismatch"), Fault::ProtocolMismatch { expected: Some(4) });
    assert_eq!(fault("res-error-invalid-connect-params"), Fault::Other);
    assert!(matches!(fault("res-error-missing-scope"), Fault::MissingScope(Some(_))));
    assert!(matches!(fault("res-error-signature-invalid"), Fault::DeviceAuth(_)));
    assert!(matches!(
        fault("res-error-pairing-required"),
        Fault::PairingRequired { request_id: Some(_), reason: Some(reason) } if reason == "not-paired"
    ));
    assert!(matches!(
        fault("res-error-restarting"),
        Fault::Unavailable { reason: Some(reason), retry_after_ms: Some(_) } if reason == "gateway-restarting"
    ));
}

#[test]
fn the_recorded_runs_end_as_they_did() {
    let outcome = |name: &str| {
        let text = one("server", name);
        let Ok(Frame::Response(response)) = Frame::decode(&text) else { panic!("{name}: not a response") };
        serde_json::from_str::<agent::AgentDone>(response.payload.unwrap().get()).unwrap().outcome()
    };
    assert!(matches!(outcome("res-agent-final"), agent::Outcome::Reply(text) if text.contains("nonce-")));
    assert!(matches!(outcome("res-agent-cached"), agent::Outcome::Reply(_)));
    assert_eq!(outcome("res-agent-aborted"), agent::Outcome::Aborted);
    assert_eq!(outcome("res-agent-timeout"), agent::Outcome::RunTimeout);
    assert!(matches!(outcome("res-agent-final-error"), agent::Outcome::Failed(_)));
}

#[test]
fn a_setup_code_holds_what_a_device_needs() {
    let text = one("server", "res-device-pair-setup-code");
    let Ok(Frame::Response(response)) = Frame::decode(&text) else { panic!("not a response") };
    let minted: device::MintedSetupCode = serde_json::from_str(response.payload.unwrap().get()).unwrap();
    let json = URL_SAFE_NO_PAD.decode(&minted.setup_code).unwrap();
    let code: device::SetupCode = serde_json::from_slice(&json).unwrap();
    assert_eq!((&code.url, code.expires_at_ms), (&minted.gateway_url, minted.expires_at_ms));
    assert_eq!((code.bootstrap_token.len(), minted.access.as_deref()), (43, Some("limited")));
}

#[test]
fn a_caller_reads_little_of_a_hello() {
    let text = one("server", "hello-ok");
    let Ok(Frame::Response(response)) = Frame::decode(&text) else { panic!("not a response") };
    let hello: Hello = serde_json::from_str(response.payload.unwrap().get()).unwrap();
    assert_eq!(hello.protocol, 4);
    assert_eq!(hello.server.version, "2026.9.6");
    assert!(hello.auth.unwrap().allows("operator.write"));
    assert_eq!(hello.policy.max_payload, openclaw_protocol::MAX_PAYLOAD);
}

#[test]
fn streamed_text_adds_up() {
    let text = one("server", "event-chat-delta");
    let Ok(Frame::Event(event)) = Frame::decode(&text) else { panic!("not an event") };
    let chat: ChatEvent = serde_json::from_str(event.payload.unwrap().get()).unwrap();
    assert_eq!(chat.state, ChatState::Delta);
    assert!(chat.message.unwrap().text().ends_with(&chat.delta_text.unwrap()));
}
