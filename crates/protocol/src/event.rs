//! What a gateway pushes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::methods::chat::content_text;

/// The `chat` event: how a run in a session goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatEvent {
    /// The run.
    #[serde(default)]
    pub run_id: String,
    /// The session in its full form.
    #[serde(default)]
    pub session_key: String,
    /// Counts the events of a run.
    #[serde(default)]
    pub seq: Option<u64>,
    /// What happened.
    pub state: ChatState,
    /// With `status`: the phase the run is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// With `delta`: the text that is new. Protocol 3 does not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_text: Option<String>,
    /// With `delta`: the text so far has changed, not only grown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// With `delta`: the text so far; with `final`: the whole. A `final` without it is not an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<ChatMessage>,
    /// Why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// With `error`: what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// What a `chat` event says of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChatState {
    /// It entered a phase.
    Status,
    /// It said more.
    Delta,
    /// It ended, or (without a message) was queued or merged into another.
    Final,
    /// Somebody stopped it.
    Aborted,
    /// It failed.
    Error,
    /// Something this crate does not know.
    #[serde(other)]
    Unknown,
}

/// A message inside a `chat` event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `assistant`.
    #[serde(default)]
    pub role: String,
    /// A string or a list of parts.
    #[serde(default)]
    pub content: Value,
}

impl ChatMessage {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> String {
        content_text(&self.content)
    }
}

/// The `agent` event: what happens inside a run. We read its `lifecycle` stream, for the run's phases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEvent {
    /// The run.
    #[serde(default)]
    pub run_id: String,
    /// `lifecycle`, `assistant`, `item`, `usage`, `run_status`, `tool`, …
    pub stream: String,
    /// What this stream says.
    #[serde(default)]
    pub data: Value,
}

impl AgentEvent {
    /// The phase a `lifecycle` event announces: `start`, `model`, `finishing`, `end`, `error`.
    #[must_use]
    pub fn phase(&self) -> Option<&str> {
        (self.stream == "lifecycle").then(|| self.data.get("phase").and_then(Value::as_str)).flatten()
    }
}

/// The `tick` event, every `policy.tickIntervalMs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The gateway's clock, milliseconds since the epoch.
    pub ts: i64,
}

/// The `shutdown` event, before a close with 1012.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// The `device.pair.resolved` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairResolved {
    /// The request.
    pub request_id: String,
    /// The device.
    pub device_id: String,
    /// `approved` or `rejected`.
    pub decision: String,
    /// When, milliseconds since the epoch.
    #[serde(default)]
    pub ts: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_from_the_future_is_no_error() {
        let event: ChatEvent =
            serde_json::from_str(r#"{"runId":"r","sessionKey":"s","state":"paused"}"#).unwrap();
        assert_eq!(event.state, ChatState::Unknown);
    }
}
