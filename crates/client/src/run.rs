//! A run of an agent: accepted first, finished later, both on one request id.

use openclaw_protocol::methods::agent::{AgentAck, AgentDone, Outcome};
use tokio::time::Instant;

use crate::client::Pending;
use crate::driver::Answer;
use crate::error::CallError;

/// A run that the gateway accepted.
pub struct Run {
    ack: AgentAck,
    rest: Rest,
}

enum Rest {
    /// The second answer is to come.
    Awaited(Pending),
    /// The run had finished before: its cached result came at once.
    Known(Outcome),
}

impl Run {
    pub(crate) async fn accepted(mut pending: Pending, deadline: Instant) -> Result<Self, CallError> {
        let payload = match pending.answer(deadline).await? {
            Answer::Good(payload) => payload,
            Answer::Bad(error) => return Err(CallError::Refused(error)),
            Answer::Lost(lost) => return Err(CallError::Lost(lost)),
            Answer::Unsent(lost) => return Err(CallError::Unsent(lost)),
        };
        let raw = payload.as_ref().map_or("null", |raw| raw.get());
        let ack: AgentAck = serde_json::from_str(raw).map_err(CallError::Decode)?;
        let rest = if is_running(&ack.status) {
            Rest::Awaited(pending)
        } else {
            let done: AgentDone = serde_json::from_str(raw).map_err(CallError::Decode)?;
            Rest::Known(done.outcome())
        };
        Ok(Self { ack, rest })
    }

    /// What the gateway said when it accepted the run.
    #[must_use]
    pub fn ack(&self) -> &AgentAck {
        &self.ack
    }

    /// Whether this key was already running for an earlier request: its result goes there, none comes here.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.ack.status == "in_flight"
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// [`CallError::Lost`] and [`CallError::Deadline`] say nothing about the run, which goes on at the gateway; nor does
    /// [`CallError::Decode`], when what came is no end of this run.
    pub async fn finished(self, deadline: Instant) -> Result<Outcome, CallError> {
        let mut pending = match self.rest {
            Rest::Known(outcome) => return Ok(outcome),
            Rest::Awaited(pending) => pending,
        };
        match pending.answer(deadline).await? {
            Answer::Good(payload) => {
                let raw = payload.as_ref().map_or("null", |raw| raw.get());
                let done: AgentDone = serde_json::from_str(raw).map_err(CallError::Decode)?;
                if !done.run_id.is_empty() && done.run_id != self.ack.run_id {
                    let what = format!("the end of another run, {:?}", done.run_id);
                    return Err(CallError::Decode(serde::de::Error::custom(what)));
                }
                Ok(done.outcome())
            }
            Answer::Bad(error) => Ok(Outcome::Failed(error.message)),
            Answer::Lost(lost) | Answer::Unsent(lost) => Err(CallError::Lost(lost)),
        }
    }
}

/// Whether an answer with this status is the first of two.
pub(crate) fn is_running(status: &str) -> bool {
    matches!(status, "accepted" | "in_flight")
}
