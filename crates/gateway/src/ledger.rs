//! What must survive a restart about the runs of peers: how many there were today, which wait for the owner's word, and
//! whether he has paused the door.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use openclaw_protocol::methods::agent::InputProvenance;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shared::lock;

/// What a [`Ledger`] answers with.
pub type Kept<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A message that is held until the owner says yes or no, with all that it takes to run it then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its name for the owner.
    pub id: String,
    /// The run, by the sender's choice.
    pub run_id: String,
    /// Whether `chat.send` brought it, not `agent`.
    pub is_chat: bool,
    /// The session in its full form.
    pub session: String,
    /// The key of the peer.
    pub peer: String,
    /// The name of the peer.
    pub name: String,
    /// The device that proved itself.
    pub device_id: Option<String>,
    /// What the client says of itself.
    pub client: Value,
    /// Where the message comes from, as the sender claims.
    pub provenance: Option<InputProvenance>,
    /// The message.
    pub message: String,
    /// The sender's own limit for the run, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Since when, milliseconds since the epoch.
    pub since: i64,
}

/// What became of a held message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It runs.
    Approved,
    /// The owner said no.
    Rejected,
    /// Its sender wants it no more.
    Withdrawn,
}

/// A place that survives a restart. What it promises is on the disk when its future is done.
pub trait Ledger: Send + Sync + 'static {
    /// How many runs of each peer began since this time (milliseconds since the epoch), by the peers' keys.
    ///
    /// # Errors
    /// When it cannot be read; the gateway does not start then.
    fn runs_since(&self, since: i64) -> Kept<'_, HashMap<String, u32>>;

    /// The messages that are held, oldest first.
    ///
    /// # Errors
    /// When they cannot be read; the gateway does not start then.
    fn held(&self) -> Kept<'_, Vec<Held>>;

    /// Keeps a message. Its sender is told of it afterwards.
    ///
    /// # Errors
    /// When it cannot be kept: its run fails then.
    fn hold(&self, held: Held) -> Kept<'_, ()>;

    /// A held message is held no more.
    ///
    /// # Errors
    /// When that cannot be kept: the message stays held then.
    fn decided(&self, id: String, decision: Decision) -> Kept<'_, ()>;

    /// Whether the owner has paused the door.
    ///
    /// # Errors
    /// When it cannot be read; the gateway does not start then.
    fn is_paused(&self) -> Kept<'_, bool>;

    /// The owner pauses the door, or opens it again.
    ///
    /// # Errors
    /// When that cannot be kept: nothing changes then.
    fn pause(&self, paused: bool) -> Kept<'_, ()>;
}

/// A ledger that forgets everything with the process; for demos and tests.
#[derive(Debug, Default, Clone)]
pub struct MemoryLedger(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    held: Vec<Held>,
    paused: bool,
}

impl MemoryLedger {
    fn with<T: Send + 'static>(&self, change: impl FnOnce(&mut Pages) -> T) -> Kept<'static, T> {
        let result = change(&mut lock(&self.0));
        Box::pin(async move { Ok(result) })
    }
}

impl Ledger for MemoryLedger {
    /// None: what it would have counted ended with the process.
    fn runs_since(&self, _: i64) -> Kept<'_, HashMap<String, u32>> {
        Box::pin(async { Ok(HashMap::new()) })
    }

    fn held(&self) -> Kept<'_, Vec<Held>> {
        self.with(|pages| pages.held.clone())
    }

    fn hold(&self, held: Held) -> Kept<'_, ()> {
        self.with(|pages| pages.held.push(held))
    }

    fn decided(&self, id: String, _: Decision) -> Kept<'_, ()> {
        self.with(|pages| pages.held.retain(|held| held.id != id))
    }

    fn is_paused(&self) -> Kept<'_, bool> {
        self.with(|pages| pages.paused)
    }

    fn pause(&self, paused: bool) -> Kept<'_, ()> {
        self.with(|pages| pages.paused = paused)
    }
}
