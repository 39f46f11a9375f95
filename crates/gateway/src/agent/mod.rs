//! Who answers: the trait, two simple agents, and one that asks a model.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use openclaw_protocol::methods::agent::InputProvenance;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::principal::Principal;
use crate::runs::Origin;

mod echo;
mod exec;
pub(crate) mod frame;
mod openai;

pub use echo::EchoAgent;
pub use exec::ExecAgent;
pub use frame::Framed;
pub use openai::{ApiKey, Model, ModelError, OpenAiAgent};

/// The future of a reply.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = Result<String, AgentFailure>> + Send + 'a>>;

/// Something that answers messages.
///
/// One value serves many turns at a time; turns of one session come one after the other. A turn whose future is
/// dropped has to leave nothing behind.
///
/// ```
/// use agent_mesh_gateway::{Agent, Deltas, ReplyFuture, Turn};
///
/// struct Shout;
///
/// impl Agent for Shout {
///     fn reply(&self, turn: Turn, _deltas: Deltas) -> ReplyFuture<'_> {
///         Box::pin(async move { Ok(turn.message.to_uppercase()) })
///     }
/// }
/// ```
pub trait Agent: Send + Sync + 'static {
    /// Answers one message: the whole text at the end, and its pieces on the way for those who watch.
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_>;

    /// Whether it finds out what became of a turn that this gateway was killed in. Else such a turn has failed.
    fn can_resume(&self) -> bool {
        false
    }

    /// Brings a turn to its end that may have begun at this time, in milliseconds since the epoch, under an earlier process
    /// of this gateway; without a second turn.
    fn resume(&self, _turn: Turn, _began_at: i64, _deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async { Err(AgentFailure::failed(ENDED_BEFORE)) })
    }
}

/// Of a turn that this gateway was killed in.
pub(crate) const ENDED_BEFORE: &str = "the gateway ended before it";

/// One message to an agent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Turn {
    /// The run, chosen by the caller.
    pub run_id: String,
    /// How it was asked for.
    pub origin: Origin,
    /// The session in its full form, such as `agent:main:mesh:alice`.
    pub session_key: String,
    /// What the agent is told. Text of a peer: data, not instructions of the owner.
    pub message: String,
    /// Where the message comes from, as the sender claims.
    pub provenance: Option<InputProvenance>,
    /// Who sent it, as far as the gateway knows.
    pub from: Sender,
    /// What the agent may do in this turn, in the words of OpenClaw's `permissionMode`; none leaves it to the agent.
    pub permission_mode: Option<String>,
    /// Cancelled when the turn is no longer wanted; soon after, its future is dropped.
    pub cancel: CancellationToken,
}

/// Who sent a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sender {
    /// Who he has proven to be.
    pub principal: Principal,
    /// The device that proved itself; none for the owner on loopback without one.
    pub device_id: Option<String>,
    /// The name the client gives itself: a claim.
    pub display_name: Option<String>,
}

/// Where an agent puts the pieces of its reply while it writes. Optional: the whole reply counts.
#[derive(Debug, Clone)]
pub struct Deltas(mpsc::Sender<String>);

impl Deltas {
    /// A sink and its other end.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(32);
        (Self(sender), receiver)
    }

    /// Adds a piece. Waits while the gateway is behind; does nothing when nobody listens any more.
    pub async fn push(&self, text: impl Into<String>) {
        let _ = self.0.send(text.into()).await;
    }
}

/// Why an agent gave no reply. The words reach the sender, but those that are called aside: put no secret into them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentFailure {
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// It failed, and there is more to be said of it than the sender may hear.
    #[error("{why}")]
    Explained {
        /// What the sender is told.
        why: String,
        /// What only the owner is told.
        aside: String,
    },
    /// It took longer than it may.
    #[error("the agent took too long")]
    TimedOut,
    /// It stopped because its turn was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl AgentFailure {
    /// A failure with a reason.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

impl fmt::Debug for dyn Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a peer.
    pub(super) fn turn(message: &str) -> Turn {
        Turn {
            run_id: "run-1".into(),
            origin: Origin::Agent,
            session_key: "agent:main:mesh:alice".into(),
            message: message.into(),
            provenance: None,
            permission_mode: None,
            from: Sender { device_id: Some("d1".into()), ..Sender::default() },
            cancel: CancellationToken::new(),
        }
    }
}
