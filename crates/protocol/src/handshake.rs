//! Both halves of the handshake as state machines: text in, text out; no socket, clock or key.
//!
//! ```text
//! client                         server
//!   AwaitChallenge   <- connect.challenge -   ServerHandshake::challenge
//!   answer()         -      connect      ->   read_connect(), check_device()
//!   AwaitHello       <-  hello-ok | error -   hello() | refuse()
//! ```

use crate::connect::{
    Auth, Challenge, ClientInfo, ConnectParams, DeviceProof, Hello, HelloOk, signature_payload,
};
use crate::error::ErrorShape;
use crate::frame::{Frame, encode_event, encode_request, encode_response};
use crate::{MAX_PROTOCOL, MIN_PROTOCOL};

/// The id of the connect request: the first on every connection.
const CONNECT_ID: &str = "connect";
/// How far a device's `signedAt` may be from the gateway's clock, in milliseconds.
const SIGNATURE_WINDOW_MS: u64 = 120_000;
/// WebSocket close code for a policy violation: how a gateway ends a refused connect.
pub const CLOSE_POLICY: u16 = 1008;
/// WebSocket close code for a protocol error: how a gateway ends a version mismatch.
pub const CLOSE_PROTOCOL: u16 = 1002;

/// A device key, seen from here: something with a name that can sign.
pub trait DeviceSigner: Sync {
    /// Lowercase hex SHA-256 of the raw public key.
    fn id(&self) -> &str;
    /// The raw public key, base64url without padding.
    fn public_key(&self) -> &str;
    /// An Ed25519 signature of `message`, base64url without padding.
    fn sign(&self, message: &[u8]) -> String;
}

/// What a server needs to check a [`DeviceProof`].
pub trait DeviceVerifier {
    /// The device id of a base64url public key; none if it does not decode.
    fn device_id(&self, public_key: &str) -> Option<String>;
    /// Whether `signature` over `message` was made with the key.
    fn verify(&self, public_key: &str, message: &[u8], signature: &str) -> bool;
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Who is calling.
    pub client: ClientInfo,
    /// The rights asked for.
    pub scopes: Vec<String>,
    /// Optional behaviours.
    pub caps: Vec<String>,
    /// The credential.
    pub auth: Option<Auth>,
    /// Free text for logs.
    pub user_agent: Option<String>,
}

/// How a handshake ends badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer does not speak this protocol.
    #[error("not an OpenClaw gateway: {0}")]
    NotAGateway(String),
    /// The gateway said no.
    #[error("the gateway refused the connection: {0}")]
    Refused(ErrorShape),
}

/// The client before the challenge came.
#[derive(Debug, Default)]
pub struct AwaitChallenge;

impl AwaitChallenge {
    /// Looks at one frame; `None` means: not yet.
    ///
    /// # Errors
    /// When the frame shows that no gateway is at the other end, or that it refuses us outright.
    pub fn read(&self, text: &str) -> Result<Option<Challenge>, HandshakeError> {
        let frame = Frame::decode(text).map_err(|e| HandshakeError::NotAGateway(e.to_string()))?;
        match frame {
            Frame::Event(event) if event.name == "connect.challenge" => {
                let payload = event.payload.map_or("null", |raw| raw.get());
                serde_json::from_str(payload)
                    .map(Some)
                    .map_err(|e| HandshakeError::NotAGateway(format!("bad challenge: {e}")))
            }
            Frame::Response(response) => Err(refusal(response.error)),
            Frame::Event(_) | Frame::Unknown => Ok(None),
            Frame::Request(_) => Err(HandshakeError::NotAGateway("it sent a request".to_owned())),
        }
    }
}

/// The client after it sent its `connect`.
#[derive(Debug)]
pub struct AwaitHello;

/// Answers a challenge: the `connect` frame to send, and what to do with the frames that follow.
///
/// # Errors
/// When the frame cannot be written as JSON; it always can.
pub fn answer(
    challenge: &Challenge,
    offer: Offer,
    device: Option<&dyn DeviceSigner>,
) -> Result<(String, AwaitHello), serde_json::Error> {
    let mut params = ConnectParams {
        min_protocol: MIN_PROTOCOL,
        max_protocol: MAX_PROTOCOL,
        client: offer.client,
        role: "operator".to_owned(),
        scopes: offer.scopes,
        caps: offer.caps,
        auth: offer.auth,
        user_agent: offer.user_agent,
        device: None,
    };
    params.device = device.map(|device| {
        let payload = signature_payload("v3", &params, device.id(), challenge.ts, &challenge.nonce);
        DeviceProof {
            id: device.id().to_owned(),
            public_key: device.public_key().to_owned(),
            signature: device.sign(payload.as_bytes()),
            signed_at: challenge.ts,
            nonce: challenge.nonce.clone(),
        }
    });
    Ok((encode_request(CONNECT_ID, "connect", &params)?, AwaitHello))
}

