//! Recorded shapes of a refused `connect`.

use serde_json::{Value, json};

use crate::recorded::recorded;

/// An error answer to `connect`, and the close frame that follows it.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub(crate) error: Value,
    pub(crate) close: u16,
    pub(crate) reason: String,
}

impl Refusal {
    /// Any error object (`{"code", "message", "details"?, ...}`); the close reason is its message.
    #[must_use]
    pub fn new(error: Value, close: u16) -> Self {
        let reason = error["message"].as_str().unwrap_or_default().to_owned();
        Self { error, close, reason }
    }

    fn invalid(message: &str, details: &Value) -> Self {
        Self::new(json!({"code": "INVALID_REQUEST", "message": message, "details": details}), 1008)
    }

    /// The parameters of `connect` do not fit the schema.
    #[must_use]
    pub fn bad_params(problem: &str) -> Self {
        let message = format!("invalid connect params: {problem}");
        Self::new(json!({"code": "INVALID_REQUEST", "message": message}), 1008)
    }

    /// A gateway that speaks another protocol; protocol 3 gateways say less than later ones.
    #[must_use]
    pub fn protocol_mismatch(expected: u64, client_min: &Value, client_max: &Value) -> Self {
        let details = if expected <= 3 {
            json!({"expectedProtocol": expected})
        } else {
            json!({"code": "PROTOCOL_MISMATCH", "clientMinProtocol": client_min, "clientMaxProtocol": client_max,
                   "expectedProtocol": expected, "minimumProbeProtocol": 3})
        };
        Self { close: 1002, ..Self::invalid("protocol mismatch", &details) }
    }

    /// The device waits for approval under this request id (reason `not-paired`, `scope-upgrade`, ...).
    #[must_use]
    pub fn pairing_required(request_id: &str, device_id: &str, reason: &str) -> Self {
        let mut refusal = Self::new(recorded!("res-error-pairing-required", "error"), 1008);
        refusal.error["details"]["requestId"] = json!(request_id);
        refusal.error["details"]["deviceId"] = json!(device_id);
        refusal.error["details"]["reason"] = json!(reason);
        refusal.reason = format!("{} (requestId: {request_id})", refusal.reason);
        refusal
    }

    /// Neither a device nor a credential, or a device token without its device.
    #[must_use]
    pub fn device_identity_required() -> Self {
        Self::new(recorded!("res-error-device-identity-required", "error"), 1008)
    }

    /// A device without any credential.
    #[must_use]
    pub fn token_missing() -> Self {
        Self::new(recorded!("res-error-token-missing", "error"), 1008)
    }

    /// A wrong shared token.
    #[must_use]
    pub fn token_mismatch() -> Self {
        Self::new(recorded!("res-error-token-mismatch", "error"), 1008)
    }

    /// A device token that was rotated, revoked or removed.
    #[must_use]
    pub fn device_token_mismatch() -> Self {
        Self::new(recorded!("res-error-device-token-mismatch", "error"), 1008)
    }

    /// More scopes than the device token was approved for.
    #[must_use]
    pub fn scope_mismatch() -> Self {
        Self::new(recorded!("res-error-scope-mismatch", "error"), 1008)
    }

    /// A signature that does not verify.
    #[must_use]
    pub fn signature_invalid() -> Self {
        Self::new(recorded!("res-error-signature-invalid", "error"), 1008)
    }

    /// A setup code that is wrong, used or expired. (Not recorded: written after protocol.md.)
    #[must_use]
    pub fn bootstrap_token_invalid() -> Self {
        let details = json!({"code": "AUTH_BOOTSTRAP_TOKEN_INVALID", "authReason": "bootstrap_token_invalid",
                             "canRetryWithDeviceToken": false, "recommendedNextStep": "review_auth_configuration"});
        let message = "unauthorized: setup code invalid, expired, revoked, or already used (create a new code; \
                       review `openclaw devices list`)";
        Self::invalid(message, &details)
    }

    /// Too many failures from this address: locked out for five minutes.
    #[must_use]
    pub fn rate_limited() -> Self {
        Self::new(
            json!({"code": "INVALID_REQUEST", "message": "unauthorized: too many failed authentication attempts",
                   "retryable": true, "retryAfterMs": 299_993,
                   "details": {"code": "AUTH_RATE_LIMITED", "authReason": "rate_limited",
                               "recommendedNextStep": "wait_then_retry"}}),
            1008,
        )
    }

    /// The gateway process is up, but not ready yet.
    #[must_use]
    pub fn starting_up() -> Self {
        Self::new(
            json!({"code": "UNAVAILABLE", "message": "gateway starting; retry shortly", "retryable": true,
                   "retryAfterMs": 500, "details": {"reason": "startup-sidecars"}}),
            1013,
        )
    }

    /// The nonce in the signed device does not belong to this connection.
    #[must_use]
    pub fn nonce_mismatch() -> Self {
        let details = json!({"code": "DEVICE_AUTH_NONCE_MISMATCH", "reason": "device-nonce-mismatch"});
        Self::invalid("device nonce mismatch", &details)
    }

    /// `signedAt` is more than two minutes away from the gateway's clock.
    #[must_use]
    pub fn signature_expired() -> Self {
        let details = json!({"code": "DEVICE_AUTH_SIGNATURE_EXPIRED", "reason": "device-signature-stale"});
        Self::invalid("device signature expired", &details)
    }
}
