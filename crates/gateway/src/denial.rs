//! What a peer is told when the policy says no: which rule, what it allows, and when to try again if that helps.

use openclaw_protocol::ErrorShape;
use serde_json::{Value, json};

/// A rule of the policy, by its key in `policy.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Mode,
    Agents,
    Sessions,
    MessageBytes,
    RequestsPerMinute,
    ConcurrentRuns,
    RunsPerDay,
}

impl Rule {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Mode,
        Self::Agents,
        Self::Sessions,
        Self::MessageBytes,
        Self::RequestsPerMinute,
        Self::ConcurrentRuns,
        Self::RunsPerDay,
    ];

    /// Its key in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Agents => "agents",
            Self::Sessions => "sessions",
            Self::MessageBytes => "message-bytes",
            Self::RequestsPerMinute => "requests-per-minute",
            Self::ConcurrentRuns => "concurrent-runs",
            Self::RunsPerDay => "runs-per-day",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Mode => "you are not let in here",
            Self::Agents => "this agent is not yours to talk to",
            Self::Sessions => "this session is not yours to talk in",
            Self::MessageBytes => "the message is too large",
            Self::RequestsPerMinute => "too many requests in a minute",
            Self::ConcurrentRuns => "too many of your runs are not over",
            Self::RunsPerDay => "too many runs in a day",
        }
    }
}

/// No, and asking again will not help.
pub(crate) fn forbidden(rule: Rule) -> ErrorShape {
    denied("FORBIDDEN", rule, Value::Null)
}

/// No, because it is more than this.
pub(crate) fn too_much(rule: Rule, limit: usize) -> ErrorShape {
    denied("FORBIDDEN", rule, json!(limit))
}

/// Not now: more than this is too much, and that passes.
pub(crate) fn later(rule: Rule, limit: u32, retry_after_ms: u64) -> ErrorShape {
    let mut error = denied("UNAVAILABLE", rule, json!(limit));
    if let Some(details) = &mut error.details {
        details["retryAfterMs"] = json!(retry_after_ms);
    }
    ErrorShape { retryable: Some(true), retry_after_ms: Some(retry_after_ms), ..error }
}

fn denied(code: &str, rule: Rule, limit: Value) -> ErrorShape {
    let mut details = json!({ "code": "POLICY_DENIED", "rule": rule.name() });
    if !limit.is_null() {
        details["limit"] = limit;
    }
    ErrorShape::new(code, format!("{} ({})", rule.words(), rule.name())).with_details(details)
}

/// The owner has paused the door.
pub(crate) fn paused() -> ErrorShape {
    const LOOK_AGAIN_MS: u64 = 60_000;
    ErrorShape::unavailable("the owner lets no new messages in just now", "paused", LOOK_AGAIN_MS)
}