impl AwaitHello {
    /// Looks at one frame; `None` means: not yet.
    ///
    /// # Errors
    /// When the gateway refuses, or answers something that is not a `hello-ok`.
    pub fn read(&self, text: &str) -> Result<Option<Hello>, HandshakeError> {
        let frame = Frame::decode(text).map_err(|e| HandshakeError::NotAGateway(e.to_string()))?;
        let Frame::Response(response) = frame else { return Ok(None) };
        // A schema error is answered with the id `invalid` when the gateway could not read ours.
        if !response.ok {
            return Err(refusal(response.error));
        }
        if response.id != CONNECT_ID {
            return Ok(None);
        }
        let payload = response.payload.map_or("null", |raw| raw.get());
        let hello: Hello = serde_json::from_str(payload)
            .map_err(|e| HandshakeError::NotAGateway(format!("bad hello: {e}")))?;
        if !(MIN_PROTOCOL..=MAX_PROTOCOL).contains(&hello.protocol) {
            let what = format!("it answered in protocol {}, which we did not offer", hello.protocol);
            return Err(HandshakeError::NotAGateway(what));
        }
        Ok(Some(hello))
    }
}

fn refusal(error: Option<ErrorShape>) -> HandshakeError {
    HandshakeError::Refused(error.unwrap_or_else(|| ErrorShape::new("UNKNOWN", "refused without a reason")))
}

/// A connect that will not be: what to send, and how to close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The last frame; none when even the request could not be read.
    pub frame: Option<String>,
    /// The WebSocket close code.
    pub close_code: u16,
    /// The WebSocket close reason, at most 123 bytes.
    pub reason: String,
}

impl Rejection {
    /// Refuses the request `id` with an error.
    #[must_use]
    pub fn new(id: &str, error: &ErrorShape) -> Self {
        let mismatch = matches!(error.fault(), crate::Fault::ProtocolMismatch { .. });
        Self {
            frame: encode_response::<()>(id, None, Some(error)).ok(),
            close_code: if mismatch { CLOSE_PROTOCOL } else { CLOSE_POLICY },
            reason: close_reason(&error.message),
        }
    }
}

/// A close reason that fits a control frame (123 bytes), cut at a character.
#[must_use]
pub fn close_reason(message: &str) -> String {
    let end = (0..=message.len().min(123)).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
    message[..end].to_owned()
}

/// The server's half, for one connection.
#[derive(Debug)]
pub struct ServerHandshake {
    challenge: Challenge,
}

/// A `connect` request that could be read and whose protocol range fits.
#[derive(Debug)]
pub struct Connect {
    /// The request's id, to answer it.
    pub id: String,
    /// What the client asks for.
    pub params: ConnectParams,
}

impl ServerHandshake {
    /// Starts with a fresh nonce and the server's clock in milliseconds.
    #[must_use]
    pub fn new(nonce: String, now_ms: i64) -> Self {
        Self { challenge: Challenge { nonce, ts: now_ms } }
    }

    /// The frame to send first.
    ///
    /// # Errors
    /// When it cannot be written as JSON; it always can.
    pub fn challenge(&self) -> Result<String, serde_json::Error> {
        encode_event("connect.challenge", &self.challenge, None)
    }

    /// Reads the client's first frame.
    ///
    /// # Errors
    /// With what to send and how to close, when it is not a fitting `connect`.
    pub fn read_connect(&self, text: &str) -> Result<Connect, Rejection> {
        let request = match Frame::decode(text) {
            Ok(Frame::Request(request)) => request,
            Ok(_) => {
                let reason = "invalid request frame".to_owned();
                return Err(Rejection { frame: None, close_code: CLOSE_POLICY, reason });
            }
            Err(_) => return Err(Rejection { frame: None, close_code: 1000, reason: String::new() }),
        };
        let reject = |error: ErrorShape| Rejection::new(&request.id, &error);
        if request.method != "connect" {
            return Err(reject(ErrorShape::invalid("invalid handshake: first request must be connect")));
        }
        let params: ConnectParams = serde_json::from_str(request.params.map_or("null", |raw| raw.get()))
            .map_err(|e| reject(ErrorShape::invalid(format!("invalid connect params: {e}"))))?;
        if params.min_protocol > MAX_PROTOCOL || params.max_protocol < MAX_PROTOCOL {
            return Err(reject(protocol_mismatch(&params)));
        }
        Ok(Connect { id: request.id.into_owned(), params })
    }

