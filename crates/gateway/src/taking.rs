//! A run is written down before its sender is told that it is taken: whoever was told finds it after a crash.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use crate::conn::Conn;
use crate::ledger::Held;
use crate::methods::reply;
use crate::shared::Shared;

/// A run that is to be written down, and what its sender is told then.
#[derive(Debug)]
pub(crate) struct Taking {
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
    Soon(oneshot::Receiver<Option<String>>),
    /// It is, or cannot be.
    Done(Option<String>),
}

impl Taking {
    /// Writes it down, and tells its sender; gives its name, if it could be written.
    pub(crate) async fn down(self, shared: &Shared) -> Option<String> {
        let name = shared.config.ledger.accept(self.written, self.begins).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a run could not be written down");
            None
        });
        reply(&self.conn, &self.request, &Ok(self.acknowledgement));
        name
    }
}

impl Keeping {
    /// Whether its sender was told that it is taken.
    pub(crate) fn is_done(&mut self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Soon(name) => match name.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => false,
                name => {
                    *self = Self::Done(name.ok().flatten());
                    true
                }
            },
            Self::Done(_) => true,
        }
    }

    /// Returns when it is written down and its sender was told, or it cannot be written down.
    pub(crate) async fn done(&mut self, shared: &Shared) {
        let name = match std::mem::take(self) {
            Self::Own(taking) => taking.down(shared).await,
            Self::Soon(name) => name.await.ok().flatten(),
            Self::Done(name) => name,
        };
        *self = Self::Done(name);
    }

    /// Its name, if it is written down.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Own(_) | Self::Soon(_) => None,
            Self::Done(name) => name.as_deref(),
        }
    }
}

impl Default for Keeping {
    fn default() -> Self {
        Self::Done(None)
    }
}
