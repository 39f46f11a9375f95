//! Pairing, on the approving side: `device.pair.*`.

use std::fmt;

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
    /// The name of its latest connect, at a gateway whose `display_name` is that of the first, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_display_name: Option<String>,
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

impl PendingDevice {
    /// All that it calls itself, the newest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        newest_first(&self.claimed_display_name, &self.display_name)
    }
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
    /// The same, at a gateway whose `display_name` is the one that was approved, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_display_name: Option<String>,
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

impl PairedDevice {
    /// All that it calls itself, the newest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        newest_first(&self.claimed_display_name, &self.display_name)
    }
}

fn newest_first<'a>(claimed: &'a Option<String>, first: &'a Option<String>) -> impl Iterator<Item = &'a str> {
    [claimed, first].into_iter().flatten().map(String::as_str)
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

/// `device.pair.setupCode`: mint a one-time code. Whoever shows it first may ask to be let in, without the shared token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MintSetupCode {
    /// The address to put into the code; without it the gateway says where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Whether to draw a picture of the code, too; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_qr: Option<bool>,
    /// `limited` or `node`. Absent means everything, the owner's rights included: never leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_profile: Option<String>,
}

impl MintSetupCode {
    /// A code that gives messaging and no more.
    #[must_use]
    pub fn limited(public_url: Option<String>) -> Self {
        Self { public_url, include_qr: Some(false), bootstrap_profile: Some("limited".to_owned()) }
    }
}

impl Method for MintSetupCode {
    const NAME: &'static str = "device.pair.setupCode";
    type Payload = MintedSetupCode;
}

/// The answer to `device.pair.setupCode`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MintedSetupCode {
    /// A name for the code that is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_id: Option<String>,
    /// When it ends, milliseconds since the epoch; older gateways do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// A [`SetupCode`] as JSON in base64url without padding. A secret.
    pub setup_code: String,
    /// The address in it.
    #[serde(default)]
    pub gateway_url: String,
    /// `token` or `password`: what the gateway asks its owner for.
    #[serde(default)]
    pub auth: String,
    /// Where the address comes from, such as `gateway.bind=lan`.
    #[serde(default)]
    pub url_source: String,
    /// What it gives: `limited`, `node` or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// Whether more was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_downgraded: Option<bool>,
}

impl fmt::Debug for MintedSetupCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedSetupCode")
            .field("setup_id", &self.setup_id)
            .field("expires_at_ms", &self.expires_at_ms)
            .field("gateway_url", &self.gateway_url)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// What a setup code holds.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupCode {
    /// Where the gateway is.
    pub url: String,
    /// What to show it: a secret.
    pub bootstrap_token: String,
    /// When it ends, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// SHA-256 of the certificate that the gateway shows, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
}

impl fmt::Debug for SetupCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetupCode")
            .field("url", &self.url)
            .field("expires_at_ms", &self.expires_at_ms)
            .field("tls_fingerprint", &self.tls_fingerprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_shows_a_code() {
        let minted = MintedSetupCode { setup_code: "hunter2".into(), ..MintedSetupCode::default() };
        let code = SetupCode { bootstrap_token: "hunter2".into(), ..SetupCode::default() };
        assert!(!format!("{minted:?} {code:?}").contains("hunter2"));
    }
}
