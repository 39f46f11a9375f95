//! What the scripted agent answers to one turn.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

/// One turn the scripted agent is asked to run.
#[derive(Debug, Clone)]
pub struct Turn {
    /// `agent` or `chat.send`.
    pub method: String,
    /// The run id: the client's `idempotencyKey`.
    pub run_id: String,
    /// The session as the gateway names it (`agent:main:...`).
    pub session_key: String,
    /// The text.
    pub message: String,
    /// All parameters of the request.
    pub params: Value,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The texts of `result.payloads`.
    Texts(Vec<String>),
    ProviderError(String),
    Empty,
    Timeout,
    Aborted,
    /// `chat.send` only: queued or merged into another run; ends well, without a reply of its own.
    Merged,
    /// The payload of the second response, verbatim.
    Raw(Value),
}

/// What happens when a turn is sent.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) ends: Ends,
    pub(crate) deltas: Vec<String>,
    pub(crate) before: Duration,
    pub(crate) between: Duration,
    pub(crate) gate: Option<Gate>,
}

#[derive(Debug, Clone)]
pub(crate) enum Ends {
    With(Outcome),
    Never,
    /// Not accepted: an error as the first and only answer.
    Refused(Value),
    /// `in_flight` as the first and only answer: the key is running elsewhere.
    InFlight,
}

impl Reply {
    fn new(ends: Ends) -> Self {
        Self { ends, deltas: Vec::new(), before: Duration::ZERO, between: Duration::ZERO, gate: None }
    }

    /// The agent answers this text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::texts([text.into()])
    }

    /// The agent answers several payloads, which a client joins.
    #[must_use]
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::new(Ends::With(Outcome::Texts(texts.into_iter().map(Into::into).collect())))
    }

    /// The model provider fails: `UNAVAILABLE` as the second response.
    #[must_use]
    pub fn provider_error(message: &str) -> Self {
        Self::new(Ends::With(Outcome::ProviderError(message.to_owned())))
    }

    /// The agent says nothing: status `error` with an `isError` payload.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Ends::With(Outcome::Empty))
    }

    /// The run times out on the gateway's side.
    #[must_use]
    pub fn timeout() -> Self {
        Self::new(Ends::With(Outcome::Timeout))
    }

    /// Somebody aborts the run.
    #[must_use]
    pub fn aborted() -> Self {
        Self::new(Ends::With(Outcome::Aborted))
    }

    /// The second response carries exactly this payload.
    #[must_use]
    pub fn raw(payload: Value) -> Self {
        Self::new(Ends::With(Outcome::Raw(payload)))
    }

    /// Accepted, and then nothing, for ever (until `chat.abort`).
    #[must_use]
    pub fn never() -> Self {
        Self::new(Ends::Never)
    }

    /// Not accepted: this error object (`{"code", "message", ...}`) is the only answer, and nothing runs.
    #[must_use]
    pub fn refused(error: Value) -> Self {
        Self::new(Ends::Refused(error))
    }

    /// `in_flight` is the only answer, and nothing runs.
    #[must_use]
    pub fn in_flight() -> Self {
        Self::new(Ends::InFlight)
    }

    /// Stream these pieces as `delta` events before the end.
    #[must_use]
    pub fn deltas<T: Into<String>>(mut self, pieces: impl IntoIterator<Item = T>) -> Self {
        self.deltas = pieces.into_iter().map(Into::into).collect();
        self
    }

    /// Think for this long before the first delta (or the end).
    #[must_use]
    pub fn after(mut self, think: Duration) -> Self {
        self.before = think;
        self
    }

    /// Wait this long after each delta.
    #[must_use]
    pub fn every(mut self, pause: Duration) -> Self {
        self.between = pause;
        self
    }

    /// Do not end before the gate opens. (Deltas are sent before that.)
    #[must_use]
    pub fn when(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

/// Holds runs back until the test opens it: the way to say in which order runs end, without sleeping.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets all runs held by this gate end, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn opened(&self) {
        let mut state = self.0.subscribe();
        // Cannot fail: `self` keeps the sender alive.
        let _ = state.wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
