//! Sessions: `sessions.messages.subscribe`.

use serde::{Deserialize, Serialize};

use super::Method;

/// `sessions.messages.subscribe`: with the cap `session-scoped-events`, only the sessions named here send events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagesSubscribe {
    /// The session, such as `agent:main:mesh:alice`.
    pub key: String,
}

impl Method for MessagesSubscribe {
    const NAME: &'static str = "sessions.messages.subscribe";
    type Payload = serde::de::IgnoredAny;
}
