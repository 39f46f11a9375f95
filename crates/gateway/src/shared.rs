//! What all tasks of one gateway share.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::budget::Budget;
use crate::config::Config;
use crate::lockout::Lockout;
use crate::outbox::Event;
use crate::pairing::{Now, Pairing};
use crate::peers::Peers;
use crate::runs::Runs;
use crate::seats::Seats;
use crate::sessions::Sessions;
use crate::slots::Slots;

/// The state of a gateway. Its locks are held for moments, never across an await. Most are taken one after the other;
/// where one is taken inside another, it is in this order: `pairing` before `lockout` (the decision at the door), `runs`
/// before `sessions` and before an outbox's queue (a key is looked up and acknowledged as one step), and `peers` before
/// an outbox's queue. The locks inside [`Seats`], [`Slots`] and an outbox are innermost: nothing is taken under them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Changes with every start: what was in memory is gone then.
    pub(crate) boot_id: String,
    pub(crate) started: Instant,
    pub(crate) peers: Mutex<Peers>,
    pub(crate) pairing: Mutex<Pairing>,
    pub(crate) lockout: Mutex<Lockout>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) runs: Mutex<Runs>,
    /// The sockets of each address that have not authenticated yet.
    pub(crate) strangers: Arc<Seats<IpAddr>>,
    /// The others of each address but loopback.
    pub(crate) guests: Arc<Seats<IpAddr>>,
    /// The connections of each device.
    pub(crate) devices: Arc<Seats<String>>,
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
    /// No new work.
    pub(crate) draining: CancellationToken,
    /// The end: every task leaves.
    pub(crate) stop: CancellationToken,
    /// Saves go one after the other, each with the newest state: held across the write on purpose.
    saving: tokio::sync::Mutex<()>,
    connections: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: Config, pairing: Pairing) -> Self {
        let limits = &config.limits;
        Self {
            boot_id: Uuid::new_v4().to_string(),
            started: Instant::now(),
            peers: Mutex::default(),
            pairing: Mutex::new(pairing),
            lockout: Mutex::default(),
            sessions: Mutex::new(Sessions::new(limits)),
            runs: Mutex::new(Runs::new(limits, config.timing.cache)),
            strangers: Seats::new(limits.unauthenticated_per_ip.saturating_mul(2)),
            guests: Seats::new(limits.connections_per_ip),
            devices: Seats::new(limits.connections_per_device),
            budget: Budget::new(limits.in_flight_bytes),
            slots: Slots::new(limits.parallel_runs, limits.parallel_runs_per_device),
            sockets: TaskTracker::new(),
            tasks: TaskTracker::new(),
            lanes: TaskTracker::new(),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
            saving: tokio::sync::Mutex::default(),
            connections: AtomicU64::new(0),
            config,
        }
    }

    /// Saves the device list. Returns when it is durable.
    pub(crate) async fn save(&self) -> io::Result<()> {
        let _turn = self.saving.lock().await;
        let bytes = lock(&self.pairing).to_bytes().map_err(io::Error::other)?;
        let store = Arc::clone(&self.config.store);
        tokio::task::spawn_blocking(move || store.save(&bytes)).await.map_err(io::Error::other)?
    }

    /// Tells those who hear a session.
    pub(crate) fn tell_session<P: Serialize>(&self, session: &str, name: &'static str, payload: &P) {
        if let Some(event) = Event::new(name, payload) {
            lock(&self.peers).tell_session(session, &event);
        }
    }

    /// Tells those who may approve devices.
    pub(crate) fn tell_approvers<P: Serialize>(&self, name: &'static str, payload: &P) {
        if let Some(event) = Event::new(name, payload) {
            lock(&self.peers).tell_approvers(&event);
        }
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
