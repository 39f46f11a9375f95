//! How long each step of a connection took.

use std::time::Duration;

use tokio::time::Instant;

/// The steps of a connection, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The host name was looked up.
    Resolve,
    /// The TCP connection stands.
    Tcp,
    /// The TLS session stands.
    Tls,
    /// The WebSocket stands.
    Ws,
    /// The gateway sent its challenge.
    Challenge,
    /// The gateway let us in.
    Auth,
}

impl Step {
    /// Its name, as `ping` prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Challenge => "challenge",
            Self::Auth => "auth",
        }
    }
}

/// A step that was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDone {
    /// Which.
    pub step: Step,
    /// How long it took.
    pub took: Duration,
    /// What was found, such as an address.
    pub detail: String,
}

/// The steps passed so far.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// In order.
    pub steps: Vec<StepDone>,
}

impl Trace {
    pub(crate) fn passed(&mut self, step: Step, since: Instant, detail: impl Into<String>) {
        self.steps.push(StepDone { step, took: since.elapsed(), detail: detail.into() });
    }
}
