//! What can go wrong, one enum a stage; each says whose fault it is and keeps the cause.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use openclaw_protocol::ErrorShape;
use tokio_tungstenite::tungstenite;

use crate::secret::Secret;
use crate::tls::Fingerprint;
use crate::trace::Step;

/// A connection that did not come to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host name means nothing.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The name leads to a public address, and the connection is plain text.
    #[error("{host} is the public address {addr}, and ws:// is not encrypted")]
    PublicAddress {
        /// The name.
        host: String,
        /// Where it leads.
        addr: SocketAddr,
    },
    /// Nobody answers at the address.
    #[error("cannot connect to {addr}")]
    Tcp {
        /// The last address tried.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TLS session failed.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// No trusted authority signed the certificate.
    #[error("the certificate is not trusted: {reason}")]
    Untrusted {
        /// What the verifier said.
        reason: String,
        /// The certificate's fingerprint, to be pinned after a check by other means.
        fingerprint: Option<Fingerprint>,
    },
    /// The certificate is not the pinned one.
    #[error("the certificate is {actual}, but {expected} is pinned")]
    PinMismatch {
        /// What is pinned.
        expected: Fingerprint,
        /// What was shown.
        actual: Fingerprint,
    },
    /// An HTTP server that did not upgrade to a WebSocket.
    #[error("HTTP {0} instead of a WebSocket")]
    Http(u16),
    /// Something answers that is no gateway.
    #[error("not an OpenClaw gateway: {what}")]
    NotAGateway {
        /// When that showed.
        step: Step,
        /// What it did instead.
        what: String,
    },
    /// The connection ended during the handshake.
    #[error("the connection ended before the gateway let us in: {how}")]
    Lost {
        /// What we were waiting for.
        step: Step,
        /// How it ended.
        how: Lost,
    },
    /// The gateway said no.
    #[error("the gateway refused the connection: {0}")]
    Refused(Box<ErrorShape>),
    /// The deadline passed.
    #[error("no answer in time (step {})", .0.name())]
    Deadline(Step),
}

impl ConnectError {
    /// The step that failed.
    #[must_use]
    pub fn step(&self) -> Step {
        match self {
            Self::Resolve { .. } | Self::PublicAddress { .. } => Step::Resolve,
            Self::Tcp { .. } => Step::Tcp,
            Self::Tls(_) | Self::Untrusted { .. } | Self::PinMismatch { .. } => Step::Tls,
            Self::Http(_) => Step::Ws,
            Self::Refused(_) => Step::Auth,
            Self::NotAGateway { step, .. } | Self::Lost { step, .. } | Self::Deadline(step) => *step,
        }
    }
}

/// What a gateway says, without what we showed it, should it quote that.
pub(crate) fn unquoted(error: ErrorShape, shown: Option<&Secret>) -> Box<ErrorShape> {
    Box::new(match shown {
        Some(shown) => error.without(shown.expose()),
        None => error,
    })
}

/// A request without a good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The gateway said no.
    #[error("the gateway refused: {0}")]
    Refused(Box<ErrorShape>),
    /// The connection ended first: whether the request was carried out is not known.
    #[error("the connection was lost: {0}")]
    Lost(Lost),
    /// The connection had ended before: the request was certainly not sent.
    #[error("the connection was lost before: {0}")]
    Unsent(Lost),
    /// The deadline passed.
    #[error("no answer in time")]
    Deadline,
    /// The answer is not what the protocol says.
    #[error("the gateway's answer makes no sense")]
    Decode(#[source] serde_json::Error),
    /// The request could not be written.
    #[error("the request cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The request is larger than the gateway takes. It was not sent.
    #[error("the request has {bytes} bytes, the gateway takes {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The gateway's `policy.maxPayload`.
        limit: usize,
    },
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// A close frame.
    Closed {
        /// Its code, such as 1012 for a restart.
        code: u16,
        /// Its reason; the peer's words.
        reason: String,
    },
    /// No close frame.
    Dropped(String),
    /// Two tick intervals without a sign of life.
    Silent,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code, reason } if reason.is_empty() => write!(f, "closed with {code}"),
            Self::Closed { code, reason } => write!(f, "closed with {code}: {reason}"),
            Self::Dropped(how) => write!(f, "dropped ({how})"),
            Self::Silent => write!(f, "no sign of life"),
        }
    }
}

impl From<tungstenite::Error> for Lost {
    fn from(error: tungstenite::Error) -> Self {
        Self::Dropped(error.to_string())
    }
}

impl From<Option<tungstenite::protocol::CloseFrame>> for Lost {
    fn from(frame: Option<tungstenite::protocol::CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self::Closed { code: frame.code.into(), reason: frame.reason.to_string() },
            // RFC 6455 7.1.5: a close frame without a code.
            None => Self::Closed { code: 1005, reason: String::new() },
        }
    }
}
