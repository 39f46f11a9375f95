//! The Agent2Agent protocol, version 1.0, in its JSON-RPC binding: what `serve` answers beside OpenClaw's own protocol.
//!
//! Only what is used here. Names and shapes are those of the ProtoJSON form of `lf.a2a.v1`, as `@a2a-js/sdk` 1.3.0 and
//! OpenClaw's `a2a` channel speak it. A choice among shapes (`task` or `statusUpdate`, `text` or `data`) is a field each,
//! of which one is there.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::ErrorShape;

/// The protocol's version.
pub const VERSION: &str = "1.0";
/// Where an agent's card is found.
pub const CARD_PATH: &str = "/.well-known/agent-card.json";

/// A JSON-RPC request, its parameters unread.
#[derive(Debug, Deserialize)]
pub struct Request<'a> {
    /// `2.0`.
    #[serde(default)]
    pub jsonrpc: String,
    /// A number or a text, which the answer repeats.
    #[serde(default)]
    pub id: Option<Value>,
    /// Such as `SendMessage`.
    #[serde(default)]
    pub method: String,
    /// What it is about.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
}

/// Why a request got no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpcError {
    /// One of the constants of this type, or the server's own from -32099 to -32000.
    pub code: i64,
    /// In words.
    pub message: String,
    /// A list of `google.rpc` details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    /// The body is no JSON.
    pub const PARSE: i64 = -32700;
    /// The JSON is no request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i64 = -32602;
    /// It cannot be done just now, or not by this caller; the details say why.
    pub const SERVER: i64 = -32000;
    /// No such task, or somebody else's.
    pub const TASK_NOT_FOUND: i64 = -32001;
    /// The task is over.
    pub const TASK_NOT_CANCELABLE: i64 = -32002;
    /// Nobody is called back.
    pub const PUSH_NOT_SUPPORTED: i64 = -32003;
    /// A method of the protocol that is not offered.
    pub const UNSUPPORTED_OPERATION: i64 = -32004;
    /// A part that is neither text nor data.
    pub const CONTENT_TYPE_NOT_SUPPORTED: i64 = -32005;
    /// There is one card, the public one.
    pub const EXTENDED_CARD_NOT_CONFIGURED: i64 = -32007;
    /// Another version of the protocol is asked for.
    pub const VERSION_NOT_SUPPORTED: i64 = -32009;

    /// An error without details.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

/// What a gateway's own refusal is to an A2A client.
impl From<ErrorShape> for RpcError {
    fn from(error: ErrorShape) -> Self {
        let detail = |name: &str| error.detail(name).map(str::to_owned);
        let reason = detail("code").or_else(|| detail("reason")).unwrap_or_else(|| error.code.clone());
        let mut metadata = serde_json::Map::new();
        for (name, value) in
            [("rule", detail("rule")), ("retryAfterMs", error.retry_after_ms.map(|ms| ms.to_string()))]
        {
            metadata.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        let code = if error.code == "INVALID_REQUEST" { Self::INVALID_PARAMS } else { Self::SERVER };
        let data = json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason.to_uppercase().replace('-', "_"), "domain": "agent-mesh", "metadata": metadata,
        }]);
        Self { code, message: error.message, data: Some(data) }
    }
}

/// `SendMessage` and `SendStreamingMessage`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendMessage {
    /// What is said.
    pub message: Message,
    /// How it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
}

/// How a message is answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Configuration {
    /// Answer at once, with the task as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub return_immediately: bool,
}

/// `GetTask`, `CancelTask` and `SubscribeToTask`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskQuery {
    /// The task.
    pub id: String,
}

/// Something that is said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The sender's own id of it.
    #[serde(default)]
    pub message_id: String,
    /// The conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// The task that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// `ROLE_USER` or `ROLE_AGENT`.
    #[serde(default)]
    pub role: String,
    /// Its content.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// One part of a content: a text, data, or (which we only recognise) a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Part {
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// A file's bytes, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Where a file is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Part {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    /// What an agent that reads text is told of it; none for a file.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self { raw: Some(_), .. } | Self { url: Some(_), .. } => None,
            Self { text: Some(text), .. } => Some(text.clone()),
            Self { data, .. } => data.as_ref().map(Value::to_string),
        }
    }
}

/// A piece of work: one message and what becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id, which is that of the run.
    pub id: String,
    /// The conversation that it belongs to.
    #[serde(default)]
    pub context_id: String,
    /// How far it is.
    #[serde(default)]
    pub status: TaskStatus,
    /// What it has brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// In one word.
    #[serde(default)]
    pub state: TaskState,
    /// In more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

