//! Connections to teammates' gateways that outlive a message, for the next one.
//!
//! One for each teammate, which all messages to him share that are under way at once: an answer finds its request by the
//! request's id, and an event its run by the run's. Who dials and who waits for that dial is settled here, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::join_all;
use openclaw_client::Client;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout_at};

use crate::descriptors;
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::route::gateway;

mod kept;

use kept::{Kept, Terms, known_identity};

/// How long a connection is kept without a message. An agent that goes on talking does so within its own turn; a gateway
/// that vanishes without a word is noticed after two ticks, which are this long with OpenClaw; and no router on the way
/// forgets a silent connection so soon.
const IDLE: Duration = Duration::from_secs(60);
/// So many connections without a message are kept: with as many at work they stay far below 256 file descriptors, what a
/// system usually gives a process at least.
const MOST_IDLE: usize = 64;
/// So many are kept however few descriptors there are.
const LEAST_IDLE: usize = 8;
/// So many messages share one connection; the next has one of its own. `serve` lets 64 requests of one connection wait.
const MOST_SHARED: usize = 32;

/// The connections of a process, or of one operation.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    places: Arc<Mutex<Places>>,
    /// Others use it, too, and go on when an operation is over.
    lasting: bool,
    /// How many connections without a message are kept; asked of the system when there are more than a few.
    most_idle: Arc<OnceLock<usize>>,
}

#[derive(Default)]
struct Places {
    /// By lower-case e-mail prefix.
    kept: HashMap<String, Kept>,
    /// Whose gateway is being dialled now; closed when that is over.
    dialled: HashMap<String, watch::Receiver<()>>,
    last_number: u64,
}

/// The connection that a message goes over: one that stands, or none yet. Dropped, it is there for others.
pub(crate) struct Line {
    pool: Pool,
    held: Option<Held>,
    /// What came of dialling ahead, if there is no connection.
    missed: Option<MeshError>,
}

/// A connection in use.
struct Held {
    client: Client,
    prefix: String,
    /// Its number in the pool; none if it is for one message alone.
    number: Option<u64>,
    warm: bool,
}

/// What is there for whoever needs a connection.
enum Claim {
    Warm(Held),
    Dial(Dialling),
    Wait(watch::Receiver<()>),
}

/// Whoever dials.
struct Dialling {
    pool: Pool,
    prefix: String,
    /// Those who wait for him go on when this is dropped. None: they wait for somebody else.
    over: Option<watch::Sender<()>>,
}

impl Pool {
    /// One that outlives operations.
    pub(crate) fn lasting() -> Self {
        Self { lasting: true, ..Self::default() }
    }

    /// For one message.
    pub(crate) fn line(&self) -> Line {
        Line { pool: self.clone(), held: None, missed: None }
    }

    /// An operation is over: what is its own alone says goodbye.
    pub(crate) async fn done(self) {
        if !self.lasting {
            self.close().await;
        }
    }

    /// Says goodbye on all connections.
    pub(crate) async fn close(&self) {
        let kept = std::mem::take(&mut self.lock().kept);
        join_all(kept.into_values().map(|kept| kept.client.clone().close())).await;
    }

    async fn connect(
        &self,
        mesh: &Mesh,
        peer: &Peer,
        deadline: Instant,
        was_there: bool,
    ) -> Result<Held, MeshError> {
        let terms = Terms::of(mesh, peer)?;
        let mut waited = false;
        let _dialling = loop {
            match self.claim(&terms, waited) {
                Claim::Warm(held) => {
                    tracing::debug!(to = terms.prefix, "over a connection that stands");
                    return Ok(held);
                }
                Claim::Dial(dialling) => break dialling,
                Claim::Wait(mut over) => {
                    // Once, and for no longer than a dial takes: the other one may be patient. Whoever finds nothing then
                    // dials beside the others: many who call a dead gateway would else find that out in turn.
                    let enough = deadline.min(Instant::now() + mesh.config().connect_timeout);
                    let _ = timeout_at(enough, over.changed()).await;
                    waited = true;
                }
            }
        };
        let credential = terms.credential.clone();
        let client = match was_there {
            true => gateway::connect_patiently(mesh, peer, credential, deadline).await?,
            false => gateway::connect_ready(mesh, peer, credential, deadline).await?,
        };
        Ok(self.keep(terms, known_identity(mesh, peer)?, client))
    }

    /// A connection that stands, if there is one.
    fn standing(&self, mesh: &Mesh, peer: &Peer) -> Option<Held> {
        if !self.lock().kept.contains_key(&peer.to.email_prefix.to_lowercase()) {
            return None;
        }
        self.lock().share(&Terms::of(mesh, peer).ok()?)
    }

    fn claim(&self, terms: &Terms, waited: bool) -> Claim {
        let prefix = &terms.prefix;
        let mut places = self.lock();
        if let Some(held) = places.share(terms) {
            return Claim::Warm(held);
        }
        let over = match places.dialled.get(prefix) {
            Some(over) if !waited => return Claim::Wait(over.clone()),
            Some(_) => None,
            None => {
                let (over, closed) = watch::channel(());
                places.dialled.insert(prefix.clone(), closed);
                Some(over)
            }
        };
        Claim::Dial(Dialling { pool: self.clone(), prefix: prefix.clone(), over })
    }

