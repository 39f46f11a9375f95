//! What became of a message.

use jiff::Timestamp;
use serde::Serialize;

use crate::error::MeshError;
use crate::registry::{Agent, Via};

/// A teammate, as every document names one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct To {
    /// The name people see.
    pub name: String,
    /// The key of the registry.
    pub email_prefix: String,
}

impl From<&Agent> for To {
    fn from(agent: &Agent) -> Self {
        Self { name: agent.name.clone(), email_prefix: agent.email_prefix.clone() }
    }
}

/// The last certain step of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// It waits in the outbox, and has certainly not left.
    Queued,
    /// It is on its way: it may have left, and nobody confirmed it.
    Sending,
    /// The peer's gateway confirmed the run; the reply is not known yet.
    Accepted,
    /// The same, and the peer's owner has to let it run first.
    Held,
    /// The reply is here.
    Replied,
    /// The run ended without one.
    NoReply,
    /// It was refused, or the run failed.
    Failed,
    /// It waited in the outbox until it was stale, and was not sent.
    Expired,
    /// It was taken back before it left: out of the outbox, or by an interruption.
    Cancelled,
    /// Nobody answers at the address.
    Unreachable,
    /// It went out by instant message instead.
    Fallback,
    /// It was not sent: there is no address, no credential, a limit is reached, or nobody waited for it any more.
    Skipped,
    /// It cannot be known without risking a second turn.
    Unknown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Queued,
        Self::Sending,
        Self::Accepted,
        Self::Held,
        Self::Replied,
        Self::NoReply,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
        Self::Unreachable,
        Self::Fallback,
        Self::Skipped,
        Self::Unknown,
    ];

    /// Its name in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Accepted => "accepted",
            Self::Held => "held",
            Self::Replied => "replied",
            Self::NoReply => "no-reply",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Unreachable => "unreachable",
            Self::Fallback => "fallback",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// The state of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether more may become known of it.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Sending | Self::Accepted | Self::Held | Self::Unknown)
    }

    /// Whether the peer's gateway has it, and its run is not over as far as we know.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        matches!(self, Self::Accepted | Self::Held)
    }
}

/// When a message got how far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The peer's gateway let us in.
    pub reached_at: Option<Timestamp>,
    /// It confirmed the run.
    pub accepted_at: Option<Timestamp>,
    /// The run ended, as far as we heard.
    pub finished_at: Option<Timestamp>,
}

/// What the peer's agent said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// Untrusted text.
    pub text: String,
}

/// A message and what became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// To whom.
    pub to: To,
    /// The message id, a UUID; also the run id of the first attempt.
    pub id: String,
    /// The route.
    pub via: Via,
    /// The session key on the wire.
    pub session: String,
    /// The message's size in bytes of UTF-8, without the header.
    pub bytes: usize,
    /// The last certain step.
    pub state: State,
    /// When.
    pub receipt: Receipt,
    /// The reply.
    pub reply: Option<Reply>,
    /// What went wrong beside it: the end of this message could not be written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Why it went no further.
    #[serde(skip)]
    pub error: Option<MeshError>,
}
