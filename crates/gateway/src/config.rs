//! What a gateway is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::methods::info::GatewayIdentity;

use crate::access::Access;
use crate::agent::Agent;
use crate::ledger::{Ledger, MemoryLedger};
use crate::memory::{Memory, NoMemory, Room};
use crate::secret::SharedToken;
use crate::store::{MemoryStore, Store};

/// Hears of a run that failed, at once: it must not wait for anything.
pub type OnFailure = Arc<dyn Fn(FailedRun) + Send + Sync>;

/// A run that the agent did not bring to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// The key of who asked.
    pub from: String,
    /// The run, by the sender's choice.
    pub run_id: String,
    /// What the sender is told.
    pub why: String,
    /// What the agent said of it beside that, for the owner alone.
    pub aside: Option<String>,
}

/// Everything a gateway needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one, which stands here once it is bound.
    pub listen: SocketAddr,
    /// The owner's token.
    pub token: SharedToken,
    /// The name under which `gateway.identity.get` presents this gateway.
    pub identity: GatewayIdentity,
    /// The agent's name for people, as `agents.list` shows it.
    pub agent_name: String,
    /// Where clients reach this gateway over HTTP, such as `https://bob.example.com`, for its A2A card. None says what the
    /// client called it.
    pub public_url: Option<String>,
    /// Whether anybody may read `/metrics`, not only the owner: from loopback, or with his token.
    pub open_metrics: bool,
    /// Whether the log holds what is said, not only that something was.
    pub log_text: bool,
    /// What `hello-ok` calls the server's version.
    pub version: String,
    /// Where approved devices are kept.
    pub store: Arc<dyn Store>,
    /// What was said before this gateway started.
    pub memory: Arc<dyn Memory>,
    /// Who answers.
    pub agent: Arc<dyn Agent>,
    /// Where the messages are kept that wait for the owner's word, and what else of peers' runs survives a restart.
    pub ledger: Arc<dyn Ledger>,
    /// Who hears of each run that fails.
    pub on_failure: Option<OnFailure>,
    /// Who is in the team, and what peers may do. [`Reload`](crate::Reload) changes it.
    pub access: Access,
    /// Sizes and counts.
    pub limits: Limits,
    /// Durations.
    pub timing: Timing,
}

