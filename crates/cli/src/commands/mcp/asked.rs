//! What the tools are asked for. The comments are what a model reads of each field. Numbers are `i32`: some providers of
//! models refuse the formats of unsigned ones in a schema.

use std::time::Duration;

use agent_team_mesh::quoted::Attachment;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

/// Nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ping {
    /// The teammate: e-mail prefix, name, nickname, or the beginning of one.
    pub to: String,
}

/// A text file that goes along. Its text, not a place on this machine: a model without a tool for files gets none by this
/// way, and no file leaves that it has not read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(description = "A text file")]
pub struct File {
    /// Its name, without folders.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The files as they go behind a message.
pub fn files(attach: Vec<File>) -> Vec<Attachment> {
    attach.into_iter().map(|file| Attachment { name: file.name, text: file.text }).collect()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Send {
    /// The teammate: e-mail prefix, name, nickname, or the beginning of one.
    pub to: String,
    /// What to say, at most 8192 bytes with the files. The other agent knows nothing of your conversation: say all it needs.
    pub message: String,
    /// Text files to put behind the message, marked as data.
    #[serde(default)]
    pub attach: Vec<File>,
    /// A topic with a conversation of its own on their side.
    pub thread: Option<String>,
    /// Another session on their side than the one for you.
    pub session: Option<String>,
    /// Which agent behind their gateway.
    pub agent: Option<String>,
    /// If a teammate's message made you send this one: its id, or the whole first line of it, `[agent-mesh/1 …]`.
    pub in_reply_to: Option<String>,
    /// How long to wait for the reply; 60 unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
    /// False returns as soon as their gateway accepted it; mesh_wait gets the reply later.
    pub wait: Option<bool>,
    /// True keeps the message in the outbox while the teammate cannot be reached.
    pub queue: Option<bool>,
    /// True stops the other agent's work, too, when this call is cancelled. Else only the waiting stops.
    pub abort_on_cancel: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Broadcast {
    /// What to say, at most 8192 bytes with the files.
    pub message: String,
    /// Text files to put behind the message, marked as data.
    #[serde(default)]
    pub attach: Vec<File>,
    /// Only these teammates; all if absent.
    #[serde(default)]
    pub only: Vec<String>,
    /// Not these teammates.
    #[serde(default)]
    pub except: Vec<String>,
    /// True returns with the first reply.
    pub first: Option<bool>,
    /// A topic with a conversation of its own on their side.
    pub thread: Option<String>,
    /// If a teammate's message made you send this one: its id, or the whole first line of it, `[agent-mesh/1 …]`.
    pub in_reply_to: Option<String>,
    /// How long to wait for the replies; 60 unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dialogue {
    /// The teammate: e-mail prefix, name, nickname, or the beginning of one.
    pub with: String,
    /// What they are to talk about, with all that your owner's agent has to know: it has a session of its own for this.
    pub topic: String,
    /// How many messages both say together; 6 unless given.
    #[schemars(range(min = 1, max = 40))]
    pub turns: Option<i32>,
    /// Whoever ends a message with this ends it.
    pub stop_phrase: Option<String>,
    /// The conversation to go on with; a new one unless given.
    pub thread: Option<String>,
    /// How long each answer may take; 60 unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wait {
    /// The message's id, as mesh_send gave it.
    pub id: String,
    /// How long to wait; 60 unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Log {
    /// Only with this teammate.
    pub with: Option<String>,
    /// Only on this topic.
    pub thread: Option<String>,
    /// Only with these words, in message or reply.
    pub search: Option<String>,
    /// At most so many, the newest; 20 unless given.
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<i32>,
}

/// The time given, within an hour, or the usual one.
pub fn timeout(seconds: Option<i32>, usual: Duration) -> Duration {
    seconds.map_or(usual, |seconds| Duration::from_secs(u64::from(seconds.clamp(1, 3600).unsigned_abs())))
}
