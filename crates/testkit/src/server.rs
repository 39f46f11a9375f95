//! The handle a test holds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::conn;
use crate::fault::How;
use crate::history::chat_history;
use crate::ledger::Ledger;
use crate::runs::{self, Origin, Run};
use crate::script::Script;
use crate::wire::Line;
use crate::world::{Out, Received, World};

/// A fake gateway at work. Dropping it ends all its connections and runs.
pub struct FakeGateway {
    world: Arc<World>,
    address: Option<SocketAddr>,
    listener: Option<JoinHandle<()>>,
}

impl Script {
    /// Plays the script over this stream; the fake gateway outlives it and can [`FakeGateway::attach`] more.
    pub fn run_on<S>(self, stream: S) -> FakeGateway
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gateway = FakeGateway::in_memory(self);
        gateway.attach(stream);
        gateway
    }
}

/// Life and death.
impl FakeGateway {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound listener has an address");
        let world = World::new(script);
        let shared = Arc::clone(&world);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Without it, Nagle's algorithm delays small frames; a failure only costs time.
                let _ = stream.set_nodelay(true);
                let reset =
                    |stream: &TcpStream| stream.set_zero_linger().expect("SO_LINGER on an open socket");
                shared.spawn_connection(conn::serve(Arc::clone(&shared), Line { io: stream, reset }));
            }
        });
        Self { world, address: Some(address), listener: Some(accepting) }
    }

    /// No port: connections come from [`FakeGateway::dial`] and [`FakeGateway::attach`].
    #[must_use]
    pub fn in_memory(script: Script) -> Self {
        Self { world: World::new(script), address: None, listener: None }
    }

    /// A new connection over an in-memory pipe (64 KiB each way); the returned half is the client's.
    #[must_use]
    pub fn dial(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(64 * 1024);
        self.attach(server);
        client
    }

    /// A new connection over this stream, whose other end is the client's.
    pub fn attach<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = Line { io: stream, reset: |_: &S| {} };
        self.world.spawn_connection(conn::serve(Arc::clone(&self.world), line));
    }

    /// `ws://127.0.0.1:<port>`.
    ///
    /// # Panics
    /// When the gateway is [`FakeGateway::in_memory`].
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address())
    }

    /// The TCP port. Panics as [`FakeGateway::url`] does.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The TCP address. Panics as [`FakeGateway::url`] does.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an in-memory gateway has no address")
    }

    /// The `bootId` it announces now.
    #[must_use]
    pub fn boot_id(&self) -> String {
        self.world.boot_id()
    }

    /// SIGKILL and a new start: connections drop without a close frame, all that was in memory is lost. History stays;
    /// a run that was active is resumed if [`Script::recovers_after`] says so, one that was only queued becomes
    /// `interrupted` and is never run.
    pub async fn kill(&self) {
        let tasks = self.world.change(|state| {
            let mut tasks = std::mem::take(&mut state.connection_tasks);
            tasks.append(&mut state.run_tasks);
            tasks
        });
        for task in tasks {
            task.abort();
            // Aborted or ended: either way it is over now.
            let _ = task.await;
        }
        let orphans = self.forget();
        let Some(delay) = self.world.script.recovery else { return };
        for orphan in orphans {
            let world = Arc::clone(&self.world);
            self.world.spawn_run(async move {
                sleep(delay).await;
                let id = world.change(|state| state.new_id());
                let reply = (world.script.agent)(&orphan.turn);
                let turn = orphan.turn.clone();
                runs::start(&world, &Run::new(orphan.method, id, turn, reply, Origin::Recovery));
            });
        }
    }

    /// SIGTERM and a new start: new runs are refused, the running ones end, then come the `shutdown` event and close
    /// 1012. What was in memory is lost; history stays.
    pub async fn restart(&self) {
        let live = self.world.change(|state| {
            state.draining = true;
            state.runs.values().cloned().collect::<Vec<_>>()
        });
        let drained = async {
            for run in live {
                run.over().await;
            }
        };
        // The real gateway gives up waiting after this time.
        let _ = tokio::time::timeout(Duration::from_secs(315), drained).await;
        self.world.emit("shutdown", &json!({"reason": "gateway stopping"}), None);
        self.disconnect(How::Close(1012)).await;
        self.forget();
        self.world.change(|state| state.draining = false);
    }

    /// Ends all connections in this way, now; runs go on. Frozen and silent ones are not waited for.
    pub async fn disconnect(&self, how: How) {
        let peers = self.world.read(|state| state.peers.values().cloned().collect::<Vec<_>>());
        for peer in peers {
            let _ = peer.send(Out::Stop(how));
        }
        if !matches!(how, How::Silence | How::Freeze) {
            self.until(|gateway| gateway.world.read(|state| state.peers.is_empty())).await;
        }
    }

    /// Sets the gateway's clock ahead: what happened so far was that much longer ago.
    pub fn set_clock_ahead(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.world.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// What `sessions.reset` does to all sessions: nothing was ever said in them. Runs that are known stay known.
    pub fn reset_sessions(&self) {
        self.world.change(|state| state.sessions.clear());
    }

    /// A new boot: empties the memory and gives back the runs that were active.
    fn forget(&self) -> Vec<Arc<Run>> {
        self.world.change(|state| {
            state.boots += 1;
            state.runs.clear();
            let mut orphans = Vec::new();
            for session in state.sessions.values_mut() {
                session.tail = None;
                orphans.extend(session.active.take());
                session.waiting.iter_mut().for_each(|(_, state)| *state = "interrupted");
            }
            orphans
        })
    }
}

