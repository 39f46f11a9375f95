//! The error shape of a response and what it means.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An error as it stands in a response frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorShape {
    /// A coarse code such as `INVALID_REQUEST`; [`ErrorShape::fault`] looks at the finer ones first.
    pub code: String,
    /// For people. Comes from the peer: untrusted text.
    #[serde(default)]
    pub message: String,
    /// Machine-readable facts; `details.code` and `details.reason` are the finest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// Whether the same call may work later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// What an [`ErrorShape`] means to a caller, found from `details.code`, `details.reason`, then `code`; never from the
/// message, but for protocol 3, which has no details for a missing scope.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The shared token is wrong. Never try again by itself: ten failures lock the address out for five minutes.
    TokenMismatch,
    /// The device token is wrong, rotated, revoked, or its device was removed: they look alike.
    DeviceTokenMismatch,
    /// The one-time code is wrong, used by another device, or expired.
    BootstrapTokenInvalid,
    /// No credential was sent.
    TokenMissing,
    /// The gateway wants a device identity.
    DeviceIdentityRequired,
    /// The device signature, nonce, time or id did not hold; the detail code.
    DeviceAuth(String),
    /// Another refusal of a credential; the detail code.
    Auth(String),
    /// The device token does not cover the scopes asked for.
    ScopeMismatch,
    /// A human on the other side has to approve this device.
    PairingRequired {
        /// What to approve.
        request_id: Option<String>,
        /// `not-paired`, `role-upgrade`, `metadata-upgrade`, `scope-upgrade`.
        reason: Option<String>,
    },
    /// The connection lacks a scope for this method.
    MissingScope(Option<String>),
    /// Too many failures from this address.
    RateLimited {
        /// How long the lock lasts, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// The owner's policy says no: which rule, what it allows, and when to come back if that helps.
    PolicyDenied {
        /// Its key in the owner's file, such as `runs-per-day`.
        rule: Option<String>,
        /// What it allows.
        limit: Option<u64>,
        /// When to try again, in milliseconds; none if that does not help.
        retry_after_ms: Option<u64>,
    },
    /// No common protocol version.
    ProtocolMismatch {
        /// The version the gateway wants.
        expected: Option<u64>,
    },
    /// The gateway is starting, draining, or cannot serve this now.
    Unavailable {
        /// `startup-sidecars`, `gateway-restarting`, or whatever it says.
        reason: Option<String>,
        /// When to try again, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// Any other refusal.
    Other,
}

impl ErrorShape {
    /// An error with a code and a message only.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            details: None,
            retryable: None,
            retry_after_ms: None,
        }
    }

    /// The same without a secret that it quotes: what a peer says is shown and kept, and ours must not be.
    #[must_use]
    pub fn without(self, secret: &str) -> Self {
        const REDACTED: &str = "<redacted>";
        let quotes = |text: &str| !secret.is_empty() && text.contains(secret);
        let details = self.details.map(|details| {
            let text = details.to_string();
            if !quotes(&text) {
                return details;
            }
            serde_json::from_str(&text.replace(secret, REDACTED)).unwrap_or_default()
        });
        let message = match quotes(&self.message) {
            true => self.message.replace(secret, REDACTED),
            false => self.message,
        };
        Self { message, details, ..self }
    }

    /// `INVALID_REQUEST`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("INVALID_REQUEST", message)
    }

    /// `INVALID_REQUEST` with a detail code, as failures to connect have it.
    pub fn refused(message: impl Into<String>, detail: &str) -> Self {
        Self::invalid(message).with_details(json!({ "code": detail }))
    }

    /// `FORBIDDEN` for want of a scope.
    #[must_use]
    pub fn missing_scope(scope: &str) -> Self {
        Self::new("FORBIDDEN", format!("missing scope: {scope}")).with_details(json!({
            "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]
        }))
    }

    /// `UNAVAILABLE`, to be tried again after `retry_after_ms` milliseconds.
    #[must_use]
    pub fn unavailable(message: &str, reason: &str, retry_after_ms: u64) -> Self {
        Self {
            retryable: Some(true),
            retry_after_ms: Some(retry_after_ms),
            ..Self::new("UNAVAILABLE", message).with_details(json!({ "reason": reason }))
        }
    }

    /// The same error with these details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// One of its facts, if it is a text.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.as_ref()?.get(name)?.as_str()
    }

    /// What the error means.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let empty = Map::new();
        let details = self.details.as_ref().and_then(Value::as_object).unwrap_or(&empty);
        let text = |key: &str| details.get(key).and_then(Value::as_str).map(str::to_owned);
        match text("code").as_deref() {
            Some("AUTH_TOKEN_MISMATCH" | "AUTH_PASSWORD_MISMATCH") => Fault::TokenMismatch,
            Some("AUTH_DEVICE_TOKEN_MISMATCH") => Fault::DeviceTokenMismatch,
            Some("AUTH_BOOTSTRAP_TOKEN_INVALID") => Fault::BootstrapTokenInvalid,
            Some("AUTH_TOKEN_MISSING") => Fault::TokenMissing,
            Some("DEVICE_IDENTITY_REQUIRED") => Fault::DeviceIdentityRequired,
            Some("AUTH_SCOPE_MISMATCH") => Fault::ScopeMismatch,
            Some("AUTH_RATE_LIMITED") => Fault::RateLimited { retry_after_ms: self.retry_after_ms },
            Some("POLICY_DENIED") => Fault::PolicyDenied {
                rule: text("rule"),
                limit: details.get("limit").and_then(Value::as_u64),
                retry_after_ms: self.retry_after_ms,
            },
            Some("MISSING_SCOPE") => Fault::MissingScope(text("missingScope")),
            Some("PAIRING_REQUIRED") => {
                Fault::PairingRequired { request_id: text("requestId"), reason: text("reason") }
            }
            Some("PROTOCOL_MISMATCH") => {
                Fault::ProtocolMismatch { expected: details.get("expectedProtocol").and_then(Value::as_u64) }
            }
            Some(code) if code.starts_with("DEVICE_AUTH_") => Fault::DeviceAuth(code.to_owned()),
            Some(code) if code.starts_with("AUTH_") => Fault::Auth(code.to_owned()),
            _ => self.coarse_fault(details, text("reason")),
        }
    }

    fn coarse_fault(&self, details: &Map<String, Value>, reason: Option<String>) -> Fault {
        // Protocol 3 answers a mismatch with the bare number and a missing scope with no details at all.
        if let Some(expected) = details.get("expectedProtocol").and_then(Value::as_u64) {
            return Fault::ProtocolMismatch { expected: Some(expected) };
        }
        if let Some(scope) = self.message.strip_prefix("missing scope: ") {
            return Fault::MissingScope(Some(scope.to_owned()));
        }
        match self.code.as_str() {
            "NOT_PAIRED" => Fault::PairingRequired { request_id: None, reason },
            "UNAVAILABLE" => Fault::Unavailable { reason, retry_after_ms: self.retry_after_ms },
            _ => Fault::Other,
        }
    }
}

