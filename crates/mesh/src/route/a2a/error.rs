//! What can go wrong between us and an A2A agent.

use super::wire::{METHOD_NOT_FOUND, UNSUPPORTED_OPERATION};

/// Why an A2A agent could not be asked, or gave no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum A2aError {
    /// Nobody answers there, so nothing was sent.
    #[error("cannot connect")]
    Unreachable(#[source] reqwest::Error),
    /// The connection broke in the middle.
    #[error("the connection was lost")]
    Lost(#[source] reqwest::Error),
    /// Our time is over.
    #[error("no answer in time")]
    Deadline,
    /// It refused our bearer token, or wants one.
    #[error("it answered with status {0}")]
    Unauthorized(u16),
    /// It answered with another status.
    #[error("it answered with status {0}")]
    Status(u16),
    /// What is there is no agent that we could talk to.
    #[error("its agent card is of no use: {0}")]
    Card(String),
    /// It refused the request.
    #[error("{message} ({code})")]
    Rpc {
        /// The error's number.
        code: i64,
        /// Its words.
        message: String,
    },
    /// Its answer makes no sense.
    #[error("an answer that makes no sense: {0}")]
    BadAnswer(String),
}

impl A2aError {
    /// Whether it will not be any different when it is asked again.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Card(_))
    }
    /// Whether there is no such method there: then nothing was done.
    pub(super) fn is_not_offered(&self) -> bool {
        matches!(self, Self::Rpc { code: METHOD_NOT_FOUND | UNSUPPORTED_OPERATION, .. })
    }
}
