//! What the port answers over plain HTTP, and whether a request is an upgrade.

use std::convert::Infallible;
use std::net::IpAddr;

use futures_util::stream::poll_fn;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// An answer: whole, or written while it is sent.
pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The page at `/`: the bash skill takes a 200 there for "online". It names neither the agent nor the version.
const PAGE: &str = "<!doctype html><html><head><meta charset=\"utf-8\"><title>agent-mesh</title></head>\
    <body><p>agent-mesh gateway</p></body></html>\n";

/// Answers what is no upgrade.
pub(crate) fn plain(method: &Method, path: &str, draining: bool) -> Reply {
    let (kind, body) = match path {
        "/health" | "/healthz" => ("application/json", r#"{"ok":true,"status":"live"}"#),
        "/ready" | "/readyz" if draining => {
            return json(
                StatusCode::SERVICE_UNAVAILABLE,
                r#"{"ready":false,"failing":["gateway-draining"]}"#,
            );
        }
        "/ready" | "/readyz" => ("application/json", r#"{"ready":true}"#),
        "/" => ("text/html; charset=utf-8", PAGE),
        _ => return json(StatusCode::NOT_FOUND, r#"{"error":"not_found"}"#),
    };
    if method != Method::GET && method != Method::HEAD {
        return wrong_method("GET, HEAD");
    }
    typed(StatusCode::OK, kind, body)
}

/// An error, or any other small JSON document.
pub(crate) fn json(status: StatusCode, body: &'static str) -> Reply {
    typed(status, "application/json", body)
}

/// A path that takes other methods.
pub(crate) fn wrong_method(allowed: &'static str) -> Reply {
    let mut reply = json(StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"method_not_allowed"}"#);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// A JSON document that nobody keeps.
pub(crate) fn document(content: &Value) -> Reply {
    page("application/json", content.to_string())
}

/// Any other text that nobody keeps.
pub(crate) fn page(kind: &'static str, text: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// Server-sent events, as they come out of a queue.
pub(crate) fn events(mut queue: mpsc::Receiver<Bytes>) -> Reply {
    let frames =
        poll_fn(move |cx| queue.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event)))));
    let mut reply = Response::new(StreamBody::new(frames).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn typed(status: StatusCode, kind: &'static str, body: &'static str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// Whether a request asks for a WebSocket.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE.as_str(), "websocket")
}

/// The answer that switches to the WebSocket protocol, or the body of a 400.
pub(crate) fn switch(method: &Method, headers: &HeaderMap) -> Result<Reply, &'static str> {
    if method != Method::GET || !has_token(headers, CONNECTION.as_str(), "upgrade") {
        return Err(r#"{"error":"not_an_upgrade"}"#);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(r#"{"error":"unsupported_websocket_version"}"#);
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(r#"{"error":"missing_websocket_key"}"#);
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return Err(r#"{"error":"bad_websocket_key"}"#);
    };
    let mut reply = Response::new(Full::default().boxed_unsync());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = reply.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(reply)
}

/// Whether somebody between us and the caller hides who the caller is. Then loopback proves nothing.
pub(crate) fn is_proxied_loopback(ip: IpAddr, headers: &HeaderMap) -> bool {
    let marks = ["x-forwarded-for", "x-real-ip", "forwarded"];
    ip.is_loopback() && marks.iter().any(|mark| headers.contains_key(*mark))
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|&(name, value)| {
            (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        fields.collect()
    }

    #[test]
    fn only_known_paths_and_reading_methods_are_answered() {
        let status = |method, path| plain(&method, path, false).status().as_u16();
        for path in ["/", "/health", "/healthz", "/ready", "/readyz"] {
            assert_eq!((status(Method::GET, path), status(Method::HEAD, path)), (200, 200), "{path}");
            assert_eq!(status(Method::POST, path), 405, "{path}");
        }
        assert_eq!(status(Method::GET, "/v1/chat/completions"), 404);
        assert_eq!(plain(&Method::GET, "/readyz", true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(plain(&Method::GET, "/healthz", true).status(), StatusCode::OK);
    }

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        let asked = headers(&[
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        assert!(wants_websocket(&asked));
        let reply = switch(&Method::GET, &asked).unwrap();
        assert_eq!(reply.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(switch(&Method::POST, &asked).unwrap_err().contains("not_an_upgrade"));
    }

    #[test]
    fn loopback_behind_a_proxy_is_not_loopback() {
        let marked = headers(&[("x-real-ip", "203.0.113.9")]);
        assert!(is_proxied_loopback([127, 0, 0, 1].into(), &marked));
        assert!(!is_proxied_loopback([10, 0, 0, 1].into(), &marked));
        assert!(!is_proxied_loopback([127, 0, 0, 1].into(), &headers(&[])));
    }
}
