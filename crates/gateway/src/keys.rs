//! Session keys: many spellings, one full form.

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
