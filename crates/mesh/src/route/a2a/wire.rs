//! What A2A 1.0 says over JSON-RPC, as far as we need it; what is said of tasks stands in `task`. Unknown fields are
//! accepted.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::A2aError;

/// The protocol's version, as the header `A2A-Version` has it.
pub(super) const VERSION: &str = "1.0";
/// The error for a task that is not known.
pub(super) const TASK_NOT_FOUND: i64 = -32001;
/// The errors for a method that is not there, or not offered.
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
pub(super) const UNSUPPORTED_OPERATION: i64 = -32004;
/// Longest context id that OpenClaw takes, in characters.
const LONGEST_CONTEXT: usize = 128;

/// The context of a conversation: its session, in the characters that every server takes, else a hash of it.
pub(crate) fn context_id(session: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if session.len() <= LONGEST_CONTEXT && session.chars().all(plain) {
        return session.to_owned();
    }
    let digest = Sha256::digest(session);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("mesh:{hex}")
}

/// An agent's card.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Card {
    #[serde(default)]
    supported_interfaces: Vec<Interface>,
    #[serde(default)]
    capabilities: Capabilities,
}

#[derive(Debug, Default, Deserialize)]
struct Capabilities {
    #[serde(default)]
    streaming: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    #[serde(default)]
    protocol_binding: String,
    #[serde(default)]
    protocol_version: String,
}

impl Card {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let ours = |interface: &Interface| {
            let major = interface.protocol_version.split('.').next();
            interface.protocol_binding.eq_ignore_ascii_case("JSONRPC") && major == Some("1")
        };
        if self.supported_interfaces.iter().any(ours) {
            return Ok(());
        }
        let offered = self.supported_interfaces.iter();
        let offered: Vec<_> =
            offered.map(|one| format!("{} {}", one.protocol_binding, one.protocol_version)).collect();
        Err(format!("it offers no JSONRPC 1.x, but {offered:?}"))
    }

    /// Whether it tells how a task goes on while it does.
    pub(super) fn streams(&self) -> bool {
        self.capabilities.streaming
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Request<'a, T> {
    jsonrpc: &'static str,
    id: u32,
    method: &'a str,
    params: &'a T,
}

impl<'a, T> Request<'a, T> {
    pub(super) fn new(method: &'a str, params: &'a T) -> Self {
        Self { jsonrpc: "2.0", id: 1, method, params }
    }
}

/// An answer of JSON-RPC.
#[derive(Debug, Deserialize)]
pub(super) struct Reply<T> {
    #[serde(default = "Option::default")]
    result: Option<T>,
    #[serde(default)]
    error: Option<RpcError>,
}

#[derive(Debug, Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
}

impl<T> Reply<T> {
    pub(super) fn into_result(self) -> Result<T, A2aError> {
        match (self.result, self.error) {
            (_, Some(error)) => Err(A2aError::Rpc { code: error.code, message: error.message }),
            (Some(result), None) => Ok(result),
            (None, None) => Err(A2aError::BadAnswer("it has neither a result nor an error".to_owned())),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct SendMessage<'a> {
    message: NewMessage<'a>,
    configuration: Configuration,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewMessage<'a> {
    message_id: &'a str,
    context_id: &'a str,
    role: &'static str,
    parts: [NewPart<'a>; 1],
}

#[derive(Debug, Serialize)]
struct NewPart<'a> {
    text: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    accepted_output_modes: [&'static str; 1],
    /// Else the task's id comes with its end, and with a lost connection never.
    return_immediately: bool,
}

impl<'a> SendMessage<'a> {
    pub(super) fn new(message_id: &'a str, context_id: &'a str, text: &'a str) -> Self {
        Self {
            message: NewMessage { message_id, context_id, role: "ROLE_USER", parts: [NewPart { text }] },
            configuration: Configuration { accepted_output_modes: ["text/plain"], return_immediately: true },
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TaskId<'a> {
    pub(super) id: &'a str,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_card_must_offer_what_we_speak() {
        let card = |interfaces: Value| {
            serde_json::from_value::<Card>(json!({ "name": "x", "supportedInterfaces": interfaces }))
                .unwrap()
                .check()
        };
        let one = |binding: &str, version: &str| json!([{ "url": "u", "protocolBinding": binding, "protocolVersion": version }]);
        assert_eq!(card(one("JSONRPC", "1.0")), Ok(()));
        assert!(card(one("GRPC", "1.0")).unwrap_err().contains("GRPC 1.0"));
        assert!(card(one("JSONRPC", "0.3")).is_err() && card(json!([])).is_err());
    }

    #[test]
    fn a_context_is_the_session_in_characters_that_all_take() {
        assert_eq!(context_id("mesh:alice:ci"), "mesh:alice:ci");
        let hashed = context_id("mesh:戴泽");
        assert!(hashed.len() == 37 && hashed != context_id("mesh:那笙"), "{hashed}");
        assert_eq!(context_id(&"x".repeat(200)).len(), 37);
    }
}
