//! What A2A 1.0 says over JSON-RPC, as far as we need it. Unknown fields and states are accepted.

use openclaw_client::protocol::methods::agent::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::A2aError;

/// The protocol's version, as the header `A2A-Version` has it.
pub(super) const VERSION: &str = "1.0";
/// The error for a task that is not known.
pub(super) const TASK_NOT_FOUND: i64 = -32001;
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

/// What became of a message at once.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Sent")]
pub(super) enum Answer {
    /// A task that goes on, or is over already.
    Task(Task),
    /// The whole answer.
    Message(String),
}

#[derive(Deserialize)]
struct Sent {
    #[serde(default)]
    task: Option<Task>,
    #[serde(default)]
    message: Option<Message>,
}

impl TryFrom<Sent> for Answer {
    type Error = &'static str;

    fn try_from(sent: Sent) -> Result<Self, Self::Error> {
        match (sent.task, sent.message) {
            (Some(task), _) => Ok(Self::Task(task)),
            (None, Some(message)) => Ok(Self::Message(text(&message.parts))),
            (None, None) => Err("neither a task nor a message"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

/// The texts of parts, and data as the JSON it is; files are left out.
fn text(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match (&part.text, &part.data) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(data)) => Some(data.to_string()),
        (None, None) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A task.
#[derive(Debug, Deserialize)]
pub(super) struct Task {
    pub(super) id: String,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    state: String,
    #[serde(default)]
    message: Option<Message>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    #[serde(default)]
    parts: Vec<Part>,
}

impl Task {
    /// A task of which nothing but its id is known.
    pub(super) fn under_way(id: String) -> Self {
        Self { id, status: Status::default(), artifacts: Vec::new() }
    }

    /// Its state in small letters: `working`.
    pub(super) fn state(&self) -> &str {
        self.status.state.strip_prefix("TASK_STATE_").unwrap_or(&self.status.state)
    }

    /// How it ended; nothing while it goes on.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let said = self.status.message.as_ref().map(|message| text(&message.parts)).unwrap_or_default();
        let reason = |what: &str| if said.is_empty() { what.to_owned() } else { said.clone() };
        Some(match self.state() {
            "COMPLETED" => {
                let made = self.artifacts.iter().map(|artifact| text(&artifact.parts));
                let made = made.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n");
                match if made.is_empty() { said } else { made } {
                    reply if reply.is_empty() => Outcome::NoReply,
                    reply => Outcome::Reply(reply),
                }
            }
            // It asks back: that is its answer, and the next message in this context answers it.
            "INPUT_REQUIRED" if !said.is_empty() => Outcome::Reply(said),
            "INPUT_REQUIRED" => Outcome::NoReply,
            "FAILED" => Outcome::Failed(reason("the task failed")),
            "REJECTED" => Outcome::Failed(reason("the task was rejected")),
            "AUTH_REQUIRED" => Outcome::Failed(reason("the task wants more authentication")),
            "CANCELED" => Outcome::Aborted,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(state: &str, artifacts: &Value, said: &str) -> Option<Outcome> {
        let task = json!({
            "id": "t-1", "contextId": "c", "artifacts": artifacts,
            "status": { "state": format!("TASK_STATE_{state}"), "message": { "parts": [{ "text": said }] } },
        });
        serde_json::from_value::<Task>(task).unwrap().outcome()
    }

    #[test]
    fn states_map_onto_ours() {
        let made = json!([{ "parts": [{ "text": "one" }, { "data": { "n": 2 } }] }, { "parts": [{ "url": "x" }] }, { "parts": [{ "text": "three" }] }]);
        let none = json!([]);
        let reply = |text: &str| Some(Outcome::Reply(text.to_owned()));
        for (state, artifacts, said, outcome) in [
            ("COMPLETED", &made, "done", reply("one\n{\"n\":2}\n\nthree")),
            ("COMPLETED", &none, "done", reply("done")),
            ("COMPLETED", &none, "", Some(Outcome::NoReply)),
            ("INPUT_REQUIRED", &none, "which one?", reply("which one?")),
            ("FAILED", &none, "no quota", Some(Outcome::Failed("no quota".to_owned()))),
            ("REJECTED", &none, "", Some(Outcome::Failed("the task was rejected".to_owned()))),
            ("CANCELED", &none, "", Some(Outcome::Aborted)),
            ("WORKING", &made, "half way", None),
            ("SUBMITTED", &none, "", None),
            ("FROM_THE_FUTURE", &none, "", None),
        ] {
            assert_eq!(task(state, artifacts, said), outcome, "{state}");
        }
    }

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
