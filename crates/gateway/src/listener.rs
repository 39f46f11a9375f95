//! One port: hyper speaks HTTP/1.1 and hands an upgraded stream to `connection`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep};

use crate::a2a;
use crate::bearer;
use crate::connection::{self, Arrival};
use crate::http::{self, Reply};
use crate::metrics;
use crate::seats::{Seat, network};
use crate::shared::{Shared, lock};

/// After a failed accept (most often: no file descriptor is free) the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest HTTP header, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Accepts until it is dropped.
pub(crate) async fn accept(shared: Arc<Shared>, listener: &TcpListener) {
    let room = Arc::new(Semaphore::new(shared.config.limits.connections));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        // Small frames go out at once; a socket that refuses the option works without it.
        let _ = stream.set_nodelay(true);
        let served = serve(Arc::clone(&shared), stream, peer, Some(permit));
        shared.tasks.spawn(served);
    }
}

/// A TCP connection, from its acceptance until it is closed or upgraded.
struct Visit {
    ip: IpAddr,
    /// Handed on by an upgrade.
    stranger: Mutex<Option<Seat<IpAddr>>>,
    /// Lives as long as the stream does.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Serves HTTP on one stream until it closes or is upgraded.
pub(crate) async fn serve<S>(
    shared: Arc<Shared>,
    stream: S,
    peer: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ip = peer.ip().to_canonical();
    // Counted from the first moment: a socket that says nothing costs a file descriptor, too. No words for those who
    // have too many of them; an answer would hold the descriptor that it is about.
    let Some(stranger) = Seat::take(&shared.strangers, network(ip)) else { return };
    let visit = Arc::new(Visit { ip, stranger: Mutex::new(Some(stranger)), _permit: permit });
    let service = service_fn({
        let shared = Arc::clone(&shared);
        move |request| {
            let (shared, visit) = (Arc::clone(&shared), Arc::clone(&visit));
            async move { Ok::<_, Infallible>(answer(&shared, request, &visit).await) }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.timing.header)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        // A client that breaks off or sends no HTTP is its own problem.
        _ = connection => {}
        () = shared.stop.cancelled() => {}
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, visit: &Arc<Visit>) -> Reply {
    let path = request.uri().path();
    if http::wants_websocket(request.headers()) {
        upgrade(shared, request, visit)
    } else if path == "/metrics" {
        measured(shared, visit.ip, &request).await
    } else if a2a::is_ours(path) {
        a2a::answer(shared, visit.ip, request).await
    } else {
        http::plain(request.method(), path, shared.draining.is_cancelled())
    }
}

/// What is measured here is the owner's to know: on loopback, with his token, or for all if he says so.
async fn measured(shared: &Arc<Shared>, ip: IpAddr, request: &Request<Incoming>) -> Reply {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return http::wrong_method("GET, HEAD");
    }
    let headers = request.headers();
    let is_local = ip.is_loopback() && !http::is_proxied_loopback(ip, headers);
    let is_owners = |token: &str| shared.config.token.is(token).then_some(());
    if !is_local
        && !shared.config.open_metrics
        && let Err(refusal) = bearer::check(shared, ip, headers, is_owners).await
    {
        return refusal;
    }
    http::page("text/plain; version=0.0.4; charset=utf-8", metrics::page(shared))
}

fn upgrade(shared: &Arc<Shared>, request: Request<Incoming>, visit: &Arc<Visit>) -> Reply {
    let (ip, headers) = (visit.ip, request.headers());
    let draining = shared.draining.is_cancelled();
    if http::is_proxied_loopback(ip, headers) {
        let body = r#"{"error":{"type":"proxy_attribution_required","message":"a proxy on loopback hides who is calling"}}"#;
        return http::json(StatusCode::FORBIDDEN, body);
    }
    if draining {
        return http::json(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"gateway-restarting"}"#);
    }
    let reply = match http::switch(request.method(), headers) {
        Ok(reply) => reply,
        Err(body) => return http::json(StatusCode::BAD_REQUEST, body),
    };
    let max = shared.config.limits.unauthenticated_per_ip;
    // The rest of the seats is for plain HTTP: who has too many sockets may still ask for our health.
    let Some(stranger) = lock(&visit.stranger).take_if(|stranger| stranger.crowd() <= max) else {
        return http::json(
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"error":"too_many_unauthenticated_sockets"}"#,
        );
    };
    let arrival = Arrival { ip, has_origin: headers.contains_key(ORIGIN), stranger };
    let (shared, visit) = (Arc::clone(shared), Arc::clone(visit));
    shared.sockets.clone().spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            connection::serve(shared, TokioIo::new(upgraded), arrival).await;
        }
        drop(visit);
    });
    reply
}
