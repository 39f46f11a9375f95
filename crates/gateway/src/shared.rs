//! What all tasks of one gateway share.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openclaw_protocol::ErrorShape;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::access::Access;
use crate::agent::ENDED_BEFORE;
use crate::budget::Budget;
use crate::config::Config;
use crate::ledger::{Held, Unfinished};
use crate::lockout::Lockout;
use crate::memory::{End, OWNER};
use crate::meter::{Meters, midnight};
use crate::methods::beginning;
use crate::metrics::Metrics;
use crate::outbox::Event;
use crate::pairing::{Now, Pairing};
use crate::peers::Peers;
use crate::policy::Mode;
use crate::runs::Runs;
use crate::seats::Seats;
use crate::sessions::Sessions;
use crate::slots::Slots;

/// The state of a gateway. Its locks are held for moments, never across an await. Most are taken one after the other;
/// where one is taken inside another, it is in this order: `pairing` before `lockout` (the decision at the door), `runs`
/// before `sessions` and before an outbox's queue (a key is looked up and acknowledged as one step), and `peers` before
/// an outbox's queue. The locks inside [`Seats`], [`Slots`], a connection and an outbox are innermost: nothing is taken
/// under them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Changes with every start: what was in memory is gone then.
    pub(crate) boot_id: String,
    pub(crate) started: Instant,
    /// Who may come in, and what they may do: replaced as a whole.
    pub(crate) access: Mutex<Arc<Access>>,
    pub(crate) peers: Mutex<Peers>,
    pub(crate) pairing: Mutex<Pairing>,
    pub(crate) lockout: Mutex<Lockout>,
    /// What peers have used up.
    pub(crate) meters: Mutex<Meters>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) runs: Mutex<Runs>,
    /// The sockets of each address that have not authenticated yet.
    pub(crate) strangers: Arc<Seats<IpAddr>>,
    /// The others of each address but loopback.
    pub(crate) guests: Arc<Seats<IpAddr>>,
    /// The connections of each device.
    pub(crate) devices: Arc<Seats<String>>,
    pub(crate) metrics: Metrics,
    /// The A2A requests of each peer that are not answered yet.
    pub(crate) callers: Arc<Seats<String>>,
    /// What is on its way over all connections.
    pub(crate) budget: Arc<Budget>,
    /// One a run that executes.
    pub(crate) slots: Arc<Slots>,
    /// The upgraded connections: at a shutdown they are given time to close.
    pub(crate) sockets: TaskTracker,
    /// Every other task but the runs.
    pub(crate) tasks: TaskTracker,
    /// The runs: at a shutdown they are waited for before anything is closed.
    pub(crate) lanes: TaskTracker,
    /// A device was approved.
    pub(crate) approvals: Notify,
    /// No new runs of peers.
    pub(crate) paused: AtomicBool,
    /// No new work.
    pub(crate) draining: CancellationToken,
    /// The end: every task leaves.
    pub(crate) stop: CancellationToken,
    /// Saves go one after the other, each with the newest state: held across the write on purpose.
    saving: tokio::sync::Mutex<()>,
    connections: AtomicU64,
}

/// What is known from before a restart.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) runs_today: HashMap<String, u32>,
    pub(crate) held: Vec<Held>,
    /// The runs that go on.
    pub(crate) unfinished: Vec<Unfinished>,
    pub(crate) paused: bool,
}

impl Known {
    pub(crate) async fn read(config: &Config) -> io::Result<Self> {
        let ledger = &*config.ledger;
        let mut unfinished = Vec::new();
        for one in ledger.unfinished().await? {
            match (cannot_go_on(config, &one), &one.run.kept) {
                (None, _) => unfinished.push(one),
                (Some(why), Some(name)) => ledger.ended(name, End::Failed(why.to_owned())).await?,
                (Some(_), None) => {}
            }
        }
        Ok(Self {
            runs_today: ledger.runs_since(midnight(now_ms())).await?,
            held: ledger.held().await?,
            unfinished,
            paused: ledger.is_paused().await?,
        })
    }
}

/// Why a run of before the start ends with it. What had begun is never begun again, and what a peer was allowed that may
/// do nothing any more is not.
fn cannot_go_on(config: &Config, one: &Unfinished) -> Option<&'static str> {
    match one.began_at {
        Some(_) if config.agent.can_resume() => None,
        Some(_) => Some(ENDED_BEFORE),
        None => {
            let access = &config.access;
            let member = access.member(&one.run.peer, one.run.device_id.as_deref());
            let is_denied = one.run.peer != OWNER && access.rules(&member).mode == Mode::Deny;
            is_denied.then_some("the gateway ended before it began, and does not let its sender in any more")
        }
    }
}

