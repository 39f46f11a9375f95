//! The Agent2Agent protocol on the same port: a public card, and JSON-RPC for those who hold a token of their own.
//!
//! A task is a run: the same policy, the same lanes, the same archive. What a client asks for goes through a [`mod@line`], a
//! connection in memory, and so through everything that holds for a WebSocket. Its conversation (`contextId`) is a session
//! in the peer's namespace.
//!
//! The body of a request is read only after its bearer has proven itself, in bounded time and size.

use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, StatusCode};
use tokio::time::timeout;

use crate::bearer;
use crate::http::{self, Reply};
use crate::principal::Member;
use crate::seats::Seat;
use crate::secret::TokenHash;
use crate::shared::Shared;

mod card;
mod line;
mod rpc;
mod send;
mod stream;
mod task;

/// Where requests go.
const PATH: &str = "/a2a/v1";
/// The card's older place.
const OLD_CARD_PATH: &str = "/.well-known/agent.json";
/// Largest body, in bytes; as at OpenClaw's own channel.
const MAX_BODY: usize = 1024 * 1024;
/// Version of the protocol that a client asks for.
const VERSION_HEADER: &str = "a2a-version";

/// A peer and his token.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    member: Arc<Member>,
    token: TokenHash,
}

/// Whether a path is ours.
pub(crate) fn is_ours(path: &str) -> bool {
    path == PATH || path == openclaw_protocol::a2a::CARD_PATH || path == OLD_CARD_PATH
}

/// Answers a request for one of our paths.
pub(crate) async fn answer(shared: &Arc<Shared>, ip: IpAddr, request: Request<Incoming>) -> Reply {
    if request.uri().path() != PATH {
        return card::answer(shared, request.method(), request.headers());
    }
    if request.method() != Method::POST {
        return http::wrong_method("POST");
    }
    let known = |token: &str| shared.access().of_token(token, None);
    let caller = match bearer::check(shared, ip, request.headers(), known).await {
        Ok((member, token)) => Caller { member, token },
        Err(refusal) => return refusal,
    };
    if !is_json(request.headers()) {
        let body = r#"{"error":"the body must be application/json"}"#;
        return http::json(StatusCode::UNSUPPORTED_MEDIA_TYPE, body);
    }
    let Some(_seat) = Seat::take(&shared.callers, caller.member.key.clone()) else {
        return http::json(StatusCode::TOO_MANY_REQUESTS, r#"{"error":"too_many_requests_at_a_time"}"#);
    };
    let version = request.headers().get(VERSION_HEADER).cloned();
    match read(shared, request).await {
        Ok(body) => rpc::answer(shared, caller, version.as_ref(), &body).await,
        Err(refusal) => refusal,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The body, in the time that a header has and no more bytes than it may have.
async fn read(shared: &Shared, request: Request<Incoming>) -> Result<Bytes, Reply> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    match timeout(shared.config.timing.header, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(http::json(StatusCode::PAYLOAD_TOO_LARGE, r#"{"error":"the body is larger than 1 MiB"}"#))
        }
        Ok(Err(_)) => Err(http::json(StatusCode::BAD_REQUEST, r#"{"error":"the body broke off"}"#)),
        Err(_) => Err(http::json(StatusCode::REQUEST_TIMEOUT, r#"{"error":"the body took too long"}"#)),
    }
}
