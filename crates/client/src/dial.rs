//! From an endpoint to a WebSocket: resolve, TCP, TLS, upgrade.

use std::io;

use openclaw_protocol::MAX_PAYLOAD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::endpoint::Endpoint;
use crate::error::{ConnectError, Lost};
use crate::eyeballs::{Race, System};
use crate::tls::{Fingerprint, Rejected, TlsMemory};
use crate::trace::{Step, Trace};

/// What a transport must be able to do.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// How to dial.
#[derive(Debug, Clone, Default)]
pub struct DialOptions {
    /// The only certificate to accept. Without it the system's authorities decide.
    pub pin: Option<Fingerprint>,
    /// Refuse to speak plain text to a public address.
    pub private_only: bool,
    /// Other addresses of the same gateway, tried when the endpoint cannot be reached, or is slow.
    pub alternatives: Vec<Endpoint>,
    /// What earlier TLS connections left to this one; with a new one, nothing.
    pub tls: TlsMemory,
}

/// A WebSocket to an endpoint.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Socket, ConnectError> {
    let endpoints: Vec<&Endpoint> = std::iter::once(endpoint).chain(&options.alternatives).collect();
    let start = Instant::now();
    let connected =
        timeout_at(deadline, Race::new(&System, &endpoints, options.private_only).run(trace)).await;
    let resolved = trace.steps.last().filter(|done| done.step == Step::Resolve);
    let (tcp, place) = match connected {
        Ok(connected) => connected?,
        Err(_) => return Err(ConnectError::Deadline(resolved.map_or(Step::Resolve, |_| Step::Tcp))),
    };
    // Requests are small and answers are awaited: Nagle would only delay them.
    let _ = tcp.set_nodelay(true);
    let start = resolved.map_or(start, |resolved| start + resolved.took);
    trace.passed(Step::Tcp, start, tcp.peer_addr().map(|a| a.to_string()).unwrap_or_default());
    let endpoint = endpoints[place];

    let stream: Box<dyn Io> = if endpoint.is_tls() {
        let start = Instant::now();
        // In a box: most connections of most teams have none.
        let (stream, fingerprint) = Box::pin(tls(tcp, endpoint, options, deadline)).await?;
        trace.passed(Step::Tls, start, fingerprint.map(|f| f.to_string()).unwrap_or_default());
        stream
    } else {
        Box::new(tcp)
    };
    upgrade(stream, &endpoint.to_string(), deadline, trace).await
}

async fn tls(
    tcp: TcpStream,
    endpoint: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
) -> Result<(Box<dyn Io>, Option<Fingerprint>), ConnectError> {
    let config = options.tls.config(endpoint, options.pin);
    let config = config.map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
    let name = ServerName::try_from(endpoint.host().to_owned())
        .map_err(|e| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let session = TlsConnector::from(config).connect(name, tcp);
    match timeout_at(deadline, session).await {
        Err(_) => Err(ConnectError::Deadline(Step::Tls)),
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            tracing::debug!(kind = ?session.handshake_kind(), "TLS stands");
            // Of a session that goes on, this is the certificate that was checked when it began.
            let shown = session.peer_certificates().and_then(|chain| chain.first()).map(Fingerprint::of);
            Ok((Box::new(stream), shown))
        }
        Ok(Err(error)) => Err(tls_error(error, options.pin)),
    }
}

fn tls_error(error: io::Error, pin: Option<Fingerprint>) -> ConnectError {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = inner else {
        return ConnectError::Tls(error);
    };
    match (pin, Rejected::of(reason)) {
        (Some(expected), Some(Rejected { shown, .. })) if expected != *shown => {
            ConnectError::PinMismatch { expected, actual: *shown }
        }
        (_, Some(Rejected { shown, reason })) => {
            ConnectError::Untrusted { reason: reason.to_string(), fingerprint: Some(*shown) }
        }
        (_, None) => ConnectError::Untrusted { reason: reason.to_string(), fingerprint: None },
    }
}

/// Makes a WebSocket of a stream.
pub(crate) async fn upgrade(
    stream: Box<dyn Io>,
    url: &str,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Socket, ConnectError> {
    let start = Instant::now();
    // The scheme says nothing any more once the stream stands; tungstenite is built without TLS of its own.
    let url = url.replacen("wss://", "ws://", 1);
    // The largest frame of the real gateway and some slack. 8 KiB of read buffer are as fast as 128 and cheaper.
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_PAYLOAD + 65_536))
        .max_frame_size(Some(MAX_PAYLOAD + 65_536))
        .read_buffer_size(8 * 1024);
    let handshake = client_async_with_config(url, stream, Some(config));
    match timeout_at(deadline, handshake).await {
        Err(_) => Err(ConnectError::Deadline(Step::Ws)),
        Ok(Ok((socket, _))) => {
            trace.passed(Step::Ws, start, "");
            Ok(socket)
        }
        Ok(Err(error)) => Err(match error {
            tungstenite::Error::Http(response) => ConnectError::Http(response.status().as_u16()),
            tungstenite::Error::Io(_)
            | tungstenite::Error::ConnectionClosed
            | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HandshakeIncomplete) => {
                ConnectError::Lost { step: Step::Ws, how: Lost::from(error) }
            }
            other => ConnectError::NotAGateway { step: Step::Ws, what: other.to_string() },
        }),
    }
}
