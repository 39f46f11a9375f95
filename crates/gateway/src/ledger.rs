//! What must survive a restart about runs: how many of each peer there were today, which are not over, which wait for the
//! owner's word, and whether he has paused the door.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use openclaw_protocol::methods::agent::InputProvenance;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::memory::{End, Past};
use crate::shared::{lock, now_ms};

/// What a [`Ledger`] answers with.
pub type Kept<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A message that waits, for its turn or until the owner says yes or no, with all that it takes to run it then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its name for the owner, if it is held; else that of its run.
    pub id: String,
    /// The name that the ledger keeps it under, where it does.
    #[serde(skip)]
    pub kept: Option<String>,
    /// The run, by the sender's choice.
    pub run_id: String,
    /// Whether `chat.send` brought it, not `agent`.
    pub is_chat: bool,
    /// The session in its full form.
    pub session: String,
    /// The key of the peer; `owner` for a run of the owner's.
    pub peer: String,
    /// The key and the session that the peer had before its device had a name: what came then is known, too.
    #[serde(skip)]
    pub earlier: Option<(String, String)>,
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

/// A run that was taken, and is not known to have ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// What was asked for.
    pub run: Held,
    /// When its agent may have been asked, milliseconds since the epoch; none of one that certainly only waited.
    pub began_at: Option<i64>,
}

/// What became of a run that was to be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is new; under this name it is kept, if it is.
    New(Option<String>),
    /// The ledger has it already: of the same sender in the same session, over the same method. It must not run again.
    Known(Box<Past>),
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

    /// Keeps a run that is taken, unless it is known, and whether its agent is asked at once. Its sender is told afterwards.
    /// The gateway itself knows the last runs only: an implementation that keeps runs when they are over looks them up.
    ///
    /// # Errors
    /// When it cannot be kept. It runs all the same.
    fn accept(&self, run: Held, begins: bool) -> Kept<'_, Accepted>;

    /// The agent of a run that waited is asked now.
    ///
    /// # Errors
    /// When that cannot be kept: the run fails then, or it might run again after a restart.
    fn began<'a>(&'a self, name: &'a str) -> Kept<'a, ()>;

    /// A run is over. The call itself puts that in order; its future only tells when it is done.
    ///
    /// # Errors
    /// When that cannot be kept.
    fn ended(&self, name: &str, end: End) -> Kept<'static, ()>;

    /// The runs that are not known to have ended, in the order they came.
    ///
    /// # Errors
    /// When they cannot be read; the gateway does not start then.
    fn unfinished(&self) -> Kept<'_, Vec<Unfinished>>;

    /// The messages that are held, oldest first.
    ///
    /// # Errors
    /// When they cannot be read; the gateway does not start then.
    fn held(&self) -> Kept<'_, Vec<Held>>;

    /// Keeps a message, unless its run is known. Its sender is told of it afterwards. The name is that of its run once it is
    /// let in.
    ///
    /// # Errors
    /// When it cannot be kept: its run fails then.
    fn hold(&self, held: Held) -> Kept<'_, Accepted>;

    /// A held message is held no more. One that is approved is a run from now on.
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
    unfinished: Vec<Unfinished>,
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

    fn accept(&self, run: Held, begins: bool) -> Kept<'_, Accepted> {
        let name = Uuid::new_v4().to_string();
        let began_at = begins.then_some(run.since);
        let run = Held { kept: Some(name.clone()), ..run };
        self.with(|pages| {
            pages.unfinished.push(Unfinished { run, began_at });
            Accepted::New(Some(name))
        })
    }

    fn began<'a>(&'a self, name: &'a str) -> Kept<'a, ()> {
        self.with(|pages| {
            let mut known = pages.unfinished.iter_mut();
            if let Some(one) = known.find(|one| one.run.kept.as_deref() == Some(name)) {
                one.began_at = Some(now_ms());
            }
        })
    }

    fn ended(&self, name: &str, _: End) -> Kept<'static, ()> {
        self.with(|pages| pages.unfinished.retain(|one| one.run.kept.as_deref() != Some(name)))
    }

    fn unfinished(&self) -> Kept<'_, Vec<Unfinished>> {
        self.with(|pages| pages.unfinished.clone())
    }

    fn held(&self) -> Kept<'_, Vec<Held>> {
        self.with(|pages| pages.held.clone())
    }

    fn hold(&self, held: Held) -> Kept<'_, Accepted> {
        let name = Uuid::new_v4().to_string();
        let held = Held { kept: Some(name.clone()), ..held };
        self.with(|pages| {
            pages.held.push(held);
            Accepted::New(Some(name))
        })
    }

    fn decided(&self, id: String, decision: Decision) -> Kept<'_, ()> {
        self.with(|pages| {
            let decided = pages.held.extract_if(.., |held| held.id == id).collect::<Vec<_>>();
            if decision == Decision::Approved {
                pages.unfinished.extend(decided.into_iter().map(|run| Unfinished { run, began_at: None }));
            }
        })
    }

    fn is_paused(&self) -> Kept<'_, bool> {
        self.with(|pages| pages.paused)
    }

    fn pause(&self, paused: bool) -> Kept<'_, ()> {
        self.with(|pages| pages.paused = paused)
    }
}
