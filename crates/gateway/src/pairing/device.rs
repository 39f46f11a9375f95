//! A device: what it says of itself, and what it is here.

use std::net::IpAddr;

use openclaw_protocol::connect::{ConnectParams, Granted};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{REMOTE_SCOPES, VIA_LOOPBACK};
use crate::seats::network;
use crate::secret::DeviceToken;

/// What a device says of itself. Only its id and key are proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Claim {
    pub(crate) device_id: String,
    pub(crate) public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    pub(crate) platform: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_family: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_mode: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) remote_ip: String,
}

impl Claim {
    /// What a connect with a proven device claims.
    pub(crate) fn new(params: &ConnectParams, device_id: &str, remote_ip: String) -> Self {
        let client = &params.client;
        Self {
            device_id: device_id.to_owned(),
            public_key: params.device.as_ref().map(|proof| proof.public_key.clone()).unwrap_or_default(),
            display_name: client.display_name.clone(),
            platform: client.platform.clone(),
            device_family: client.device_family.clone(),
            client_id: client.id.clone(),
            client_mode: client.mode.clone(),
            scopes: params.scopes.clone(),
            remote_ip,
        }
    }

    /// The claim of a remote device: whatever it asks for, no human can give it more than messaging.
    pub(crate) fn remote(mut self) -> Self {
        self.scopes.retain(|scope| REMOTE_SCOPES.contains(&scope.as_str()));
        self
    }

    /// The address by which it is counted.
    pub(super) fn network(&self) -> Option<IpAddr> {
        self.remote_ip.parse().ok().map(network)
    }

    /// The name that the device gives itself now, if that is another.
    pub(super) fn other_name(&self, now: &Self) -> Option<String> {
        now.display_name.clone().filter(|name| self.display_name.as_ref() != Some(name))
    }

    /// Whether a human who saw `self` would also have approved `other`.
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        self.scopes == other.scopes
            && self.platform == other.platform
            && self.device_family == other.device_family
    }
}

/// A device that was approved.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    /// What a human approved. Its name stays: whoever could change it could hide from a `revoke` by name.
    pub(crate) claim: Claim,
    /// The name it gave itself when it connected last, if that is another.
    pub(super) claimed_name: Option<String>,
    pub(crate) token: DeviceToken,
    pub(crate) token_at_ms: i64,
    pub(super) approved_via: String,
    pub(super) created_at_ms: i64,
    pub(super) approved_at_ms: i64,
    pub(super) last_seen_at_ms: Option<i64>,
}

impl Device {
    /// Whether it may have this scope from where it calls.
    pub(crate) fn allows(&self, scope: &str, local: bool) -> bool {
        let approved = Granted { scopes: self.claim.scopes.clone(), ..Granted::default() };
        approved.allows(scope) && (local || REMOTE_SCOPES.contains(&scope))
    }

    /// Whether it still names the platform and family it was approved with.
    pub(crate) fn is_unchanged(&self, now: &Claim) -> bool {
        let folded = |text: &str| text.trim().to_ascii_lowercase();
        let family = |claim: &Claim| folded(claim.device_family.as_deref().unwrap_or_default());
        let (pinned, given) = (family(&self.claim), family(now));
        folded(&self.claim.platform) == folded(&now.platform) && (pinned.is_empty() || pinned == given)
    }

    /// Whether the owner let it in by coming over loopback with it.
    pub(crate) fn is_owners(&self) -> bool {
        self.approved_via == VIA_LOOPBACK
    }

    /// The row of `device.pair.list`; the token is never shown.
    pub(crate) fn row(&self) -> Value {
        let claim = &self.claim;
        let mut row = json!({
            "deviceId": claim.device_id, "publicKey": claim.public_key, "displayName": claim.display_name,
            "platform": claim.platform, "deviceFamily": claim.device_family,
            "clientId": claim.client_id, "clientMode": claim.client_mode,
            "role": "operator", "roles": ["operator"], "scopes": claim.scopes,
            "remoteIp": claim.remote_ip, "approvedVia": self.approved_via,
            "createdAtMs": self.created_at_ms, "approvedAtMs": self.approved_at_ms,
            "lastSeenAtMs": self.last_seen_at_ms, "claimedDisplayName": self.claimed_name,
            "tokens": [{ "role": "operator", "scopes": claim.scopes, "createdAtMs": self.token_at_ms }],
        });
        drop_nulls(&mut row);
        row
    }
}

/// A device that waits for approval.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) request_id: String,
    /// What a human is shown. Its name stays: nobody approves one that he did not read.
    pub(super) claim: Claim,
    /// The name it gave itself when it asked last, if that is another.
    pub(super) claimed_name: Option<String>,
    pub(super) is_repair: bool,
    pub(super) ts: i64,
    pub(super) expires: Instant,
}

impl Pending {
    /// The row of `device.pair.list`, and the payload of `device.pair.requested`.
    pub(crate) fn row(&self) -> Value {
        let claim = &self.claim;
        let mut row = json!({
            "requestId": self.request_id, "deviceId": claim.device_id, "publicKey": claim.public_key,
            "displayName": claim.display_name, "platform": claim.platform, "deviceFamily": claim.device_family,
            "clientId": claim.client_id, "clientMode": claim.client_mode,
            "role": "operator", "roles": ["operator"], "scopes": claim.scopes, "remoteIp": claim.remote_ip,
            "silent": false, "isRepair": self.is_repair, "ts": self.ts, "claimedDisplayName": self.claimed_name,
        });
        drop_nulls(&mut row);
        row
    }
}

/// Absent fields are left out on the wire, as the real gateway does.
fn drop_nulls(row: &mut Value) {
    if let Some(fields) = row.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}
