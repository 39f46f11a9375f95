//! What was said before this gateway started. The gateway itself owns no file: whoever keeps one lends it a [`Memory`].

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::Pin;

use crate::agent::frame;
use crate::lane::TIMED_OUT;
use crate::outcome::{Done, Outcome};
use crate::runs::Origin;

/// Under this key the owner stands in a memory; no peer's key is this.
pub(crate) const OWNER: &str = "owner";

/// The future of a recollection.
pub type Recollection<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Remembers the turns of earlier days.
pub trait Memory: Send + Sync + 'static {
    /// The newest turns of all sessions, oldest first.
    fn recent(&self, room: Room) -> Recollection<'_, Vec<Past>>;

    /// The newest turns of one session, oldest first.
    fn session<'a>(&'a self, key: &'a str, room: Room) -> Recollection<'a, Vec<Past>>;

    /// The turn of one run.
    fn run<'a>(&'a self, run_id: &'a str) -> Recollection<'a, Option<Past>>;
}

/// How much may be remembered at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many turns.
    pub turns: usize,
    /// So many bytes of message and reply; one turn that is larger is left out as well.
    pub bytes: usize,
}

/// A turn of earlier days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The run.
    pub run_id: String,
    /// How it was asked for.
    pub origin: Origin,
    /// The session in its full form.
    pub session_key: String,
    /// The key of who asked, as [`Principal::key`](crate::Principal::key) gives it.
    pub from: String,
    /// What he said.
    pub message: String,
    /// How it ended.
    pub end: End,
    /// When it began, milliseconds since the epoch.
    pub began_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
}

impl Past {
    /// What the agent was told, as [`Turn::framed`](crate::Turn::framed) says it today. The device is not remembered.
    pub(crate) fn framed(&self) -> Cow<'_, str> {
        match &*self.from {
            OWNER => Cow::Borrowed(&self.message),
            peer => Cow::Owned(frame::message(peer, None, &self.run_id, &self.message)),
        }
    }
}

impl Past {
    /// What whoever asks for its run is told.
    pub(crate) fn done(&self) -> Done {
        let unknown = || Outcome::Failed("what became of the run is not known".to_owned());
        let outcome = self.end.clone().outcome().unwrap_or_else(unknown);
        Done::new(&self.run_id, outcome, 0, self.ended_at.unwrap_or(self.began_at))
    }
}

/// How a turn of earlier days ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// With this reply.
    Replied(String),
    /// Without a word.
    NoReply,
    /// It failed, for this reason.
    Failed(String),
    /// Somebody stopped it.
    Cancelled,
    /// It is not known to have ended.
    Open,
}

impl End {
    /// The outcome of a run that ended so; none of one that is not known to have ended.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Replied(text) => Some(Outcome::Reply(text)),
            Self::NoReply => Some(Outcome::Silence),
            Self::Failed(why) => Some(Outcome::Failed(why)),
            Self::Cancelled => Some(Outcome::Aborted),
            Self::Open => None,
        }
    }
}

impl From<&Outcome> for End {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Reply(text) => Self::Replied(text.clone()),
            Outcome::Silence => Self::NoReply,
            Outcome::Failed(why) => Self::Failed(why.clone()),
            Outcome::TimedOut => Self::Failed(TIMED_OUT.to_owned()),
            Outcome::Aborted => Self::Cancelled,
        }
    }
}

/// Remembers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMemory;

impl Memory for NoMemory {
    fn recent(&self, _: Room) -> Recollection<'_, Vec<Past>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn session<'a>(&'a self, _: &'a str, _: Room) -> Recollection<'a, Vec<Past>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn run<'a>(&'a self, _: &'a str) -> Recollection<'a, Option<Past>> {
        Box::pin(async { Ok(None) })
    }
}
