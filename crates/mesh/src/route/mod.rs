//! How a message reaches a peer.

pub(crate) mod a2a;
pub(crate) mod agent;
pub(crate) mod chat;
pub(crate) mod delivery;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod look;
pub(crate) mod recognize;
pub(crate) mod recover;

use jiff::Timestamp;
use openclaw_client::protocol::Fault;
use openclaw_client::{CallError, Client};
use tokio::time::{Duration, Instant};

use crate::error::MeshError;
use crate::progress::Observer;
use crate::record::{State, To};
use crate::registry::Via;
pub(crate) use delivery::Delivery;

/// A message, ready for the wire.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub to: To,
    /// The message's own id.
    pub id: String,
    /// The run id and idempotency key of this attempt.
    pub run_id: String,
    pub via: Via,
    pub session: String,
    /// With the header.
    pub text: String,
    /// Who we are, for the gateway's own note to the model.
    pub me: String,
    pub wait: Wait,
    pub deadline: Instant,
    /// When it is too late to send it; what left before that may still be answered.
    pub expires_at: Option<Timestamp>,
}

/// How long a message is waited for, within its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until it was taken.
    Taken,
    /// Until its reply is here; one that its peer's owner has to let run is not waited for.
    UnlessHeld,
    /// Until its reply is here, whatever that takes.
    Reply,
}

impl Wait {
    /// Whether it is over when the message was taken, or held.
    pub(crate) fn is_over(self, held: bool) -> bool {
        self == Self::Taken || (held && self == Self::UnlessHeld)
    }
}

impl From<bool> for Wait {
    fn from(wait: bool) -> Self {
        if wait { Self::Reply } else { Self::Taken }
    }
}

/// Why an attempt did not come to its end.
#[derive(Debug)]
pub(crate) enum Setback {
    /// The connection is gone, or the run belongs to another connection: look before doing anything.
    Lost(String),
    /// The connection was gone before the message was written: nothing left.
    Unsent(String),
    /// Our time is over.
    Deadline,
    /// It was turned away and certainly started nothing; the gateway wants it again after so long a time.
    Later(Duration, MeshError),
    /// This is how it ended.
    Final(MeshError),
}

impl Outgoing {
    /// This attempt, for a look at what became of it.
    pub(crate) fn sought(&self) -> look::Sought<'_> {
        look::Sought { session: &self.session, run_id: &self.run_id, deadline: self.deadline }
    }

    /// Whether its time to leave is over.
    pub(crate) fn is_stale(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= Timestamp::now())
    }

    /// What it means that the request which carries the message had no good answer.
    pub(crate) fn not_taken(&self, error: CallError, delivery: &mut Delivery<'_>) -> Setback {
        delivery.was_turned_away = matches!(error, CallError::Refused(_));
        match (later(&error), error) {
            (Some(pause), source) => Setback::Later(pause, MeshError::Call { to: self.to.clone(), source }),
            (None, CallError::Unsent(how)) => Setback::Unsent(how.to_string()),
            (None, error) => self.setback(error, delivery),
        }
    }

    /// What it means that a look for the message had no good answer: nothing about the message itself.
    pub(crate) fn unseen(&self, error: CallError, delivery: &mut Delivery<'_>) -> Setback {
        match error {
            CallError::Refused(shape) if matches!(shape.fault(), Fault::Unavailable { .. }) => {
                Setback::Lost(shape.message)
            }
            CallError::Lost(_) | CallError::Unsent(_) | CallError::Deadline => self.setback(error, delivery),
            other => Setback::Final(self.give_up(&other.to_string(), delivery)),
        }
    }

    /// What a request without a good answer means for this message, which has left.
    pub(crate) fn setback(&self, error: CallError, delivery: &mut Delivery<'_>) -> Setback {
        match error {
            CallError::Lost(how) | CallError::Unsent(how) => Setback::Lost(how.to_string()),
            // It was answered, so it arrived; what the answer says has to be looked up.
            CallError::Decode(error) => Setback::Lost(format!("an answer that makes no sense: {error}")),
            CallError::Deadline => Setback::Deadline,
            source => {
                delivery.finished(State::Failed);
                Setback::Final(MeshError::Call { to: self.to.clone(), source })
            }
        }
    }

    /// What to say when our time is over, or nothing more can be found out.
    pub(crate) fn give_up(&self, reason: &str, delivery: &mut Delivery<'_>) -> MeshError {
        let (to, id) = (self.to.clone(), self.id.clone());
        match delivery.state() {
            State::Accepted => return MeshError::ReplyDeadline { to, id },
            State::Held => return MeshError::Held { to, id },
            _ => {}
        }
        delivery.finished(State::Unknown);
        MeshError::Unknown { to, id, reason: reason.to_owned() }
    }
}

/// How long a gateway that turned a message away wants to be left alone, if it wants the same message again: it drains
/// before a restart, too much waits there, or its policy lets us say no more just now. `UNAVAILABLE` alone is not enough: a run that was interrupted in the queue
/// is refused with it for ever.
fn later(error: &CallError) -> Option<Duration> {
    let CallError::Refused(shape) = error else { return None };
    match shape.fault() {
        Fault::Unavailable { retry_after_ms, .. } if shape.retryable == Some(true) => {
            Some(Duration::from_millis(retry_after_ms.unwrap_or(1_000)))
        }
        Fault::PolicyDenied { retry_after_ms: Some(pause), .. } => Some(Duration::from_millis(pause)),
        _ => None,
    }
}

/// Delivers over a connection that stands, by the message's route.
pub(crate) async fn deliver(
    client: &Client,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    match message.via {
        Via::Agent => agent::deliver(client, message, delivery, observer).await,
        Via::Chat => chat::deliver(client, message, delivery, observer).await,
        // It has no gateway to connect to, and never comes here.
        Via::A2a => {
            delivery.finished(State::Failed);
            let what = "a message over A2A does not go through a gateway";
            Err(Setback::Final(MeshError::Usage(what.to_owned())))
        }
    }
}
