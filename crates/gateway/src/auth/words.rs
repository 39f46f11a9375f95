//! What a client is told that may not come in. The reference client reads these.

use openclaw_protocol::ErrorShape;
use serde_json::json;

/// Why a human has to approve.
pub(super) struct Why {
    pub(super) reason: &'static str,
    pub(super) words: &'static str,
    pub(super) hint: &'static str,
}

pub(super) const NOT_PAIRED: Why = Why {
    reason: "not-paired",
    words: "device is not approved yet",
    hint: "Approve this device from the pending pairing requests.",
};
pub(super) const METADATA_UPGRADE: Why = Why {
    reason: "metadata-upgrade",
    words: "device identity changed",
    hint: "Review the changed platform, then approve the pending request.",
};
pub(super) const SCOPE_UPGRADE: Why = Why {
    reason: "scope-upgrade",
    words: "more scopes than approved",
    hint: "Review the requested scopes, then approve the pending upgrade.",
};

/// A failed credential in the words of the real gateway, which the reference client reads.
fn unauthorized(message: &str, code: &str, reason: &str, retry: bool, next: &str) -> ErrorShape {
    ErrorShape::invalid(format!("unauthorized: {message}")).with_details(json!({
        "code": code, "authReason": reason, "canRetryWithDeviceToken": retry, "recommendedNextStep": next,
    }))
}

pub(super) fn token_mismatch(has_device: bool) -> ErrorShape {
    let next = if has_device { "retry_with_device_token" } else { "update_auth_credentials" };
    let message = "gateway token mismatch (provide gateway auth token)";
    unauthorized(message, "AUTH_TOKEN_MISMATCH", "token_mismatch", has_device, next)
}

pub(super) fn token_missing() -> ErrorShape {
    let message = "gateway token missing (provide gateway auth token)";
    unauthorized(message, "AUTH_TOKEN_MISSING", "token_missing", false, "update_auth_configuration")
}

pub(super) fn device_token_mismatch() -> ErrorShape {
    let message = "device token mismatch (rotate/reissue device token)";
    let (code, reason) = ("AUTH_DEVICE_TOKEN_MISMATCH", "device_token_mismatch");
    unauthorized(message, code, reason, false, "update_auth_credentials")
}

pub(super) fn bootstrap_invalid() -> ErrorShape {
    let message = "setup code invalid, expired, revoked, or already used (create a new code)";
    let (code, reason) = ("AUTH_BOOTSTRAP_TOKEN_INVALID", "bootstrap_token_invalid");
    unauthorized(message, code, reason, false, "review_auth_configuration")
}

pub(super) fn scope_mismatch() -> ErrorShape {
    let message = "device token scope mismatch (re-pair or approve scope upgrade)";
    unauthorized(message, "AUTH_SCOPE_MISMATCH", "scope_mismatch", false, "review_auth_configuration")
}

pub(super) fn device_identity_required() -> ErrorShape {
    ErrorShape::new("NOT_PAIRED", "device identity required")
        .with_details(json!({ "code": "DEVICE_IDENTITY_REQUIRED" }))
}

pub(super) fn rate_limited(left_ms: u64) -> ErrorShape {
    let message = "too many failed authentication attempts (retry later)";
    let error = unauthorized(message, "AUTH_RATE_LIMITED", "rate_limited", false, "wait_then_retry");
    ErrorShape { retryable: Some(true), retry_after_ms: Some(left_ms), ..error }
}
