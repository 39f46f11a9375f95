//! What a gateway says of itself: `health`, `status`, `agents.list`, `gateway.identity.get`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Method;

/// `health`: works with no scope at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {}

impl Method for Health {
    const NAME: &'static str = "health";
    type Payload = HealthReport;
}

/// The answer to `health`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// Whether the gateway is well.
    pub ok: bool,
    /// Its clock, milliseconds since the epoch.
    #[serde(default)]
    pub ts: i64,
    /// The agent that answers when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_agent_id: Option<String>,
}

/// `status`: a longer report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {}

impl Method for Status {
    const NAME: &'static str = "status";
    type Payload = Value;
}

/// `agents.list`: which agents live behind this gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsList {}

impl Method for AgentsList {
    const NAME: &'static str = "agents.list";
    type Payload = Agents;
}

/// The answer to `agents.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agents {
    /// The agent that answers when none is named.
    #[serde(default)]
    pub default_id: String,
    /// The name of the main session.
    #[serde(default)]
    pub main_key: String,
    /// Whether sessions are per sender.
    #[serde(default)]
    pub scope: String,
    /// The agents.
    #[serde(default)]
    pub agents: Vec<AgentRow>,
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its id.
    pub id: String,
    /// The name it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `gateway.identity.get`: a name for a gateway that survives a change of address. Nothing proves that the gateway
/// holds the key: it guards against mistakes, not against attackers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayIdentityGet {}

impl Method for GatewayIdentityGet {
    const NAME: &'static str = "gateway.identity.get";
    type Payload = GatewayIdentity;
}

/// The answer to `gateway.identity.get`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayIdentity {
    /// Lowercase hex SHA-256 of the public key.
    pub device_id: String,
    /// The raw Ed25519 key, base64url.
    #[serde(default)]
    pub public_key: String,
}
