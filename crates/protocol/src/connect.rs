//! The first request of a connection and its answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The payload of the `connect.challenge` event, the server's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// To be signed.
    pub nonce: String,
    /// The gateway's clock, milliseconds since the epoch. Signing with this makes clock skew harmless.
    pub ts: i64,
}

/// The parameters of the `connect` request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectParams {
    /// The oldest protocol version the client speaks.
    pub min_protocol: u32,
    /// The newest protocol version the client speaks.
    pub max_protocol: u32,
    /// Who is calling.
    pub client: ClientInfo,
    /// `operator` for us; gateways know others (`node`, `worker`). Absent means operator.
    #[serde(default = "operator")]
    pub role: String,
    /// The rights asked for. Absent means none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Optional behaviours, such as `session-scoped-events`.
    #[serde(default)]
    pub caps: Vec<String>,
    /// The credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Free text for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The signed device identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceProof>,
}

fn operator() -> String {
    "operator".to_owned()
}

/// Who is calling. `id` and `mode` are closed sets at the gateway; the product's name goes into `display_name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    /// Such as `gateway-client` or `cli`.
    pub id: String,
    /// Such as `backend` or `cli`.
    pub mode: String,
    /// The client's version.
    pub version: String,
    /// Pinned when the device is approved: never change it. Free text.
    pub platform: String,
    /// Shown where devices are approved and listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Pinned like the platform once given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
}

/// The credential of a `connect`. At most one field is normally set; what is signed is the first of `token`,
/// `device_token`, `bootstrap_token` (never the password).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// The gateway's shared token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A token issued to this device after approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// A one-time code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_token: Option<String>,
    /// The gateway's shared password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl Auth {
    /// The part of the credential that the device signature covers; empty without one.
    #[must_use]
    pub fn signed_token(&self) -> &str {
        self.token
            .as_deref()
            .or(self.device_token.as_deref())
            .or(self.bootstrap_token.as_deref())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("token", &self.token),
            ("deviceToken", &self.device_token),
            ("bootstrapToken", &self.bootstrap_token),
            ("password", &self.password),
        ];
        f.debug_set().entries(kinds.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k)).finish()
    }
}

/// The device's key and its signature over [`signature_payload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProof {
    /// Lowercase hex SHA-256 of the raw public key.
    pub id: String,
    /// The raw Ed25519 public key, base64url without padding.
    pub public_key: String,
    /// Ed25519 signature, base64url without padding.
    pub signature: String,
    /// Milliseconds since the epoch; within 120 s of the gateway's clock.
    pub signed_at: i64,
    /// The challenge's nonce.
    #[serde(default)]
    pub nonce: String,
}

/// What a device signs. `version` is `v3`, or `v2` for old clients, which leave out platform and family.
#[must_use]
pub fn signature_payload(
    version: &str,
    params: &ConnectParams,
    device_id: &str,
    signed_at: i64,
    nonce: &str,
) -> String {
    let client = &params.client;
    let token = params.auth.as_ref().map(Auth::signed_token).unwrap_or_default();
    let scopes = params.scopes.join(",");
    let head = format!(
        "{version}|{device_id}|{}|{}|{}|{scopes}|{signed_at}|{token}|{nonce}",
        client.id, client.mode, params.role
    );
    if version == "v2" {
        return head;
    }
    // Only ASCII is folded: the gateway leaves other letters alone.
    let folded = |text: &str| text.trim().to_ascii_lowercase();
    let family = client.device_family.as_deref().unwrap_or_default();
    format!("{head}|{}|{}", folded(&client.platform), folded(family))
}

/// The payload of the answer to `connect`, as a server writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// Always `hello-ok`.
    pub r#type: String,
    /// The protocol version in force.
    pub protocol: u32,
    /// Who answers.
    pub server: ServerInfo,
    /// What it can do.
    pub features: Features,
    /// Presence and health at this moment.
    pub snapshot: Value,
    /// How the client was authenticated, and its rights. Protocol 3 may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Granted>,
    /// The gateway's limits.
    pub policy: Policy,
}

/// The part of `hello-ok` that a caller needs. A real one is 16 KB, mostly method names and a snapshot; those are
/// skipped without being copied.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The protocol version in force.
    pub protocol: u32,
    /// Who answers.
    #[serde(default)]
    pub server: ServerInfo,
    /// How we were authenticated, and our rights.
    #[serde(default)]
    pub auth: Option<Granted>,
    /// The gateway's limits.
    #[serde(default)]
    pub policy: Policy,
}

/// The gateway process that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Its version, such as `2026.9.6`.
    #[serde(default)]
    pub version: String,
    /// Changes with every start: what was in memory is gone then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// This connection.
    #[serde(default)]
    pub conn_id: String,
}

/// Names of what a gateway can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Methods that may be called.
    pub methods: Vec<String>,
    /// Events that may come.
    pub events: Vec<String>,
    /// Optional behaviours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// How a connection was authenticated, and what it may do.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// `token`, `device-token`, `bootstrap-token`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The role in force.
    #[serde(default)]
    pub role: String,
    /// The scopes the connection really has: check, do not assume.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// A token for this device, to be stored and used from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// When that token was issued, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<i64>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted")
            .field("method", &self.method)
            .field("role", &self.role)
            .field("scopes", &self.scopes)
            .field("device_token", &self.device_token.as_ref().map(|_| "redacted"))
            .finish_non_exhaustive()
    }
}

impl Granted {
    /// Whether the connection has a scope, also by implication: admin implies all, write implies read.
    #[must_use]
    pub fn allows(&self, scope: &str) -> bool {
        let has = |name: &str| self.scopes.iter().any(|s| s == name);
        has(scope) || has("operator.admin") || (scope == "operator.read" && has("operator.write"))
    }
}

/// The gateway's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Largest frame in bytes; a larger one closes the socket with 1009.
    pub max_payload: usize,
    /// Bytes the gateway buffers for a slow reader.
    pub max_buffered_bytes: usize,
    /// Milliseconds between two `tick` events.
    pub tick_interval_ms: u64,
}

impl Default for Policy {
    /// What OpenClaw 2026.9.6 announces.
    fn default() -> Self {
        Self { max_payload: crate::MAX_PAYLOAD, max_buffered_bytes: 52_428_800, tick_interval_ms: 30_000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_shows_a_secret() {
        let auth = Auth { token: Some("hunter2".into()), ..Auth::default() };
        assert_eq!(format!("{auth:?}"), r#"{"token"}"#);
        let granted = Granted { device_token: Some("hunter2".into()), ..Granted::default() };
        assert!(!format!("{granted:?}").contains("hunter2"));
    }

    #[test]
    fn the_first_given_credential_is_signed() {
        let auth =
            Auth { device_token: Some("d".into()), bootstrap_token: Some("b".into()), ..Auth::default() };
        assert_eq!(auth.signed_token(), "d");
        assert_eq!(Auth { password: Some("p".into()), ..Auth::default() }.signed_token(), "");
    }

    #[test]
    fn scopes_imply_others() {
        let granted = |scope: &str| Granted { scopes: vec![scope.into()], ..Granted::default() };
        assert!(granted("operator.admin").allows("operator.pairing"));
        assert!(granted("operator.write").allows("operator.read"));
        assert!(!granted("operator.read").allows("operator.write"));
    }
}