    /// Checks the device's proof, if there is one: nonce, time, id, signature. Gives the device id.
    ///
    /// # Errors
    /// In the words of the real gateway.
    pub fn check_device(
        &self,
        params: &ConnectParams,
        now_ms: i64,
        verifier: &dyn DeviceVerifier,
    ) -> Result<Option<String>, ErrorShape> {
        let Some(proof) = &params.device else { return Ok(None) };
        let fault = |message: &str, code: &str, reason: &str| {
            Err(ErrorShape::invalid(message)
                .with_details(serde_json::json!({ "code": code, "reason": reason })))
        };
        if verifier.device_id(&proof.public_key).as_deref() != Some(&proof.id) {
            return fault("device identity mismatch", "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch");
        }
        if now_ms.abs_diff(proof.signed_at) > SIGNATURE_WINDOW_MS {
            return fault(
                "device signature expired",
                "DEVICE_AUTH_SIGNATURE_EXPIRED",
                "device-signature-stale",
            );
        }
        if proof.nonce.trim().is_empty() {
            return fault("device nonce required", "DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing");
        }
        if proof.nonce != self.challenge.nonce {
            return fault("device nonce mismatch", "DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch");
        }
        let signed = ["v3", "v2"].into_iter().any(|version| {
            let payload = signature_payload(version, params, &proof.id, proof.signed_at, &proof.nonce);
            verifier.verify(&proof.public_key, payload.as_bytes(), &proof.signature)
        });
        if !signed {
            return fault("device signature invalid", "DEVICE_AUTH_SIGNATURE_INVALID", "device-signature");
        }
        Ok(Some(proof.id.clone()))
    }

    /// The frame that accepts the connection.
    ///
    /// # Errors
    /// When it cannot be written as JSON; it always can.
    pub fn hello(&self, connect: &Connect, hello: &HelloOk) -> Result<String, serde_json::Error> {
        encode_response(&connect.id, Some(hello), None)
    }
}