impl Config {
    /// A configuration with default limits, a store in memory, and this crate's version.
    #[must_use]
    pub fn new(
        listen: SocketAddr,
        token: SharedToken,
        identity: GatewayIdentity,
        agent: Arc<dyn Agent>,
    ) -> Self {
        Self {
            listen,
            token,
            identity,
            agent_name: "agent-mesh".to_owned(),
            public_url: None,
            open_metrics: false,
            log_text: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: Arc::new(MemoryStore::default()),
            memory: Arc::new(NoMemory),
            agent,
            ledger: Arc::new(MemoryLedger::default()),
            on_failure: None,
            access: Access::default(),
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("identity", &self.identity)
            .field("agent_name", &self.agent_name)
            .field("version", &self.version)
            .field("limits", &self.limits)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Sizes and counts that keep the gateway's memory bounded whatever its clients do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open TCP connections; further ones are closed at once.
    pub connections: usize,
    /// Authenticated connections of one device.
    pub connections_per_device: usize,
    /// Authenticated connections of one address other than loopback, whatever their devices.
    pub connections_per_ip: usize,
    /// Open sockets of one address that have not authenticated yet; the real gateway has 32. So many more are accepted
    /// for plain HTTP.
    pub unauthenticated_per_ip: usize,
    /// Largest message of a client that may start runs, in bytes; announced as `policy.maxPayload`.
    pub payload: usize,
    /// Largest message of a client that may not.
    pub small_payload: usize,
    /// Bytes that may be on their way over all connections: announced messages above `small_payload`, and what waits
    /// for slow readers. Above it such messages are refused, and slow readers are dropped sooner.
    pub in_flight_bytes: usize,
    /// Bytes kept for one slow reader before it is dropped; announced as `policy.maxBufferedBytes`.
    pub buffered_bytes: usize,
    /// Frames kept for one slow reader before it is dropped.
    pub buffered_frames: usize,
    /// Requests of one connection that may wait for something at a time.
    pub waiting_requests: usize,
    /// Sessions one connection may subscribe to.
    pub subscriptions: usize,
    /// Runs that may execute at a time, over all sessions; the real gateway has 8.
    pub parallel_runs: usize,
    /// Runs of one device that may execute at a time.
    pub parallel_runs_per_device: usize,
    /// Runs that may wait in one session.
    pub queued_per_session: usize,
    /// Runs that may wait, over all sessions.
    pub queued_runs: usize,
    /// Runs of one device that may wait.
    pub queued_runs_per_device: usize,
    /// Bytes of messages that may wait, over all sessions.
    pub queued_bytes: usize,
    /// Bytes of messages of one device that may wait.
    pub queued_bytes_per_device: usize,
    /// Finished runs that are remembered.
    pub cached_runs: usize,
    /// Bytes of finished runs that are remembered.
    pub cached_bytes: usize,
    /// Largest reply of an agent, in bytes. The agent may have a limit of its own; the smaller one holds.
    pub reply_bytes: usize,
    /// Sessions that are remembered; the longest untouched goes first.
    pub sessions: usize,
    /// Rows of one session that are remembered.
    pub rows_per_session: usize,
    /// Bytes of text that are remembered, over all sessions.
    pub session_bytes: usize,
    /// How much of what was said before the start is remembered, over all sessions.
    pub recalled: Room,
    /// Devices that may wait for approval.
    pub pending_devices: usize,
    /// Devices of one address that may wait for approval; the newest replaces the oldest.
    pub pending_devices_per_ip: usize,
    /// One-time codes that are good at a time.
    pub setup_codes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            connections: 16_384,
            connections_per_device: 64,
            connections_per_ip: 1024,
            unauthenticated_per_ip: 32,
            payload: openclaw_protocol::MAX_PAYLOAD,
            small_payload: 256 * 1024,
            in_flight_bytes: 256 * MIB,
            buffered_bytes: 50 * MIB,
            buffered_frames: 1024,
            waiting_requests: 64,
            subscriptions: 256,
            parallel_runs: 8,
            parallel_runs_per_device: 6,
            queued_per_session: 128,
            queued_runs: 2048,
            queued_runs_per_device: 256,
            queued_bytes: 128 * MIB,
            queued_bytes_per_device: 32 * MIB,
            cached_runs: 1000,
            cached_bytes: 64 * MIB,
            reply_bytes: 8 * MIB,
            sessions: 1000,
            rows_per_session: 1000,
            session_bytes: 64 * MIB,
            recalled: Room { turns: 2000, bytes: 4 * MIB },
            pending_devices: 64,
            pending_devices_per_ip: 8,
            setup_codes: 1024,
        }
    }
}

/// Durations. The defaults are those of the real gateway, where it has one.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How long a client may take to send its HTTP header.
    pub header: Duration,
    /// How long a client may take from the upgrade to its `connect`.
    pub connect: Duration,
    /// Between two WebSocket pings.
    pub ping: Duration,
    /// Without a sign of life for so long, a connection is dropped.
    pub silence: Duration,
    /// Between two `tick` events; announced as `policy.tickIntervalMs`.
    pub tick: Duration,
    /// How long a close may take before the socket is dropped.
    pub close: Duration,
    /// How long active runs may take to finish at a shutdown.
    pub drain: Duration,
    /// How long an A2A request waits for its task before it says how far that is.
    pub task: Duration,
    /// The longest a run may take. The agent may have a limit of its own; the smaller one holds.
    pub run: Duration,
    /// How long an agent may take to stop when told to.
    pub abort: Duration,
    /// How long a finished run is remembered.
    pub cache: Duration,
    /// At least so long between two `delta` events of a run.
    pub delta: Duration,
    /// So often it is saved when devices were seen last; it is saved at a shutdown, too.
    pub seen: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            header: seconds(10),
            connect: seconds(15),
            ping: seconds(25),
            silence: seconds(75),
            tick: seconds(30),
            close: seconds(2),
            drain: seconds(10),
            task: seconds(120),
            run: seconds(600),
            abort: seconds(2),
            cache: seconds(300),
            delta: Duration::from_millis(150),
            seen: seconds(60),
        }
    }
}
