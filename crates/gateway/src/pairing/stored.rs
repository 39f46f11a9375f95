//! The device list as the store keeps it.

use serde::{Deserialize, Serialize};

use super::{Claim, Device, Pairing};
use crate::config::Limits;
use crate::secret::DeviceToken;

/// The document in the store.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    devices: Vec<StoredDevice>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredDevice {
    #[serde(flatten)]
    claim: Claim,
    token: String,
    token_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_display_name: Option<String>,
    approved_via: String,
    created_at_ms: i64,
    approved_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_seen_at_ms: Option<i64>,
}

impl Pairing {
    /// Reads what [`Pairing::to_bytes`] wrote.
    pub(crate) fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Self, serde_json::Error> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        if stored.version != 1 {
            let message = format!("unknown version {} of the device list", stored.version);
            return Err(serde::de::Error::custom(message));
        }
        let devices = stored.devices.into_iter().map(|device| {
            let id = device.claim.device_id.clone();
            (id, Device::from(device))
        });
        Ok(Self { paired: devices.collect(), ..Self::new(limits) })
    }

    /// The approved devices as the store keeps them. Requests are not kept: their devices will ask again.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let devices = self.paired.values().map(StoredDevice::from).collect();
        serde_json::to_vec_pretty(&Stored { version: 1, devices })
    }
}

impl From<StoredDevice> for Device {
    fn from(stored: StoredDevice) -> Self {
        Self {
            claim: stored.claim,
            claimed_name: stored.claimed_display_name,
            token: DeviceToken::from_store(stored.token),
            token_at_ms: stored.token_at_ms,
            approved_via: stored.approved_via,
            created_at_ms: stored.created_at_ms,
            approved_at_ms: stored.approved_at_ms,
            last_seen_at_ms: stored.last_seen_at_ms,
        }
    }
}

impl From<&Device> for StoredDevice {
    fn from(device: &Device) -> Self {
        Self {
            claim: device.claim.clone(),
            claimed_display_name: device.claimed_name.clone(),
            token: device.token.expose().to_owned(),
            token_at_ms: device.token_at_ms,
            approved_via: device.approved_via.clone(),
            created_at_ms: device.created_at_ms,
            approved_at_ms: device.approved_at_ms,
            last_seen_at_ms: device.last_seen_at_ms,
        }
    }
}