/// What happened so far.
impl FakeGateway {
    /// How many connections were opened.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.world.read(|state| state.connections)
    }

    /// How many of them are open now, as far as the gateway knows.
    #[must_use]
    pub fn open_connections(&self) -> u32 {
        self.world.read(|state| state.open)
    }

    /// How many `connect` frames were well-formed enough to be judged: what counts for a lockout.
    #[must_use]
    pub fn connects(&self) -> u32 {
        self.world.read(|state| state.connects)
    }

    /// How many WebSocket pongs arrived.
    #[must_use]
    pub fn pongs(&self) -> u32 {
        self.world.read(|state| state.pongs)
    }

    /// Every frame that arrived, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.world.read(|state| state.frames.clone())
    }

    /// The parameters of every request of this method, in order.
    #[must_use]
    pub fn requests(&self, method: &str) -> Vec<Value> {
        let frames = self.received().into_iter().map(|received| received.frame);
        frames.filter(|frame| frame["method"] == method).map(|mut frame| frame["params"].take()).collect()
    }

    /// What was really run.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.world.read(|state| state.ledger.clone())
    }

    /// The rows of a session (`agent:main:...`), as `chat.history` would show them, uncut.
    #[must_use]
    pub fn history(&self, session_key: &str) -> Vec<Value> {
        let everything = json!({"sessionKey": session_key, "limit": u32::MAX, "maxChars": u32::MAX});
        let rows = chat_history(&self.world, &everything)["messages"].take();
        rows.as_array().cloned().unwrap_or_default()
    }

    /// Pairing requests that wait: (request id, device id).
    #[must_use]
    pub fn pending_pairings(&self) -> Vec<(String, String)> {
        self.world
            .read(|state| state.pending.iter().map(|(device, id)| (id.clone(), device.clone())).collect())
    }

    /// Approves a pairing request; `false` if there is none of this id.
    pub fn approve(&self, request_id: &str) -> bool {
        self.world.change(|state| {
            let device =
                state.pending.iter().find(|(_, id)| *id == request_id).map(|(device, _)| device.clone());
            let Some(device) = device else { return false };
            state.pending.remove(&device);
            state.approved.insert(device)
        })
    }

    /// Stops accepting this device token and closes all connections with 4001 `device removed`, as after
    /// rotate, revoke or remove.
    pub async fn revoke(&self, device_token: &str) {
        self.world.change(|state| state.device_tokens.remove(device_token));
        self.disconnect(How::Close(4001)).await;
    }

    /// Waits until this holds; it is looked at after every change. The way to synchronise without sleeping:
    /// `gateway.until(|g| g.requests("agent").len() == 2).await`.
    pub async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changes = self.world.changes();
        while !holds(self) {
            // Cannot fail: `self` keeps the sender alive.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
        self.world.change(|state| {
            state.connection_tasks.iter().chain(&state.run_tasks).for_each(JoinHandle::abort);
        });
    }
}
