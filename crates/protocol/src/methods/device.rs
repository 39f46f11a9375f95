//! Pairing, on the approving side: `device.pair.*` and `device.token.revoke`.

use serde::{Deserialize, Serialize};

use super::Method;

/// `device.pair.list`: who waits and who is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairList {}

impl Method for PairList {
    const NAME: &'static str = "device.pair.list";
    type Payload = Pairings;
}

/// The answer to `device.pair.list`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pairings {
    /// Devices that wait for approval.
    #[serde(default)]
    pub pending: Vec<PendingDevice>,
    /// Devices that were approved.
    #[serde(default)]
    pub paired: Vec<PairedDevice>,
}

/// A device that waits. Everything but the id and key is its own claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingDevice {
    /// What to approve.
    pub request_id: String,
    /// Lowercase hex SHA-256 of the public key.
    pub device_id: String,
    /// The raw Ed25519 key, base64url.
    #[serde(default)]
    pub public_key: String,
    /// The name it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The platform it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its client mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_mode: Option<String>,
    /// The role it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The scopes it asks for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where it called from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// When it asked, milliseconds since the epoch.
    #[serde(default)]
    pub ts: i64,
}

/// A device that was approved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedDevice {
    /// Lowercase hex SHA-256 of the public key.
    pub device_id: String,
    /// The raw Ed25519 key, base64url.
    #[serde(default)]
    pub public_key: String,
    /// The name it last gave itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The platform pinned at approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its scopes.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// `owner`, `silent` or `bootstrap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_via: Option<String>,
    /// When it was approved, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<i64>,
    /// When it last connected, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at_ms: Option<i64>,
    /// Whether it is connected now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
}

/// `device.pair.approve`: let a device in, with the scopes it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairApprove {
    /// The request.
    pub request_id: String,
}

impl Method for PairApprove {
    const NAME: &'static str = "device.pair.approve";
    type Payload = Approved;
}

/// The answer to `device.pair.approve`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approved {
    /// The request.
    pub request_id: String,
    /// The device that is in now.
    pub device: PairedDevice,
}

/// `device.pair.reject`: turn a request down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairReject {
    /// The request.
    pub request_id: String,
}

impl Method for PairReject {
    const NAME: &'static str = "device.pair.reject";
    type Payload = serde::de::IgnoredAny;
}

/// `device.pair.remove`: forget a device; its sockets close, its token is worthless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRemove {
    /// The device.
    pub device_id: String,
}

impl Method for PairRemove {
    const NAME: &'static str = "device.pair.remove";
    type Payload = serde::de::IgnoredAny;
}
