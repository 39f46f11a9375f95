//! A run, and what it takes to execute it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openclaw_protocol::methods::agent::InputProvenance;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Place;
use crate::agent::Sender;
use crate::conn::ShownClient;
use crate::ledger::Held;
use crate::memory::OWNER;
use crate::outbox::Outbox;
use crate::outcome::Done;
use crate::shares::Who;
use crate::taking::Keeping;

/// Through which method a run was started. A key is known per method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `agent`.
    Agent,
    /// `chat.send`.
    Chat,
}

/// A run, from its acceptance until it is forgotten. What it was told lives in its [`Job`], not here.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    pub(crate) session: String,
    /// Who started it. A peer's key is his alone: others may use the same one.
    pub(crate) who: Who,
    /// The hash of its message.
    pub(crate) digest: [u8; 32],
    pub(crate) accepted_at: i64,
    /// Somebody wants it to stop.
    pub(crate) abort: CancellationToken,
    pub(super) done: watch::Sender<Option<Arc<Done>>>,
    events: AtomicU64,
}

impl Run {
    pub(crate) fn new(
        id: String,
        origin: Origin,
        session: String,
        who: Who,
        digest: [u8; 32],
        accepted_at: i64,
    ) -> Self {
        Self {
            id,
            origin,
            session,
            who,
            digest,
            accepted_at,
            abort: CancellationToken::new(),
            done: watch::Sender::new(None),
            events: AtomicU64::new(0),
        }
    }

    /// The same run as it would be under the name and in the session that its sender had before.
    pub(crate) fn before(&self, who: Who, session: String) -> Self {
        Self::new(self.id.clone(), self.origin, session, who, self.digest, self.accepted_at)
    }

    /// By what it is found in the table.
    pub(super) fn place(&self) -> Place {
        (self.who.peer().map(str::to_owned), self.origin, self.id.clone())
    }

    /// How it ended, if it has.
    pub(crate) fn done(&self) -> Option<Arc<Done>> {
        self.done.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Option<Arc<Done>> {
        let mut done = self.done.subscribe();
        done.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
    }

    /// What its names take, roughly.
    pub(super) fn size(&self) -> usize {
        // Once in the run, once as the key of the table.
        2 * self.id.len() + self.session.len()
    }

    /// A number for the next event of this run.
    pub(crate) fn next_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A run that waits for its turn, with all that is needed to execute it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: Arc<Run>,
    pub(crate) message: String,
    pub(crate) provenance: Option<InputProvenance>,
    pub(crate) sender: Sender,
    /// The client as it stands in the history.
    pub(crate) client: Arc<ShownClient>,
    /// The caller's own limit.
    pub(crate) timeout: Option<Duration>,
    /// Who gets the second answer, under which request id.
    pub(crate) reply_to: Option<(Arc<Outbox>, String)>,
    /// Whether it is written down.
    pub(crate) kept: Keeping,
    /// The key and the session that its sender had before his device had a name here.
    pub(crate) earlier: Option<(String, String)>,
    /// How far it was when it was.
    pub(crate) stage: Stage,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits. That it begins has to be written down first.
    Waits,
    /// It begins.
    Begins,
    /// It began at this time, in milliseconds since the epoch, under an earlier process of this gateway.
    Began(i64),
}

impl Job {
    /// As the ledger keeps it, under this name for the owner.
    pub(crate) fn written(&self, id: &str, since: i64) -> Held {
        let run = &self.run;
        Held {
            id: id.to_owned(),
            kept: None,
            run_id: run.id.clone(),
            is_chat: run.origin == Origin::Chat,
            session: run.session.clone(),
            peer: self.sender.principal.key().to_owned(),
            name: self.sender.principal.peer().map_or_else(|| OWNER.to_owned(), |member| member.name.clone()),
            device_id: self.sender.device_id.clone(),
            client: json!(&*self.client),
            provenance: self.provenance.clone(),
            earlier: self.earlier.clone(),
            message: self.message.clone(),
            timeout_ms: self.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            since,
        }
    }

    /// What it holds while it waits, beside what is the same for every job.
    pub(super) fn size(&self) -> usize {
        self.message.len() + self.provenance.as_ref().map_or(0, provenance_size) + self.run.size()
    }
}

/// The bytes of a provenance.
pub(crate) fn provenance_size(provenance: &InputProvenance) -> usize {
    provenance_texts(provenance).map(str::len).sum()
}

/// The texts of a provenance.
pub(crate) fn provenance_texts(provenance: &InputProvenance) -> impl Iterator<Item = &str> {
    let InputProvenance { kind, source_session_key, source_channel, source_tool } = provenance;
    let optional = [source_session_key, source_channel, source_tool];
    optional.into_iter().flatten().chain([kind]).map(String::as_str)
}
