//! Session keys: many spellings, one full form; and the part of them that is a peer's.

use openclaw_protocol::ErrorShape;

/// The one agent of this gateway.
pub(crate) const AGENT_ID: &str = "main";
/// The session taken when none is named.
pub(crate) const MAIN_SESSION: &str = "agent:main:main";
/// The longest key the real gateway takes, in characters.
const MAX_CHARS: usize = 512;

/// The full form of a session key: lowercase, `agent:main:…`.
pub(crate) fn full_key(key: &str) -> Result<String, ErrorShape> {
    let key = key.trim().to_lowercase();
    if key.is_empty() {
        return Err(ErrorShape::refused("session key required", "SESSION_MUTATION_TARGET_REQUIRED"));
    }
    if key.chars().count() > MAX_CHARS {
        return Err(ErrorShape::invalid("sessionKey must NOT have more than 512 characters"));
    }
    if key.chars().any(char::is_control) {
        return Err(ErrorShape::invalid("sessionKey must not contain control characters"));
    }
    match key.strip_prefix("agent:").map(|rest| rest.split_once(':')) {
        None => Ok(format!("agent:{AGENT_ID}:{key}")),
        Some(Some((AGENT_ID, rest))) if !rest.is_empty() => Ok(key),
        Some(Some((agent, rest))) if !agent.is_empty() && !rest.is_empty() => {
            Err(ErrorShape::invalid(format!("Agent \"{agent}\" no longer exists in configuration")))
        }
        Some(_) => Err(ErrorShape::invalid("malformed session key")),
    }
}

/// The session a request means by its `sessionKey` and `agentId`.
pub(crate) fn target(session: Option<&str>, agent: Option<&str>) -> Result<String, ErrorShape> {
    if let Some(agent) = agent.filter(|agent| !agent.eq_ignore_ascii_case(AGENT_ID)) {
        return Err(ErrorShape::invalid(format!("unknown agent id \"{agent}\"")));
    }
    session.map_or_else(|| Ok(MAIN_SESSION.to_owned()), full_key)
}

/// The session that a peer means by a full key, and its name within what is his: his namespace is
/// `agent:<agent>:mesh:<peer>`, which is his `main` session, and all below. What he names outside of it is put into it.
pub(crate) fn peer_session(full: &str, peer: &str) -> (String, String) {
    let rest = full.strip_prefix("agent:").and_then(|rest| rest.split_once(':'));
    let (agent, rest) = rest.unwrap_or((AGENT_ID, full));
    let base = format!("mesh:{}", segment(peer));
    let below = rest.strip_prefix(&base).filter(|below| below.is_empty() || below.starts_with(':'));
    let name = match below.map(|below| below.trim_start_matches(':')) {
        Some("") => "main",
        Some(name) => name,
        None => rest,
    };
    let key = match name {
        "main" => format!("agent:{agent}:{base}"),
        name => format!("agent:{agent}:{base}:{name}"),
    };
    (key, name.to_owned())
}

/// Whose session this is, if it is a peer's.
pub(crate) fn namespace(session: &str) -> Option<String> {
    let (_, rest) = session.strip_prefix("agent:")?.split_once(':')?;
    let peer = rest.strip_prefix("mesh:")?;
    let segment = peer.split_once(':').map_or(peer, |(segment, _)| segment);
    Some(segment.replace("%3a", ":").replace("%25", "%"))
}

/// A peer's key as one segment: `a:b` must not be the session `b` of `a`.
fn segment(peer: &str) -> String {
    peer.replace('%', "%25").replace(':', "%3a")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_has_one_full_form() {
        for (given, full) in [
            ("main", "agent:main:main"),
            ("Mesh:Alice", "agent:main:mesh:alice"),
            ("agent:main:mesh:alice", "agent:main:mesh:alice"),
            ("AGENT:Main:X", "agent:main:x"),
            ("戴泽", "agent:main:戴泽"),
        ] {
            assert_eq!(full_key(given).unwrap(), full);
        }
    }

    #[test]
    fn whatever_a_peer_names_is_within_what_is_his() {
        for (named, key, name) in [
            ("agent:main:main", "agent:main:mesh:alice", "main"),
            ("agent:main:mesh:alice", "agent:main:mesh:alice", "main"),
            ("agent:main:mesh:alice:deploy", "agent:main:mesh:alice:deploy", "deploy"),
            ("agent:main:deploy", "agent:main:mesh:alice:deploy", "deploy"),
            ("agent:main:mesh:bob", "agent:main:mesh:alice:mesh:bob", "mesh:bob"),
            ("agent:main:mesh:alice2", "agent:main:mesh:alice:mesh:alice2", "mesh:alice2"),
            ("agent:main:mesh:alice:", "agent:main:mesh:alice", "main"),
            ("agent:main:mesh:alice::mesh:bob", "agent:main:mesh:alice:mesh:bob", "mesh:bob"),
        ] {
            assert_eq!(peer_session(named, "alice"), (key.to_owned(), name.to_owned()), "{named}");
            assert_eq!(namespace(key).as_deref(), Some("alice"));
            assert_eq!(peer_session(key, "alice").0, key, "what is his already stays");
        }
    }

    #[test]
    fn no_key_reaches_into_another_namespace() {
        let (key, _) = peer_session("agent:main:b", "a");
        assert_ne!(key, peer_session("agent:main:main", "a:b").0);
        for peer in ["a:b", "a%3ab", "a%", "%25"] {
            assert_eq!(namespace(&peer_session("agent:main:x:y", peer).0).as_deref(), Some(peer));
        }
        for session in ["agent:main:main", "agent:main:x:mesh:alice", "mesh:alice", ""] {
            assert_eq!(namespace(session), None, "{session}");
        }
    }

    #[test]
    fn what_is_no_session_of_ours_is_refused() {
        let message = |key: &str| full_key(key).unwrap_err().message;
        assert_eq!(message("agent:nope:x"), "Agent \"nope\" no longer exists in configuration");
        for key in ["agent::x", "agent:main:", "agent:main", "agent:"] {
            assert_eq!(message(key), "malformed session key", "{key}");
        }
        assert_eq!(message("  "), "session key required");
        assert!(message(&"x".repeat(513)).contains("512"));
        assert!(message("a\0b").contains("control"));
    }

    #[test]
    fn neither_key_nor_agent_is_the_main_session() {
        assert_eq!(target(None, None).unwrap(), MAIN_SESSION);
        assert_eq!(target(None, Some("main")).unwrap(), MAIN_SESSION);
        assert!(target(Some("main"), Some("other")).is_err());
    }
}
