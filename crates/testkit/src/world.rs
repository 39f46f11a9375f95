//! What all connections of one fake gateway share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fault::{Cut, How};
use crate::history::Session;
use crate::ledger::Ledger;
use crate::runs::Run;
use crate::script::Script;

/// A fixed clock base (2026-11-22), far from the real time: a client that signs its own time instead of the
/// challenge's `ts` is refused, as by a real gateway with another clock.
const CLOCK: u64 = 1_795_349_612_070;

/// One frame that the gateway received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The connection it came on; the first is 1.
    pub connection: u32,
    /// The frame.
    pub frame: Value,
}

/// Something to be written to one client, in order.
#[derive(Debug, Clone)]
pub(crate) enum Out {
    /// A response; noise is added around it.
    Res(Value),
    /// An event; with a session, only for clients that follow it.
    Event {
        name: &'static str,
        payload: Value,
        session: Option<String>,
    },
    /// A place for a fault of this method to strike.
    Point(Cut, &'static str),
    Stop(How),
}

#[derive(Default)]
pub(crate) struct State {
    pub boots: u32,
    pub ids: u64,
    pub events: u64,
    pub connections: u32,
    pub connects: u32,
    pub peers: BTreeMap<u32, UnboundedSender<Out>>,
    pub open: u32,
    pub frames: Vec<Received>,
    pub pongs: u32,
    pub fault_hits: Vec<u32>,
    pub runs: HashMap<(&'static str, String), Arc<Run>>,
    pub sessions: BTreeMap<String, Session>,
    pub ledger: Ledger,
    pub device_tokens: BTreeSet<String>,
    pub approved: BTreeSet<String>,
    pub pending: BTreeMap<String, String>,
    pub draining: bool,
    pub connection_tasks: Vec<JoinHandle<()>>,
    pub run_tasks: Vec<JoinHandle<()>>,
}

impl State {
    pub fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.boots, self.ids)
    }

    /// Counts `chat` and `agent` events (the real gateway counts per run).
    pub fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    pub fn session(&mut self, key: &str) -> &mut Session {
        self.sessions.entry(key.to_owned()).or_insert_with(|| Session::new(key))
    }
}

pub(crate) struct World {
    pub script: Script,
    state: Mutex<State>,
    submissions: Mutex<()>,
    changed: watch::Sender<()>,
    started: Instant,
    /// What the clock was set ahead by.
    pub ahead_ms: AtomicU64,
}

impl World {
    pub fn new(script: Script) -> Arc<Self> {
        let state = State {
            boots: 1,
            fault_hits: vec![0; script.faults.len()],
            device_tokens: script.device_tokens.iter().cloned().collect(),
            ..State::default()
        };
        Arc::new(Self {
            script,
            state: Mutex::new(state),
            submissions: Mutex::new(()),
            changed: watch::Sender::new(()),
            started: Instant::now(),
            ahead_ms: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A scripted reply that panicked must not hide its own message behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while one send is looked up and entered, so that two with one key cannot both start a run.
    pub fn submission(&self) -> MutexGuard<'_, ()> {
        self.submissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and wakes everyone who waits for a change.
    pub fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// The `bootId` of the process that is at work; no two gateways with identities of their own share one.
    pub fn boot_id(&self) -> String {
        let gateway = self.script.identity.as_deref().and_then(|id| id.get(..8)).unwrap_or("b0071d00");
        format!("{gateway}-0000-4000-8000-{:012x}", self.read(|state| state.boots))
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The gateway's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0);
        CLOCK + passed + self.ahead_ms.load(Ordering::Relaxed)
    }

    /// The fault, if any, that strikes here.
    pub fn fault_at(&self, cut: Cut, method: &str, connection: u32) -> Option<How> {
        self.change(|state| {
            let mut faults = self.script.faults.iter().zip(&mut state.fault_hits);
            let (fault, hits) =
                faults.find(|(fault, hits)| fault.matches(cut, method, connection, **hits))?;
            *hits += 1;
            Some(fault.how)
        })
    }

    pub fn emit(&self, name: &'static str, payload: &Value, session: Option<&str>) {
        let peers = self.read(|state| state.peers.values().cloned().collect::<Vec<_>>());
        for peer in peers {
            // A closed receiver is a connection that is going away.
            let _ =
                peer.send(Out::Event { name, payload: payload.clone(), session: session.map(str::to_owned) });
        }
    }

    pub fn spawn_run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task);
        self.change(|state| {
            state.run_tasks.retain(|task| !task.is_finished());
            state.run_tasks.push(task);
        });
    }

    pub fn spawn_connection(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task);
        self.change(|state| {
            state.connection_tasks.retain(|task| !task.is_finished());
            state.connection_tasks.push(task);
        });
    }
}
