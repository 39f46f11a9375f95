//! Sessions: `sessions.messages.subscribe`, `sessions.patch`.

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

/// `sessions.patch`: changes a session, and makes it if there is none. Only what the agent may do in it is known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsPatch {
    /// The session, in its full form.
    pub key: String,
    /// `read-only`, `guarded`, `workspace` or `full` (which takes an admin); null is the agent's own default. Sent even
    /// when it is null.
    pub permission_mode: Option<String>,
}

impl Method for SessionsPatch {
    const NAME: &'static str = "sessions.patch";
    type Payload = serde::de::IgnoredAny;
}
