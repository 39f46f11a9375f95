//! The stages of a connection before it is a [`Client`].

use std::time::SystemTime;

use futures_util::{SinkExt, StreamExt, stream};
use openclaw_protocol::connect::{Auth, Challenge, ClientInfo, Hello};
use openclaw_protocol::frame::encode_request;
use openclaw_protocol::handshake::{self, AwaitChallenge, DeviceSigner, HandshakeError, Offer};
use openclaw_protocol::methods::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, EARLY, Early};
use crate::dial::{self, DialOptions, Socket};
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, Lost, unquoted};
use crate::secret::Secret;
use crate::trace::{Step, Trace};

/// A WebSocket to something that may be a gateway.
pub struct Link {
    socket: Socket,
}

/// A gateway that waits for us to say who we are.
pub struct Challenged {
    socket: Socket,
    challenge: Challenge,
    ahead_ms: i64,
}

/// What we show to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The gateway's shared token.
    Shared(Secret),
    /// The token that the gateway issued to our device.
    Device(Secret),
    /// A one-time code.
    Bootstrap(Secret),
    /// Nothing.
    None,
}

impl Credential {
    /// The secret that is shown.
    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Shared(secret) | Self::Device(secret) | Self::Bootstrap(secret) => Some(secret),
            Self::None => None,
        }
    }
}

/// What we ask for and show.
#[derive(Debug, Clone)]
pub struct Access {
    /// What we show.
    pub credential: Credential,
    /// The rights we ask for.
    pub scopes: Vec<String>,
    /// Our name in the other side's lists. Keep it constant and unique.
    pub display_name: String,
}

impl Access {
    /// A peer's rights, with a credential of its own: read and write, never more.
    #[must_use]
    pub fn peer(credential: Credential, display_name: impl Into<String>) -> Self {
        let scopes = ["operator.read", "operator.write"].map(str::to_owned).to_vec();
        Self { credential, scopes, display_name: display_name.into() }
    }

    /// The owner's rights over a gateway on this machine: to list and approve devices, one must hold what one grants.
    #[must_use]
    pub fn owner(token: Secret, display_name: impl Into<String>) -> Self {
        let scopes = ["operator.pairing", "operator.read", "operator.write"].map(str::to_owned).to_vec();
        Self { credential: Credential::Shared(token), scopes, display_name: display_name.into() }
    }

    /// Everything over a gateway on this machine: what it takes to make a one-time code, and to be held no longer.
    #[must_use]
    pub fn admin(token: Secret, display_name: impl Into<String>) -> Self {
        let scopes = vec!["operator.admin".to_owned()];
        Self { credential: Credential::Shared(token), scopes, display_name: display_name.into() }
    }

    fn offer(self) -> Offer {
        let auth = match &self.credential {
            Credential::Shared(token) => Auth { token: Some(token.expose().to_owned()), ..Auth::default() },
            Credential::Device(token) => {
                Auth { device_token: Some(token.expose().to_owned()), ..Auth::default() }
            }
            Credential::Bootstrap(code) => {
                Auth { bootstrap_token: Some(code.expose().to_owned()), ..Auth::default() }
            }
            Credential::None => Auth::default(),
        };
        Offer {
            client: ClientInfo {
                // The gateway knows a closed set of ids and modes; this pair may connect without a device locally.
                id: "gateway-client".to_owned(),
                mode: "backend".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                // Pinned when the device is approved: the same on every system, for ever.
                platform: "agent-mesh".to_owned(),
                display_name: Some(self.display_name),
                device_family: None,
            },
            scopes: self.scopes,
            // Without it, a connection with read scope is sent the events of everybody's sessions.
            caps: vec!["session-scoped-events".to_owned()],
            auth: (auth != Auth::default()).then_some(auth),
            user_agent: Some(concat!("agent-mesh/", env!("CARGO_PKG_VERSION")).to_owned()),
        }
    }
}

impl Link {
    /// Dials an endpoint: resolve, TCP, TLS if asked for, WebSocket.
    ///
    /// # Errors
    /// With the step that failed, before the deadline.
    pub async fn dial(
        endpoint: &Endpoint,
        options: &DialOptions,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Self, ConnectError> {
        Ok(Self { socket: dial::dial(endpoint, options, deadline, trace).await? })
    }

    /// Uses a stream that stands already, such as one end of an in-memory pipe.
    ///
    /// # Errors
    /// When the other end does not upgrade to a WebSocket.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Self, ConnectError> {
        let socket = dial::upgrade(Box::new(stream), "ws://localhost/", deadline, trace).await?;
        Ok(Self { socket })
    }