    /// Lets others use a new connection, unless there is one for them already.
    fn keep(&self, terms: Terms, met: Option<String>, client: Client) -> Held {
        let prefix = terms.prefix.clone();
        let mut places = self.lock();
        if places.kept.get(&prefix).is_some_and(|kept| kept.serves(&terms)) {
            return Held { client, prefix, number: None, warm: false };
        }
        places.last_number += 1;
        let number = places.last_number;
        let keeper = tokio::spawn(kept::rest(Arc::downgrade(&self.places), prefix.clone(), number));
        let kept = Kept::new(number, client.clone(), terms, met, keeper.abort_handle());
        places.kept.insert(prefix.clone(), kept);
        Held { client, prefix, number: Some(number), warm: false }
    }

    /// Somebody is done with a connection.
    fn give_back(&self, held: &Held) {
        let mut places = self.lock();
        let Some(kept) = places.at(held) else { return };
        kept.users -= 1;
        if kept.users > 0 {
            return;
        }
        kept.rests();
        let resting = || places.kept.iter().filter(|(_, kept)| kept.users == 0);
        let count = resting().count();
        // Half of what there is room for: the other half is for those at work.
        let most = || ((descriptors::room().connections + count) / 2).clamp(LEAST_IDLE, MOST_IDLE);
        if count > LEAST_IDLE
            && count > *self.most_idle.get_or_init(most)
            && let Some((longest, _)) = resting().min_by_key(|(_, kept)| kept.rested.0)
        {
            let longest = longest.clone();
            places.kept.remove(&longest);
        }
    }

    /// Nobody else gets this one any more; who uses it goes on.
    fn retire(&self, held: &Held) {
        let mut places = self.lock();
        if places.at(held).is_some() {
            places.kept.remove(&held.prefix);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// A connection that is kept, for one message more. What is no good any more is let go.
    fn share(&mut self, terms: &Terms) -> Option<Held> {
        let prefix = &terms.prefix;
        let kept = self.kept.get_mut(prefix)?;
        if !kept.serves(terms) {
            self.kept.remove(prefix);
            return None;
        }
        if kept.users >= MOST_SHARED {
            return None;
        }
        kept.users += 1;
        let (client, number) = (kept.client.clone(), Some(kept.number));
        Some(Held { client, prefix: prefix.clone(), number, warm: true })
    }

    /// The place of a connection in use, if it still has one.
    fn at(&mut self, held: &Held) -> Option<&mut Kept> {
        self.kept.get_mut(&held.prefix).filter(|kept| Some(kept.number) == held.number)
    }

    /// Lets a connection go that rested for too long; else says when to look again.
    fn expire(&mut self, prefix: &str, number: u64) -> Option<Instant> {
        let kept = self.kept.get(prefix).filter(|kept| kept.number == number)?;
        let now = Instant::now();
        let end = if kept.users > 0 { now + IDLE } else { kept.rested.0 + IDLE };
        if end > now {
            return Some(end);
        }
        self.kept.remove(prefix);
        None
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if self.over.is_some() {
            self.pool.lock().dialled.remove(&self.prefix);
        }
    }
}

impl Line {
    /// The connection: this line's own, one of the pool, or a new one. A gateway that `was_there` before is waited for.
    ///
    /// # Errors
    /// When there is none to be had by the deadline.
    pub(crate) async fn client(
        &mut self,
        mesh: &Mesh,
        peer: &Peer,
        deadline: Instant,
        was_there: bool,
    ) -> Result<&Client, MeshError> {
        if let Some(error) = self.missed.take() {
            return Err(error);
        }
        let held = match &mut self.held {
            Some(held) => held,
            none => none.insert(self.pool.connect(mesh, peer, deadline, was_there).await?),
        };
        Ok(&held.client)
    }

    /// Dials before the connection is asked for, for whoever has something else to wait for, too.
    pub(crate) async fn dial_ahead(&mut self, mesh: &Mesh, peer: &Peer, deadline: Instant) {
        self.missed = self.client(mesh, peer, deadline, false).await.err();
    }

    /// Takes a connection that stands, if there is one: nothing has to be dialled for the message.
    pub(crate) fn take_standing(&mut self, mesh: &Mesh, peer: &Peer) {
        self.held = self.pool.standing(mesh, peer);
    }

    /// The connection, if there is one, as far as we know.
    pub(crate) fn standing(&self) -> Option<&Client> {
        self.held.as_ref().map(|held| &held.client)
    }

    /// Whether it stood before this message.
    pub(crate) fn is_warm(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.warm)
    }

    /// Whether there is one, as far as we know.
    pub(crate) fn is_up(&self) -> bool {
        self.held.is_some()
    }

    /// It is gone, or not to be trusted: what follows goes over another one.
    pub(crate) fn lose(&mut self) {
        self.retire();
        self.held = None;
    }

    /// The next message goes over another one.
    pub(crate) fn retire(&self) {
        if let Some(held) = &self.held {
            self.pool.retire(held);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            self.pool.give_back(held);
        }
    }
}
