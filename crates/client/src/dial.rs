//! From an endpoint to a WebSocket: resolve, TCP, TLS, upgrade.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use openclaw_protocol::MAX_PAYLOAD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::endpoint::{Endpoint, is_private};
use crate::error::{ConnectError, Lost};
use crate::tls::{Fingerprint, Verifier};
use crate::trace::{Step, Trace};

/// How long one address may take before the next one is tried beside it (RFC 8305 recommends 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

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
}

/// Looks up an endpoint's addresses.
///
/// # Errors
/// When the name means nothing, or the deadline passes.
pub async fn resolve(endpoint: &Endpoint, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
    let lookup = tokio::net::lookup_host((endpoint.host(), endpoint.port()));
    let failed = |source| ConnectError::Resolve { host: endpoint.host().to_owned(), source };
    let found = timeout_at(deadline, lookup).await.map_err(|_| ConnectError::Deadline(Step::Resolve))?;
    let addresses: Vec<SocketAddr> = found.map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// A WebSocket to an endpoint.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Socket, ConnectError> {
    let start = Instant::now();
    let addresses = resolve(endpoint, deadline).await?;
    let public = addresses.iter().find(|a| !is_private(a.ip()));
    if let (true, false, Some(addr)) = (options.private_only, endpoint.is_tls(), public) {
        return Err(ConnectError::PublicAddress { host: endpoint.host().to_owned(), addr: *addr });
    }
    let shown: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    trace.passed(Step::Resolve, start, shown.join(", "));

    let start = Instant::now();
    let tcp = timeout_at(deadline, first_to_connect(&addresses))
        .await
        .map_err(|_| ConnectError::Deadline(Step::Tcp))??;
    trace.passed(Step::Tcp, start, tcp.peer_addr().map(|a| a.to_string()).unwrap_or_default());

    let stream: Box<dyn Io> = if endpoint.is_tls() {
        let start = Instant::now();
        let (stream, fingerprint) = tls(tcp, endpoint, options, deadline).await?;
        trace.passed(Step::Tls, start, fingerprint.map(|f| f.to_string()).unwrap_or_default());
        stream
    } else {
        Box::new(tcp)
    };
    upgrade(stream, &endpoint.to_string(), deadline, trace).await
}

/// Tries the addresses in order, each one 250 ms after the one before, and takes the first that connects.
async fn first_to_connect(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut attempts: FuturesUnordered<_> = addresses
        .iter()
        .zip(0u32..)
        .map(|(addr, place)| async move {
            // Even a sleep of nothing waits for the timer's next millisecond.
            if place > 0 {
                sleep(NEXT_ADDRESS_AFTER * place).await;
            }
            TcpStream::connect(addr).await.map_err(|source| ConnectError::Tcp { addr: *addr, source })
        })
        .collect();
    let mut last = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => {
                // Requests are small and answers are awaited: Nagle would only delay them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(ConnectError::Deadline(Step::Tcp)))
}

async fn tls(
    tcp: TcpStream,
    endpoint: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
) -> Result<(Box<dyn Io>, Option<Fingerprint>), ConnectError> {
    let setup = |e: rustls::Error| ConnectError::Tls(io::Error::other(e));
    let verifier = Verifier::new(options.pin).map_err(setup)?;
    let config = verifier.config().map_err(setup)?;
    let name = ServerName::try_from(endpoint.host().to_owned())
        .map_err(|e| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let session = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    match timeout_at(deadline, session).await {
        Err(_) => Err(ConnectError::Deadline(Step::Tls)),
        Ok(Ok(stream)) => Ok((Box::new(stream), verifier.seen())),
        Ok(Err(error)) => Err(tls_error(error, &verifier)),
    }
}

fn tls_error(error: io::Error, verifier: &Verifier) -> ConnectError {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = inner else {
        return ConnectError::Tls(error);
    };
    match (verifier.pin(), verifier.seen()) {
        (Some(expected), Some(actual)) if expected != actual => {
            ConnectError::PinMismatch { expected, actual }
        }
        (_, fingerprint) => ConnectError::Untrusted { reason: reason.to_string(), fingerprint },
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