impl Fault {
    /// Whether the credential or the rights are at fault: never to be retried by itself.
    #[must_use]
    pub fn is_auth(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable { .. }
                | Self::PolicyDenied { retry_after_ms: Some(_), .. }
                | Self::ProtocolMismatch { .. }
                | Self::Other
        )
    }
}

impl std::fmt::Display for ErrorShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for ErrorShape {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        serde_json::from_str::<ErrorShape>(json).unwrap().fault()
    }

    #[test]
    fn an_error_is_told_without_the_secret_that_it_quotes() {
        let error = ErrorShape::invalid("bad token tok-1, really tok-1")
            .with_details(json!({ "code": "X", "got": "tok-1" }))
            .without("tok-1");
        assert_eq!(error.message, "bad token <redacted>, really <redacted>");
        assert_eq!(error.details, Some(json!({ "code": "X", "got": "<redacted>" })));
        assert_eq!(ErrorShape::invalid("tok-2").without("tok-1"), ErrorShape::invalid("tok-2"));
        assert_eq!(ErrorShape::invalid("x").without(""), ErrorShape::invalid("x"));
    }

    #[test]
    fn the_finest_code_decides() {
        let pairing = r#"{"code":"NOT_PAIRED","message":"m","details":{"code":"PAIRING_REQUIRED","reason":"not-paired","requestId":"r1"}}"#;
        assert_eq!(
            fault(pairing),
            Fault::PairingRequired { request_id: Some("r1".into()), reason: Some("not-paired".into()) }
        );
        let identity = r#"{"code":"NOT_PAIRED","message":"m","details":{"code":"DEVICE_IDENTITY_REQUIRED"}}"#;
        assert_eq!(fault(identity), Fault::DeviceIdentityRequired);
    }

    #[test]
    fn protocol_3_is_understood_too() {
        assert_eq!(
            fault(
                r#"{"code":"INVALID_REQUEST","message":"protocol mismatch","details":{"expectedProtocol":3}}"#
            ),
            Fault::ProtocolMismatch { expected: Some(3) }
        );
        assert_eq!(
            fault(r#"{"code":"INVALID_REQUEST","message":"missing scope: operator.read"}"#),
            Fault::MissingScope(Some("operator.read".into()))
        );
    }

    #[test]
    fn what_is_not_known_is_other() {
        assert_eq!(fault(r#"{"code":"TEAPOT","message":"m","details":[1]}"#), Fault::Other);
        assert!(!Fault::Other.is_auth());
    }

    #[test]
    fn a_draining_gateway_says_when_to_come_back() {
        let shape = ErrorShape::unavailable("restarting", "gateway-restarting", 1000);
        assert_eq!(
            shape.fault(),
            Fault::Unavailable { reason: Some("gateway-restarting".into()), retry_after_ms: Some(1000) }
        );
    }
}
