//! What anybody may know of the agent behind this gateway: its name, and how it is asked.

use hyper::Method;
use hyper::header::{HOST, HeaderMap};
use openclaw_protocol::a2a::VERSION;
use serde_json::{Value, json};

use super::PATH;
use crate::http::{self, Reply};
use crate::shared::Shared;

pub(super) fn answer(shared: &Shared, method: &Method, headers: &HeaderMap) -> Reply {
    if method != Method::GET && method != Method::HEAD {
        return http::wrong_method("GET, HEAD");
    }
    http::document(&card(shared, headers))
}

fn card(shared: &Shared, headers: &HeaderMap) -> Value {
    let config = &shared.config;
    let base = config.public_url.clone().unwrap_or_else(|| {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| is_host(host));
        host.map_or_else(|| format!("http://{}", config.listen), |host| format!("http://{host}"))
    });
    let name = &config.agent_name;
    json!({
        "name": name,
        "description": "An agent of a team, reached over agent-mesh. It answers text with text.",
        "version": config.version,
        "supportedInterfaces": [{
            "url": format!("{}{PATH}", base.trim_end_matches('/')),
            "protocolBinding": "JSONRPC",
            "protocolVersion": VERSION,
        }],
        "capabilities": { "streaming": true, "pushNotifications": false, "extendedAgentCard": false },
        "securitySchemes": { "bearer": { "httpAuthSecurityScheme": { "scheme": "Bearer" } } },
        "securityRequirements": [{ "schemes": { "bearer": { "list": [] } } }],
        "defaultInputModes": ["text/plain", "application/json"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{
            "id": "message", "name": "message", "tags": ["agent-mesh"],
            "description": "Takes a message and answers it.",
        }],
    })
}

/// Whether this can be a host with or without a port. Anything else would make the URL lead elsewhere.
fn is_host(host: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !host.is_empty() && host.len() <= 255 && host.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_is_taken_for_one() {
        for host in ["bob.example", "127.0.0.1:18789", "[::1]:18789", "localhost"] {
            assert!(is_host(host), "{host}");
        }
        for other in ["", "x/y", "user@host", "a b", "a\"b", "é"] {
            assert!(!is_host(other), "{other}");
        }
    }
}
