//! `mesh.*`: messages that wait for the owner's word. Methods of agent-mesh's own gateway; OpenClaw has none of them.

use serde::{Deserialize, Serialize};

use super::Method;

/// `mesh.inbox.list`: what is held, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxList {}

impl Method for InboxList {
    const NAME: &'static str = "mesh.inbox.list";
    type Payload = Inbox;
}

/// What is held, and whether any new message comes in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inbox {
    /// New runs of peers are refused.
    pub paused: bool,
    /// The messages.
    pub held: Vec<HeldMessage>,
}

/// A message that is held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldMessage {
    /// Its name for the owner.
    pub id: String,
    /// The run, by the sender's choice: untrusted text.
    pub run_id: String,
    /// The session in its full form.
    pub session: String,
    /// Who has proven to be the sender.
    pub from: HeldFrom,
    /// The size of the message.
    pub bytes: usize,
    /// Its beginning: untrusted text.
    pub preview: String,
    /// All of it, if it was asked for: untrusted text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when, milliseconds since the epoch.
    pub since: i64,
}

/// The sender of a held message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldFrom {
    /// The e-mail prefix, or `dev-` and the beginning of a device id.
    pub key: String,
    /// The name for people.
    pub name: Option<String>,
    /// The device that proved itself.
    pub device_id: Option<String>,
}

/// `mesh.inbox.show`: one of them as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxShow {
    /// Which.
    pub id: String,
}

impl Method for InboxShow {
    const NAME: &'static str = "mesh.inbox.show";
    type Payload = HeldMessage;
}

/// `mesh.inbox.approve`: let it run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxApprove {
    /// Which.
    pub id: String,
}

impl Method for InboxApprove {
    const NAME: &'static str = "mesh.inbox.approve";
    type Payload = Decided;
}

/// `mesh.inbox.reject`: its run fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxReject {
    /// Which.
    pub id: String,
}

impl Method for InboxReject {
    const NAME: &'static str = "mesh.inbox.reject";
    type Payload = Decided;
}

/// What became of a held message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Decided {
    /// Which.
    pub id: String,
    /// The run: untrusted text.
    pub run_id: String,
    /// Whose.
    pub from: String,
    /// `approved` or `rejected`.
    pub status: String,
}

/// `mesh.pause`: no new runs of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {}

impl Method for Pause {
    const NAME: &'static str = "mesh.pause";
    type Payload = Paused;
}

/// `mesh.resume`: they come in again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {}

impl Method for Resume {
    const NAME: &'static str = "mesh.resume";
    type Payload = Paused;
}

/// Whether the door is paused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paused {
    /// It is.
    pub paused: bool,
}
