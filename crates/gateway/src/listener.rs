//! One port: hyper speaks HTTP/1.1 and hands an upgraded stream to `connection`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};

use crate::connection::{self, Arrival};
use crate::http::{self, Reply};
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
        let served = serve(Arc::clone(&shared), stream, peer, permit);
        shared.tasks.spawn(served);
    }
}

/// Serves HTTP on one stream until it closes or is upgraded. `hold` lives as long as the stream does.
pub(crate) async fn serve<S, H>(shared: Arc<Shared>, stream: S, peer: SocketAddr, hold: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Send + Sync + 'static,
{
    let ip = peer.ip().to_canonical();
    let hold = Arc::new(hold);
    let service = service_fn({
        let shared = Arc::clone(&shared);
        move |request| {
            let reply = answer(&shared, request, ip, &hold);
            async move { Ok::<_, Infallible>(reply) }
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

fn answer<H>(shared: &Arc<Shared>, request: Request<Incoming>, ip: IpAddr, hold: &Arc<H>) -> Reply
where
    H: Send + Sync + 'static,
{
    let headers = request.headers();
    if !http::wants_websocket(headers) {
        return http::plain(request.method(), request.uri().path());
    }
    if http::is_proxied_loopback(ip, headers) {
        let body = r#"{"error":{"type":"proxy_attribution_required","message":"a proxy on loopback hides who is calling"}}"#;
        return http::json(StatusCode::FORBIDDEN, body);
    }
    if shared.draining.is_cancelled() {
        return http::json(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"gateway-restarting"}"#);
    }
    let reply = match http::switch(request.method(), headers) {
        Ok(reply) => reply,
        Err(body) => return http::json(StatusCode::BAD_REQUEST, body),
    };
    let Some(stranger) = Stranger::enter(&shared.strangers, ip) else {
        return http::json(
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"error":"too_many_unauthenticated_sockets"}"#,
        );
    };
    let arrival = Arrival { ip, has_origin: headers.contains_key(ORIGIN), stranger };
    let (shared, hold) = (Arc::clone(shared), Arc::clone(hold));
    shared.sockets.clone().spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            connection::serve(shared, TokioIo::new(upgraded), arrival).await;
        }
        drop(hold);
    });
    reply
}

/// Counts the sockets of each address that have not authenticated yet.
#[derive(Debug)]
pub(crate) struct Strangers {
    open: Mutex<HashMap<IpAddr, usize>>,
    max: usize,
}

impl Strangers {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Mutex::default(), max }
    }
}

/// A socket that has not authenticated yet; dropped when it has, or is gone.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Arc<Strangers>,
    ip: IpAddr,
}

impl Stranger {
    /// None when this address has too many of them.
    pub(crate) fn enter(all: &Arc<Strangers>, ip: IpAddr) -> Option<Self> {
        let mut open = lock(&all.open);
        let count = open.entry(ip).or_insert(0);
        if *count >= all.max {
            return None;
        }
        *count += 1;
        Some(Self { all: Arc::clone(all), ip })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut open = lock(&self.all.open);
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_by_address_and_leave_no_trace() {
        let all = Arc::new(Strangers::new(1));
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = Stranger::enter(&all, a).unwrap();
        assert!(Stranger::enter(&all, a).is_none());
        assert!(Stranger::enter(&all, b).is_some());
        drop(first);
        assert!(Stranger::enter(&all, a).is_some());
        assert!(lock(&all.open).is_empty());
    }
}