fn protocol_mismatch(params: &ConnectParams) -> ErrorShape {
    ErrorShape::invalid("protocol mismatch").with_details(serde_json::json!({
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": params.min_protocol,
        "clientMaxProtocol": params.max_protocol,
        "expectedProtocol": MAX_PROTOCOL,
    }))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use ed25519_dalek::{Signer, SigningKey, Verifier, VerifyingKey};

    use super::*;

    /// The vector of `protocol.md` 1.6: seed bytes 00..1f.
    struct TestKey(SigningKey);
    const PUBLIC: &str = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg";
    const ID: &str = "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c";

    impl TestKey {
        fn vector() -> Self {
            Self(SigningKey::from_bytes(&std::array::from_fn(|i| u8::try_from(i).unwrap())))
        }
    }
    impl DeviceSigner for TestKey {
        fn id(&self) -> &str {
            ID
        }
        fn public_key(&self) -> &str {
            PUBLIC
        }
        fn sign(&self, message: &[u8]) -> String {
            URL_SAFE_NO_PAD.encode(self.0.sign(message).to_bytes())
        }
    }
    struct TestVerifier;
    impl DeviceVerifier for TestVerifier {
        fn device_id(&self, public_key: &str) -> Option<String> {
            (public_key == PUBLIC).then(|| ID.to_owned())
        }
        fn verify(&self, public_key: &str, message: &[u8], signature: &str) -> bool {
            let raw: [u8; 32] = URL_SAFE_NO_PAD.decode(public_key).unwrap().try_into().unwrap();
            let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
            let Ok(signature) = ed25519_dalek::Signature::from_slice(&signature) else { return false };
            VerifyingKey::from_bytes(&raw).unwrap().verify(message, &signature).is_ok()
        }
    }

    fn offer(token: &str) -> Offer {
        Offer {
            client: ClientInfo {
                id: "gateway-client".into(),
                mode: "backend".into(),
                version: "0.1.0".into(),
                platform: "Agent-Mesh".into(),
                display_name: None,
                device_family: None,
            },
            scopes: vec!["operator.read".into(), "operator.write".into()],
            caps: vec![],
            auth: Some(Auth { token: Some(token.into()), ..Auth::default() }),
            user_agent: None,
        }
    }

    fn params_of(text: &str) -> ConnectParams {
        let Ok(Frame::Request(request)) = Frame::decode(text) else { panic!("not a request") };
        serde_json::from_str(request.params.unwrap().get()).unwrap()
    }

    #[test]
    fn the_signature_is_the_one_the_real_gateway_wants() {
        let challenge =
            Challenge { nonce: "00000000-0000-4000-8000-000000000000".into(), ts: 1_700_000_000_000 };
        let (frame, _) = answer(&challenge, offer("tok-example"), Some(&TestKey::vector())).unwrap();
        let device = params_of(&frame).device.unwrap();
        assert_eq!(
            device.signature,
            "zZMux0tYSi5KC6iNyzinq0OUsMX9yGRp63YdJrdR6xSAdO1HzaXVEOnMiW_0HfIhFb6MhSwPxw5puLsLlH1xBQ"
        );
        assert_eq!(device.signed_at, challenge.ts, "the gateway's clock is signed, not ours");
    }

    fn both_halves(
        change: impl FnOnce(&mut ConnectParams),
        now_ms: i64,
    ) -> Result<Option<String>, ErrorShape> {
        let server = ServerHandshake::new("nonce-1".into(), 1_000_000);
        let challenge = AwaitChallenge.read(&server.challenge().unwrap()).unwrap().unwrap();
        let (frame, _) = answer(&challenge, offer("t"), Some(&TestKey::vector())).unwrap();
        let mut connect = server.read_connect(&frame).unwrap();
        change(&mut connect.params);
        server.check_device(&connect.params, now_ms, &TestVerifier)
    }

    #[test]
    fn an_honest_device_is_recognised() {
        assert_eq!(both_halves(|_| (), 1_000_000), Ok(Some(ID.to_owned())));
    }

    #[test]
    fn each_fault_of_a_proof_has_its_code() {
        type Change = fn(&mut ConnectParams);
        let cases: [(&str, Change); 7] = [
            ("DEVICE_AUTH_SIGNATURE_INVALID", |p| p.scopes.reverse()),
            ("DEVICE_AUTH_SIGNATURE_INVALID", |p| p.auth = None),
            ("DEVICE_AUTH_SIGNATURE_EXPIRED", |p| p.device.as_mut().unwrap().signed_at -= 125_000),
            ("DEVICE_AUTH_SIGNATURE_EXPIRED", |p| p.device.as_mut().unwrap().signed_at = i64::MIN),
            ("DEVICE_AUTH_NONCE_MISMATCH", |p| p.device.as_mut().unwrap().nonce = "other".into()),
            ("DEVICE_AUTH_NONCE_REQUIRED", |p| p.device.as_mut().unwrap().nonce = " ".into()),
            ("DEVICE_AUTH_DEVICE_ID_MISMATCH", |p| p.device.as_mut().unwrap().id = "00".into()),
        ];
        for (code, change) in cases {
            assert_eq!(
                both_halves(change, 1_000_000).unwrap_err().fault(),
                crate::Fault::DeviceAuth(code.into())
            );
        }
    }

    #[test]
    fn a_first_frame_that_is_not_connect_is_rejected() {
        let server = ServerHandshake::new("n".into(), 0);
        let wrong = server.read_connect(r#"{"type":"req","id":"1","method":"health"}"#).unwrap_err();
        assert_eq!((wrong.close_code, wrong.frame.is_some()), (1008, true));
        assert_eq!(server.read_connect("junk").unwrap_err().close_code, 1000);
        let event = server.read_connect(r#"{"type":"event","event":"x"}"#).unwrap_err();
        assert_eq!((event.close_code, event.frame), (1008, None));
    }

    #[test]
    fn an_unknown_protocol_is_a_mismatch_on_both_sides() {
        let server = ServerHandshake::new("n".into(), 0);
        let text = r#"{"type":"req","id":"connect","method":"connect","params":{"minProtocol":5,"maxProtocol":6,
            "client":{"id":"cli","mode":"cli","version":"1","platform":"x"}}}"#;
        let rejection = server.read_connect(text).unwrap_err();
        assert_eq!(rejection.close_code, 1002);
        let Err(HandshakeError::Refused(error)) = AwaitHello.read(&rejection.frame.unwrap()) else {
            panic!("not refused")
        };
        assert_eq!(error.fault(), crate::Fault::ProtocolMismatch { expected: Some(4) });
    }

    #[test]
    fn what_is_not_a_gateway_is_named_so() {
        for text in ["<html>", "[]", r#"{"type":"req","id":"1","method":"m"}"#] {
            assert!(matches!(AwaitChallenge.read(text), Err(HandshakeError::NotAGateway(_))), "{text}");
        }
        let tick = r#"{"type":"event","event":"tick","payload":{"ts":1}}"#;
        assert!(matches!(AwaitChallenge.read(tick), Ok(None)));
        assert!(matches!(AwaitHello.read(tick), Ok(None)));
    }

    #[test]
    fn close_reasons_fit_a_control_frame() {
        assert_eq!(close_reason(&"é".repeat(100)).len(), 122);
        assert_eq!(close_reason("short"), "short");
    }
}
