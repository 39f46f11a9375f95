//! A token in the header of an HTTP request.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::time::{Instant, sleep};

use crate::http::{self, Reply};
use crate::lockout::Kind;
use crate::shared::{Shared, lock};

/// Whose token a request bears, as `known` says. One that is nobody's counts towards the lockout of its address; what
/// nobody can guess is looked at first, so that a lockout keeps out only who guesses.
pub(crate) async fn check<T>(
    shared: &Shared,
    ip: IpAddr,
    headers: &HeaderMap,
    known: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Reply> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let Some(token) = token else { return Err(unauthorized()) };
    if let Some(found) = known(token) {
        return Ok(found);
    }
    tracing::info!(%ip, code = "AUTH_TOKEN_MISMATCH", "a request was turned away");
    let now = Instant::now();
    if ip.is_loopback() {
        let delay = lock(&shared.lockout).local_failure(now);
        sleep(delay).await;
        return Err(unauthorized());
    }
    let mut lockout = lock(&shared.lockout);
    if lockout.locked(ip, Kind::Shared, now).is_some() {
        return Err(http::json(StatusCode::TOO_MANY_REQUESTS, r#"{"error":"too_many_wrong_tokens"}"#));
    }
    lockout.failure(ip, Kind::Shared, now);
    Err(unauthorized())
}

fn unauthorized() -> Reply {
    let mut reply = http::json(StatusCode::UNAUTHORIZED, r#"{"error":"unauthorized"}"#);
    reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_what_follows_the_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer   abc "), Some("abc"));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "Bearerabc"] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }
}