    /// Waits for the gateway's challenge. It needs no credential: whoever sends one is a gateway.
    ///
    /// # Errors
    /// When something else answers, or nothing before the deadline.
    pub async fn challenge(
        mut self,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Challenged, ConnectError> {
        let start = Instant::now();
        let read = |text: &str| AwaitChallenge.read(text);
        let challenge = next(&mut self.socket, deadline, Step::Challenge, read).await?;
        let ahead_ms = now_ms().saturating_sub(challenge.ts);
        trace.passed(Step::Challenge, start, "");
        Ok(Challenged { socket: self.socket, challenge, ahead_ms })
    }
}

impl Challenged {
    /// The gateway's clock when it sent the challenge, in milliseconds since the epoch. Signatures carry this time, not
    /// ours, so a difference is worth knowing and harms nobody.
    #[must_use]
    pub fn gateway_time_ms(&self) -> i64 {
        self.challenge.ts
    }

    /// By how many milliseconds our clock is ahead of the gateway's, as [`Client::ahead_ms`].
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms
    }

    /// Says who we are. The client's [`hello`](Client::hello) tells which rights were really granted.
    ///
    /// # Errors
    /// When the gateway refuses; nothing here tries again.
    pub async fn authenticate(
        mut self,
        access: Access,
        device: Option<&(dyn DeviceSigner + Sync)>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Client, ConnectError> {
        let (hello, shown) = self.introduce(access, device, None, deadline, trace).await?;
        Ok(Client::start_driver(self.socket, hello, self.ahead_ms, shown))
    }

    /// The same, and asks something in the same breath, which then costs no round trip of its own. Nothing may be asked so
    /// that must not reach somebody else: who the gateway is, is not known yet. A gateway carries out what it is asked in
    /// order; whether each one takes a question that early must be seen by its answer.
    ///
    /// # Errors
    /// As [`Challenged::authenticate`].
    pub async fn authenticate_asking<M: Method>(
        mut self,
        access: Access,
        device: Option<&(dyn DeviceSigner + Sync)>,
        question: &M,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<(Client, Early<M>), ConnectError> {
        let question = encode_request(&EARLY.to_string(), M::NAME, question).map_err(unspeakable)?;
        let (hello, shown) = self.introduce(access, device, Some(question), deadline, trace).await?;
        Ok(Client::start_driver_asked(self.socket, hello, self.ahead_ms, shown))
    }

    /// Sends the connect frame, and a question behind it, and reads the hello; gives it with what was shown.
    async fn introduce(
        &mut self,
        access: Access,
        device: Option<&(dyn DeviceSigner + Sync)>,
        question: Option<String>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<(Hello, Option<Secret>), ConnectError> {
        let start = Instant::now();
        let shown = access.credential.secret().cloned();
        let (frame, await_hello) =
            handshake::answer(&self.challenge, access.offer(), device.map(|device| device as _))
                .map_err(unspeakable)?;
        let frames = std::iter::once(frame).chain(question);
        let mut frames = stream::iter(frames.map(|frame| Ok(Message::text(frame))));
        match timeout_at(deadline, self.socket.send_all(&mut frames)).await {
            Err(_) => return Err(ConnectError::Deadline(Step::Auth)),
            // A gateway that refuses may close while we still write: what it said is still to be read.
            Ok(Err(error)) => tracing::debug!(%error, "writing the connect frame"),
            Ok(Ok(())) => {}
        }
        let hello = next(&mut self.socket, deadline, Step::Auth, |text| await_hello.read(text)).await;
        let hello = hello.map_err(|error| match error {
            ConnectError::Refused(said) => ConnectError::Refused(unquoted(*said, shown.as_ref())),
            other => other,
        })?;
        trace.passed(
            Step::Auth,
            start,
            format!("gateway {}, protocol {}", hello.server.version, hello.protocol),
        );
        Ok((hello, shown))
    }
}

/// Our clock, in milliseconds since the epoch.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn unspeakable(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::NotAGateway { step: Step::Auth, what: error.to_string() }
}

/// Reads frames until `read` is satisfied.
async fn next<T>(
    socket: &mut Socket,
    deadline: Instant,
    step: Step,
    read: impl Fn(&str) -> Result<Option<T>, HandshakeError>,
) -> Result<T, ConnectError> {
    let lost = |how| Err(ConnectError::Lost { step, how });
    loop {
        let message = timeout_at(deadline, socket.next()).await.map_err(|_| ConnectError::Deadline(step))?;
        let text = match message {
            None => return lost(Lost::Dropped("no close frame".to_owned())),
            Some(Err(error)) => return lost(Lost::from(error)),
            Some(Ok(Message::Close(frame))) => return lost(Lost::from(frame)),
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Binary(_))) => {
                return Err(ConnectError::NotAGateway { step, what: "it sent a binary frame".to_owned() });
            }
            Some(Ok(_)) => continue,
        };
        match read(&text) {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(HandshakeError::Refused(error)) => return Err(ConnectError::Refused(Box::new(error))),
            Err(HandshakeError::NotAGateway(what)) => return Err(ConnectError::NotAGateway { step, what }),
            Err(other) => return Err(ConnectError::NotAGateway { step, what: other.to_string() }),
        }
    }
}
