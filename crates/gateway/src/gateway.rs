//! The gateway itself: bind, run, drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use openclaw_protocol::event::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval_at, timeout};

use crate::config::Config;
use crate::methods::chat::abort_session;
use crate::outbox::Event;
use crate::pairing::Pairing;
use crate::reload::Reload;
use crate::shared::{Known, Shared, lock};
use crate::slots::Slot;
use crate::{lane, listener};

/// Close code: the service restarts, come again.
const CLOSE_RESTART: u16 = 1012;

/// A gateway that listens.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use agent_mesh_gateway::{Config, EchoAgent, Gateway, SharedToken};
///
/// let token = SharedToken::new("a long random text")?;
/// let identity = Default::default();
/// let config = Config::new("127.0.0.1:0".parse()?, token, identity, Arc::new(EchoAgent::new()));
/// let gateway = Gateway::bind(config).await?;
/// println!("listening on ws://{}", gateway.local_addr());
/// gateway.run(async { /* until a signal comes */ }).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The sessions in which runs of before the start go on.
    unfinished: Vec<String>,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The store cannot be read.
    #[error("cannot read the device list")]
    Store(#[source] io::Error),
    /// The ledger cannot be read.
    #[error("cannot read what is held and counted of peers")]
    Ledger(#[source] io::Error),
    /// The store holds something else.
    #[error("the device list is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl Gateway {
    /// Loads the devices and starts to listen. Connections are answered once [`Gateway::run`] runs.
    ///
    /// # Errors
    /// When the store cannot be read or the address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let address = config.listen;
        let store = Arc::clone(&config.store);
        let loaded = tokio::task::spawn_blocking(move || store.load()).await;
        let loaded = loaded.map_err(io::Error::other).flatten().map_err(BindError::Store)?;
        let mut pairing = match loaded {
            Some(bytes) => Pairing::from_bytes(&bytes, &config.limits).map_err(BindError::Damaged)?,
            None => Pairing::new(&config.limits),
        };
        let known = Known::read(&config).await.map_err(BindError::Ledger)?;
        let access = &config.access;
        pairing.forget_members(|id| access.of_device(id).is_some());
        let listen = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let config = Config { listen: address, ..config };
        let past = config.memory.recent(config.limits.recalled).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was said before cannot be read");
            Vec::new()
        });
        let shared = Shared::new(config, pairing, known);
        lock(&shared.sessions).recall(past);
        let unfinished = lock(&shared.runs).busy_sessions();
        Ok(Self { listener, address, shared: Arc::new(shared), unfinished })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then drains: new upgrades get a 503 and new runs are refused, while those
    /// that were accepted may finish; then every client hears `shutdown` and a close with 1012. Returns when all tasks
    /// have ended. Dropping the future ends everything at once.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, shared, unfinished, .. } = self;
        let _end = shared.stop.clone().drop_guard();
        for session in unfinished {
            start_lane(&shared, session, None);
        }
        shared.tasks.spawn(keep_seen(Arc::clone(&shared)));
        tokio::select! {
            () = listener::accept(Arc::clone(&shared), &listener) => {}
            () = shutdown => {}
        }
        shared.draining.cancel();
        tokio::select! {
            () = listener::accept(Arc::clone(&shared), &listener) => {}
            () = drain(&shared) => {}
        }
        drop(listener);
        say_goodbye(&shared).await;
    }

    /// A way to change who may come in and what they may do, while it runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload::new(&self.shared)
    }

    /// For tests: a way in that does not need the network.
    #[doc(hidden)]
    #[must_use]
    pub fn seam(&self) -> Seam {
        Seam(Arc::clone(&self.shared))
    }
}

/// For tests: serves any stream as if it came from any address.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Seam(Arc<Shared>);

impl Seam {
    /// Serves one stream until it closes.
    pub async fn serve_stream<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        listener::serve(Arc::clone(&self.0), stream, peer, None).await;
    }
}

/// Saves when devices were seen last, now and then and at the end: never once a connection.
async fn keep_seen(shared: Arc<Shared>) {
    let every = shared.config.timing.seen;
    let mut turn = interval_at(Instant::now() + every, every);
    while !shared.stop.is_cancelled() {
        tokio::select! {
            () = shared.stop.cancelled() => {}
            _ = turn.tick() => {}
        }
        shared.save_seen().await;
    }
}

/// Lets the accepted runs finish; aborts those that take too long.
async fn drain(shared: &Arc<Shared>) {
    lock(&shared.runs).drain();
    shared.lanes.close();
    if timeout(shared.config.timing.drain, shared.lanes.wait()).await.is_ok() {
        return;
    }
    // Not in the head of the loop: the lock would be held through its body, which takes it again.
    let busy = lock(&shared.runs).busy_sessions();
    for session in busy {
        abort_session(shared, &session, None, None);
    }
    // Bounded: an aborted run has `timing.abort` to stop and is dropped then.
    let _ = timeout(shared.config.timing.abort * 2, shared.lanes.wait()).await;
}

async fn say_goodbye(shared: &Arc<Shared>) {
    let farewell = Shutdown { reason: "gateway stopping".to_owned() };
    {
        let mut peers = lock(&shared.peers);
        if let Some(event) = Event::new("shutdown", &farewell) {
            peers.tell_all(&event);
        }
        peers.close_all(CLOSE_RESTART, "service restart");
    }
    // Every connection gives its peer a moment to hear the close.
    shared.sockets.close();
    if timeout(shared.config.timing.close * 3, shared.sockets.wait()).await.is_err() {
        tracing::debug!("some connections did not close in time");
    }
    shared.stop.cancel();
    shared.tasks.close();
    shared.sockets.wait().await;
    shared.tasks.wait().await;
}

/// Starts the lane of a session, with the slot for its first run if that was taken already.
pub(crate) fn start_lane(shared: &Arc<Shared>, session: String, slot: Option<Slot>) {
    shared.lanes.spawn(lane::work(Arc::clone(shared), session, slot));
}
