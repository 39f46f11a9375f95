//! A run is written down before its sender is told that it is taken: whoever was told finds it after a crash.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use crate::conn::Conn;
use crate::ledger::{Accepted, Held};
use crate::memory::Past;
use crate::methods::{conflict, reply};
use crate::runs::{Origin, Run};
use crate::secret::sha256;
use crate::shared::Shared;

/// A run that is to be written down, and what its sender is told then.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) run: Arc<Run>,
    pub(crate) written: Held,
    /// Its agent is asked at once.
    pub(crate) begins: bool,
    pub(crate) conn: Arc<Conn>,
    pub(crate) request: String,
    pub(crate) acknowledgement: Value,
}

/// Whether a run is written down, and under which name.
#[derive(Debug)]
pub(crate) enum Keeping {
    /// Its lane does that when it comes to it, which is now.
    Own(Box<Taking>),
    /// It will be soon.
    Soon(oneshot::Receiver<Accepted>),
    /// It is, or cannot be; or it was before.
    Done(Accepted),
}

impl Taking {
    /// Writes it down, and tells its sender; also where it is known, unless that is what its second answer does.
    pub(crate) async fn down(self, shared: &Shared) -> Accepted {
        let accepted = shared.config.ledger.accept(self.written, self.begins).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a run could not be written down");
            Accepted::New(None)
        });
        match &accepted {
            Accepted::New(_) => reply(&self.conn, &self.request, &Ok(self.acknowledgement)),
            Accepted::Known(past) => tell_known(&self.conn, &self.request, &self.run, past),
        }
        accepted
    }
}

/// Tells who asked for a run that it is known, as far as its second answer does not: `chat.send` has none.
pub(crate) fn tell_known(conn: &Conn, request: &str, run: &Run, past: &Past) {
    if run.origin == Origin::Chat {
        let is_same = sha256(past.message.as_bytes()) == run.digest;
        reply(conn, request, &if is_same { Ok(past.done().chat_ack()) } else { Err(conflict()) });
    }
}

impl Keeping {
    /// Whether its sender was told that it is taken.
    pub(crate) fn is_done(&mut self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Soon(accepted) => match accepted.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => false,
                accepted => {
                    *self = Self::Done(accepted.unwrap_or(Accepted::New(None)));
                    true
                }
            },
            Self::Done(_) => true,
        }
    }

    /// Returns when it is written down and its sender was told, or it cannot be written down.
    pub(crate) async fn done(&mut self, shared: &Shared) {
        let accepted = match std::mem::take(self) {
            Self::Own(taking) => taking.down(shared).await,
            Self::Soon(accepted) => accepted.await.unwrap_or(Accepted::New(None)),
            Self::Done(accepted) => accepted,
        };
        *self = Self::Done(accepted);
    }

    /// What became of it before, if it ran already.
    pub(crate) fn known(&self) -> Option<&Past> {
        match self {
            Self::Done(Accepted::Known(past)) => Some(past),
            Self::Own(_) | Self::Soon(_) | Self::Done(Accepted::New(_)) => None,
        }
    }

    /// Its name, if it is written down.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Own(_) | Self::Soon(_) | Self::Done(Accepted::Known(_)) => None,
            Self::Done(Accepted::New(name)) => name.as_deref(),
        }
    }
}

impl Default for Keeping {
    fn default() -> Self {
        Self::Done(Accepted::New(None))
    }
}