/// How far a task is, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskState {
    /// It waits.
    #[serde(rename = "TASK_STATE_SUBMITTED")]
    Submitted,
    /// The agent is at it.
    #[serde(rename = "TASK_STATE_WORKING")]
    Working,
    /// It is done.
    #[serde(rename = "TASK_STATE_COMPLETED")]
    Completed,
    /// It failed.
    #[serde(rename = "TASK_STATE_FAILED")]
    Failed,
    /// Somebody stopped it.
    #[serde(rename = "TASK_STATE_CANCELED")]
    Canceled,
    /// The agent, or its owner, will not do it.
    #[serde(rename = "TASK_STATE_REJECTED")]
    Rejected,
    /// Something that this crate does not know.
    #[default]
    #[serde(other, rename = "TASK_STATE_UNSPECIFIED")]
    Unspecified,
}

impl TaskState {
    /// Whether nothing more will come of it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled | Self::Rejected)
    }
}

/// What a task has brought.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Its id within the task.
    pub artifact_id: String,
    /// Its content.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// One event of a stream, or the result of `SendMessage`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Happening {
    /// The whole task.
    Task(Task),
    /// An answer without a task.
    Message(Message),
    /// It is further than before.
    StatusUpdate(StatusUpdate),
    /// It has brought something.
    ArtifactUpdate(ArtifactUpdate),
}

/// A task is further than before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusUpdate {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    #[serde(default)]
    pub context_id: String,
    /// How far it is.
    #[serde(default)]
    pub status: TaskStatus,
}

/// A task has brought something.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactUpdate {
    /// The task.
    pub task_id: String,
    /// Its conversation.
    #[serde(default)]
    pub context_id: String,
    /// What it has brought.
    pub artifact: Artifact,
    /// It comes behind what was brought under this id before; otherwise it replaces that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
    /// Nothing more comes under this id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_chunk: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_the_sdk_and_openclaw_write_it() {
        let sdk = r#"{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":"hi","mediaType":"text/plain"}],
            "extensions":[]},"configuration":{"acceptedOutputModes":["text/plain"]},"tenant":"x"}"#;
        let sent: SendMessage = serde_json::from_str(sdk).unwrap();
        assert_eq!(sent.message.parts, [Part::text("hi")]);
        assert!(!sent.configuration.unwrap().return_immediately);
        let data: Part = serde_json::from_str(r#"{"data":{"a":1}}"#).unwrap();
        assert_eq!(data.as_text().as_deref(), Some(r#"{"a":1}"#));
        let file: Part = serde_json::from_str(r#"{"url":"https://x","text":"not this"}"#).unwrap();
        assert_eq!(file.as_text(), None);
    }

    #[test]
    fn a_result_names_its_shape_and_a_state_from_the_future_is_no_error() {
        let update = StatusUpdate { task_id: "t".into(), context_id: "c".into(), ..StatusUpdate::default() };
        let text = serde_json::to_value(Happening::StatusUpdate(update)).unwrap();
        assert_eq!(text["statusUpdate"]["status"]["state"], "TASK_STATE_UNSPECIFIED");
        let state: TaskState = serde_json::from_str(r#""TASK_STATE_PONDERING""#).unwrap();
        assert_eq!(state, TaskState::Unspecified);
    }

    #[test]
    fn a_refusal_of_the_gateway_keeps_its_reason_and_rule() {
        let shape = ErrorShape::new("UNAVAILABLE", "too many")
            .with_details(json!({ "code": "POLICY_DENIED", "rule": "runs-per-day" }));
        let error = RpcError::from(ErrorShape { retry_after_ms: Some(5), ..shape });
        assert_eq!(error.code, RpcError::SERVER);
        let info = &error.data.unwrap()[0];
        assert_eq!(
            (&info["reason"], &info["metadata"]["rule"]),
            (&json!("POLICY_DENIED"), &json!("runs-per-day"))
        );
        assert_eq!(info["metadata"]["retryAfterMs"], "5");
        assert_eq!(RpcError::from(ErrorShape::invalid("no")).code, RpcError::INVALID_PARAMS);
        let restarting = RpcError::from(ErrorShape::unavailable("x", "gateway-restarting", 1000));
        assert_eq!(restarting.data.unwrap()[0]["reason"], "GATEWAY_RESTARTING");
    }
}
