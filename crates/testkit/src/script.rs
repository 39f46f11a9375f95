//! How the fake gateway behaves, said in advance.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::fault::{Fault, Noise};
use crate::refusal::Refusal;
use crate::reply::{Reply, Turn};

/// What the first bytes from the server are.
#[derive(Debug, Clone)]
pub enum Opening {
    /// A gateway: the WebSocket upgrade is answered.
    Gateway,
    /// These bytes in answer to the upgrade request, then the end of the stream.
    Garbage(Vec<u8>),
    /// A plain HTTP answer (status, `Content-Type`, body): a web server, a proxy, a gateway that is draining (503).
    Http(u16, String, String),
}

/// What is sent in place of `connect.challenge`.
#[derive(Debug, Clone)]
pub enum Challenge {
    /// The real thing.
    Proper,
    /// This text frame.
    Text(String),
    /// This binary frame.
    Binary(Vec<u8>),
    /// Nothing: the gateway waits for `connect` without having sent a nonce.
    Absent,
}

pub(crate) type Agent = Arc<dyn Fn(&Turn) -> Reply + Send + Sync>;

/// The behaviour of a [`FakeGateway`](crate::FakeGateway). The default is a healthy protocol 4 gateway that lets
/// anyone in and answers `echo: <message>`.
#[derive(Clone)]
pub struct Script {
    pub(crate) protocol: u64,
    pub(crate) opening: Opening,
    pub(crate) challenge: Challenge,
    pub(crate) shared_token: Option<String>,
    pub(crate) device_tokens: Vec<String>,
    pub(crate) bootstrap_token: Option<String>,
    pub(crate) issued: Option<String>,
    pub(crate) pairing: bool,
    pub(crate) identity: Option<String>,
    pub(crate) nameless: bool,
    pub(crate) refusal: Option<(Option<u32>, Refusal)>,
    pub(crate) hello_extra: Value,
    pub(crate) max_payload: usize,
    pub(crate) agent: Agent,
    pub(crate) queueing: bool,
    pub(crate) event_after_response: bool,
    pub(crate) remembers: Duration,
    pub(crate) recovery: Option<Duration>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) noise: Vec<Noise>,
    pub(crate) fragment: Option<usize>,
    pub(crate) tick: Duration,
    pub(crate) ticks: Option<u32>,
    pub(crate) ping: Duration,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("faults", &self.faults)
            .field("noise", &self.noise)
            .finish_non_exhaustive()
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            protocol: 4,
            opening: Opening::Gateway,
            challenge: Challenge::Proper,
            shared_token: None,
            device_tokens: Vec::new(),
            bootstrap_token: None,
            issued: None,
            pairing: false,
            identity: None,
            nameless: false,
            refusal: None,
            hello_extra: Value::Null,
            max_payload: 26_214_400,
            agent: Arc::new(|turn| Reply::text(format!("echo: {}", turn.message))),
            queueing: true,
            event_after_response: false,
            remembers: Duration::from_secs(300),
            recovery: None,
            faults: Vec::new(),
            noise: Vec::new(),
            fragment: None,
            tick: Duration::from_secs(30),
            ticks: None,
            ping: Duration::from_secs(25),
        }
    }
}

/// The door: who gets in, and what they see there.
impl Script {
    /// The default behaviour.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The protocol version it speaks. A client whose range does not hold it gets `protocol mismatch` in the shape of
    /// that version and close 1002. With 3, hello-ok, `agent.wait`, `chat` events and history lack what came later.
    #[must_use]
    pub fn protocol(mut self, version: u64) -> Self {
        self.protocol = version;
        self
    }

    /// The first bytes from the server.
    #[must_use]
    pub fn opening(mut self, opening: Opening) -> Self {
        self.opening = opening;
        self
    }

    /// The first frame from the server.
    #[must_use]
    pub fn challenge(mut self, challenge: Challenge) -> Self {
        self.challenge = challenge;
        self
    }

    /// Accept this shared token. As soon as any token is configured, others are refused.
    #[must_use]
    pub fn shared_token(mut self, token: &str) -> Self {
        self.shared_token = Some(token.to_owned());
        self
    }

    /// Accept this device token, from any device that presents it.
    #[must_use]
    pub fn device_token(mut self, token: &str) -> Self {
        self.device_tokens.push(token.to_owned());
        self
    }