impl Shared {
    /// Counts a refusal, and logs whose request it was and why: never what was said in it.
    pub(crate) fn refused(&self, from: &str, request: &str, method: &str, error: &ErrorShape) {
        let (request, method) = (beginning(request), beginning(method));
        match self.metrics.refused(error) {
            Some(rule) => tracing::info!(from, request, method, rule, "a request was refused"),
            None => tracing::debug!(from, request, method, code = error.code, "a request was refused"),
        }
    }

    pub(crate) fn new(config: Config, pairing: Pairing, known: Known) -> Self {
        let limits = &config.limits;
        let mut runs = Runs::new(limits, config.timing.cache);
        known.held.into_iter().for_each(|held| runs.hold_again(held));
        known.unfinished.into_iter().for_each(|unfinished| runs.take_up(unfinished));
        Self {
            boot_id: Uuid::new_v4().to_string(),
            started: Instant::now(),
            access: Mutex::new(Arc::new(config.access.clone())),
            peers: Mutex::default(),
            pairing: Mutex::new(pairing),
            lockout: Mutex::default(),
            meters: Mutex::new(Meters::new(known.runs_today, now_ms())),
            sessions: Mutex::new(Sessions::new(limits)),
            runs: Mutex::new(runs),
            strangers: Seats::new(limits.unauthenticated_per_ip.saturating_mul(2)),
            guests: Seats::new(limits.connections_per_ip),
            devices: Seats::new(limits.connections_per_device),
            metrics: Metrics::default(),
            callers: Seats::new(limits.waiting_requests),
            budget: Budget::new(limits.in_flight_bytes),
            slots: Slots::new(limits.parallel_runs, limits.parallel_runs_per_device),
            sockets: TaskTracker::new(),
            tasks: TaskTracker::new(),
            lanes: TaskTracker::new(),
            approvals: Notify::new(),
            paused: AtomicBool::new(known.paused),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
            saving: tokio::sync::Mutex::default(),
            connections: AtomicU64::new(0),
            config,
        }
    }

    /// Who may come in now, and what they may do.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&lock(&self.access))
    }

    /// Saves the device list. Returns when it is durable.
    pub(crate) async fn save(&self) -> io::Result<()> {
        let _turn = self.saving.lock().await;
        let bytes = lock(&self.pairing).to_bytes().map_err(io::Error::other)?;
        let store = Arc::clone(&self.config.store);
        tokio::task::spawn_blocking(move || store.save(&bytes)).await.map_err(io::Error::other)?
    }

    /// Saves when devices were seen last, if that is news: a restart is no reason to forget it.
    pub(crate) async fn save_seen(&self) {
        if std::mem::take(&mut lock(&self.pairing).is_outdated)
            && let Err(error) = self.save().await
        {
            tracing::warn!(%error, "when devices were seen last is not kept");
        }
    }

    /// Tells those who hear a session, each under the name that it has for it. A delta is for those who may see a reply
    /// while it is written.
    pub(crate) fn tell_session(&self, session: &str, name: &'static str, mut payload: Value, is_delta: bool) {
        let listeners = lock(&self.peers).listeners(session);
        let mut written: Vec<(String, Arc<Event>)> = Vec::new();
        for conn in listeners {
            if is_delta && conn.rules().is_some_and(|rules| !rules.stream) {
                continue;
            }
            let shown = conn.shown(session);
            let known = written.iter().position(|(name, _)| *name == shown);
            let index = known.unwrap_or(written.len());
            if known.is_none() {
                payload["sessionKey"] = json!(shown);
                let Some(event) = Event::new(name, &payload) else { return };
                written.push((shown, event));
            }
            conn.outbox.event(&written[index].1);
        }
    }

    /// Tells those who may approve devices.
    pub(crate) fn tell_approvers<P: Serialize>(&self, name: &'static str, payload: &P) {
        if let Some(event) = Event::new(name, payload) {
            lock(&self.peers).tell_approvers(&event);
        }
    }

    /// How many connections are let in now.
    pub(crate) fn sockets_let_in(&self) -> usize {
        lock(&self.peers).count()
    }

    /// Whether the owner has paused the door.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// A number for a new connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}

/// Locks. A panic elsewhere must not take the gateway down: every critical section leaves its state whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock, milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// This moment on both clocks.
pub(crate) fn now() -> Now {
    Now { ms: now_ms(), at: Instant::now() }
}
