//! The chat family: `chat.send`, `chat.history`, `chat.abort`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Method;

/// `chat.send`: a message as if typed by the owner. Two of them into one busy session are merged, and slash commands
/// run: prefer [`super::agent::Agent`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatSend {
    /// Which session.
    pub session_key: String,
    /// What is said.
    pub message: String,
    /// Becomes the run id.
    pub idempotency_key: String,
}

impl Method for ChatSend {
    const NAME: &'static str = "chat.send";
    type Payload = ChatSendAck;
}

/// The answer to `chat.send`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatSendAck {
    /// The run; absent for `/stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// `started` (also when it was only queued or merged), `in_flight`, `ok`, `error`, `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Of agent-mesh's own gateway: it waits until its owner lets it run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// `chat.history`: what stands in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatHistory {
    /// Which session.
    pub session_key: String,
    /// How many rows, counted from the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Characters after which a text is cut; 8,000 if absent, 100,000 is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<u32>,
}

impl Method for ChatHistory {
    const NAME: &'static str = "chat.history";
    type Payload = History;
}

/// The answer to `chat.history`, oldest row first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The session in its full form.
    #[serde(default)]
    pub session_key: String,
    /// The rows.
    #[serde(default)]
    pub messages: Vec<HistoryRow>,
    /// Runs that were accepted and have no row yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_inputs: Option<PendingInputs>,
}

/// Runs that wait in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingInputs {
    /// The runs.
    #[serde(default)]
    pub items: Vec<PendingInput>,
}

/// One run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingInput {
    /// The run.
    #[serde(default)]
    pub run_id: String,
    /// `queued`, or `interrupted` (it will never run, and its key is refused).
    #[serde(default)]
    pub state: String,
    /// Of agent-mesh's own gateway: it waits until its owner lets it run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// One row of a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRow {
    /// `user`, `assistant`, `toolResult`, …
    pub role: String,
    /// A string, or a list of parts: see [`content_text`].
    #[serde(default)]
    pub content: Value,
    /// `<run>:user` on the row that a run's message made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// `stop` on a final answer, `toolUse` on an intermediate one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// The gateway's own notes on the row.
    #[serde(rename = "__openclaw", default, skip_serializing_if = "Option::is_none")]
    pub note: Option<RowNote>,
}

/// The gateway's own notes on a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowNote {
    /// The row's id, for `chat.message.get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The run that wrote an assistant row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// As on the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Whether the text shown is cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl HistoryRow {
    /// Its text: all text parts, joined.
    #[must_use]
    pub fn text(&self) -> String {
        content_text(&self.content)
    }

    /// Whether this is the final answer of a run.
    #[must_use]
    pub fn answers(&self, run_id: &str) -> bool {
        self.role == "assistant"
            && self.stop_reason.as_deref() == Some("stop")
            && self.note.as_ref().and_then(|n| n.run_id.as_deref()) == Some(run_id)
    }

    /// Whether this is the row that a run's message made.
    #[must_use]
    pub fn is_input_of(&self, run_id: &str) -> bool {
        let key = self.idempotency_key.as_deref();
        let key = key.or_else(|| self.note.as_ref().and_then(|n| n.idempotency_key.as_deref()));
        self.role == "user" && key.and_then(|k| k.strip_suffix(":user")) == Some(run_id)
    }
}

/// The text of a message's content, which is a string or a list of `{type: "text", text}`.
#[must_use]
pub fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n\n")
        }
        _ => String::new(),
    }
}

/// `chat.message.get`: one row in full, where the history cut it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessageGet {
    /// Which session.
    pub session_key: String,
    /// The row's [`RowNote::id`].
    pub message_id: String,
    /// Characters after which the text is cut; at most 2,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<u32>,
}

impl Method for ChatMessageGet {
    const NAME: &'static str = "chat.message.get";
    type Payload = ChatMessageGot;
}

/// The answer to `chat.message.get`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessageGot {
    /// Whether the row is there.
    #[serde(default)]
    pub ok: bool,
    /// The row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<HistoryRow>,
}

/// `chat.abort`: stop a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatAbort {
    /// Which session.
    pub session_key: String,
    /// Which run; all of the session if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

impl Method for ChatAbort {
    const NAME: &'static str = "chat.abort";
    type Payload = ChatAborted;
}

/// The answer to `chat.abort`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatAborted {
    /// Whether anything was aborted.
    #[serde(default)]
    pub aborted: bool,
    /// What was aborted.
    #[serde(default)]
    pub run_ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_a_string_or_a_list_of_parts() {
        assert_eq!(content_text(&serde_json::json!("plain")), "plain");
        let parts =
            serde_json::json!([{"type":"text","text":"a"},{"type":"toolCall"},{"type":"text","text":"b"}]);
        assert_eq!(content_text(&parts), "a\n\nb");
        assert_eq!(content_text(&Value::Null), "");
    }

    #[test]
    fn only_the_final_row_of_a_run_answers_it() {
        let row = |json: &str| serde_json::from_str::<HistoryRow>(json).unwrap();
        let last =
            row(r#"{"role":"assistant","content":"x","stopReason":"stop","__openclaw":{"runId":"r"}}"#);
        assert!(last.answers("r") && !last.answers("other"));
        assert!(
            !row(r#"{"role":"assistant","content":"x","stopReason":"toolUse","__openclaw":{"runId":"r"}}"#)
                .answers("r")
        );
        assert!(row(r#"{"role":"user","content":"x","idempotencyKey":"r:user"}"#).is_input_of("r"));
    }
}