    /// Accept this one-time code (the device still needs approval if [`Script::pairing_required`]).
    #[must_use]
    pub fn bootstrap_token(mut self, token: &str) -> Self {
        self.bootstrap_token = Some(token.to_owned());
        self
    }

    /// hello-ok hands this device token to every client that has a device; it is accepted from then on.
    #[must_use]
    pub fn issues_device_token(mut self, token: &str) -> Self {
        self.issued = Some(token.to_owned());
        self
    }

    /// Another gateway than the recorded one: this is its identity (64 hex digits), and its processes have other `bootId`s.
    #[must_use]
    pub fn identity(mut self, device_id: &str) -> Self {
        self.identity = Some(device_id.to_owned());
        self
    }

    /// Has no `gateway.identity.get`.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// Behave as towards a remote client: a device that comes without a device token is `NOT_PAIRED` until
    /// [`FakeGateway::approve`](crate::FakeGateway::approve), and a client without a device gets no scopes.
    #[must_use]
    pub fn pairing_required(mut self) -> Self {
        self.pairing = true;
        self
    }

    /// Answer every `connect` with this refusal.
    #[must_use]
    pub fn refuse(mut self, refusal: Refusal) -> Self {
        self.refusal = Some((None, refusal));
        self
    }

    /// Answer the first `n` connects with this refusal.
    #[must_use]
    pub fn refuse_first(mut self, n: u32, refusal: Refusal) -> Self {
        self.refusal = Some((Some(n), refusal));
        self
    }

    /// Merge this object deeply into the payload of hello-ok: unknown fields, other limits; `null` removes a field.
    #[must_use]
    pub fn hello_extra(mut self, extra: Value) -> Self {
        self.hello_extra = extra;
        self
    }

    /// The largest frame it announces and accepts; more is answered with close 1009.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }
}

/// The agent behind it.
impl Script {
    /// What the agent answers to each turn. Called when the turn is sent, before it is accepted.
    #[must_use]
    pub fn reply(mut self, agent: impl Fn(&Turn) -> Reply + Send + Sync + 'static) -> Self {
        self.agent = Arc::new(agent);
        self
    }

    /// Let `agent` runs of one session overtake each other. (The real gateway queues them.)
    #[must_use]
    pub fn without_queueing(mut self) -> Self {
        self.queueing = false;
        self
    }

    /// Send the last `chat` event of a run after its second response. (The real gateway does it either way.)
    #[must_use]
    pub fn final_event_after_response(mut self) -> Self {
        self.event_after_response = true;
        self
    }

    /// How long the result of an ended run is kept for a client that asks again (default: 5 minutes, as the real one).
    #[must_use]
    pub fn remembers_results_for(mut self, time: Duration) -> Self {
        self.remembers = time;
        self
    }

    /// This long after [`FakeGateway::kill`](crate::FakeGateway::kill), a run that was active is resumed under a new
    /// run id, as the real gateway does after about 5 seconds. Default: never.
    #[must_use]
    pub fn recovers_after(mut self, time: Duration) -> Self {
        self.recovery = Some(time);
        self
    }
}

/// What goes wrong, and signs of life.
impl Script {
    /// Adds a fault. The first matching one strikes.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Adds noise before every response after hello.
    #[must_use]
    pub fn noise(mut self, noise: Noise) -> Self {
        self.noise.push(noise);
        self
    }

    /// Send every message as many WebSocket frames of at most this many bytes (cut anywhere, also inside a character).
    #[must_use]
    pub fn fragments(mut self, bytes: usize) -> Self {
        self.fragment = Some(bytes.max(1));
        self
    }

    /// `tick` events come this often, and hello-ok says so (default: 30 s).
    #[must_use]
    pub fn tick_every(mut self, interval: Duration) -> Self {
        self.tick = interval;
        self
    }

    /// After this many ticks on a connection no more come, nor pings; everything else goes on.
    #[must_use]
    pub fn stops_after_ticks(mut self, n: u32) -> Self {
        self.ticks = Some(n);
        self
    }

    /// WebSocket pings come this often (default: 25 s).
    #[must_use]
    pub fn ping_every(mut self, interval: Duration) -> Self {
        self.ping = interval;
        self
    }
}
