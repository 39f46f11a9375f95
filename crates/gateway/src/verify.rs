//! Ed25519 for the device proofs of the handshake.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ed25519_dalek::{Signature, VerifyingKey};
use openclaw_protocol::handshake::DeviceVerifier;

use crate::secret::sha256;

/// Checks device ids and signatures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ed25519;

impl DeviceVerifier for Ed25519 {
    fn device_id(&self, public_key: &str) -> Option<String> {
        let raw = raw_key(public_key)?;
        Some(sha256(&raw).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn verify(&self, public_key: &str, message: &[u8], signature: &str) -> bool {
        let key = raw_key(public_key).and_then(|raw| VerifyingKey::from_bytes(&raw).ok());
        let signature = decode(signature).and_then(|raw| Signature::from_slice(&raw).ok());
        // Strict: without it, keys of small order verify more than their owner signed.
        key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
    }
}

fn raw_key(text: &str) -> Option<[u8; 32]> {
    decode(text)?.try_into().ok()
}

/// base64url without padding; padded standard base64 is tolerated, as the real gateway does.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg";
    const ID: &str = "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c";

    #[test]
    fn the_id_is_the_hash_of_the_raw_key() {
        assert_eq!(Ed25519.device_id(KEY).as_deref(), Some(ID));
        assert_eq!(Ed25519.device_id("A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=").as_deref(), Some(ID));
        assert_eq!(Ed25519.device_id("short"), None);
        assert_eq!(Ed25519.device_id("\u{e9}"), None);
    }

    #[test]
    fn the_vector_of_the_real_gateway_verifies() {
        let payload = format!(
            "v3|{ID}|gateway-client|backend|operator|operator.read,operator.write|1700000000000|tok-example|\
             00000000-0000-4000-8000-000000000000|agent-mesh|"
        );
        let signature =
            "zZMux0tYSi5KC6iNyzinq0OUsMX9yGRp63YdJrdR6xSAdO1HzaXVEOnMiW_0HfIhFb6MhSwPxw5puLsLlH1xBQ";
        assert!(Ed25519.verify(KEY, payload.as_bytes(), signature));
        assert!(!Ed25519.verify(KEY, b"other", signature));
        assert!(!Ed25519.verify(KEY, payload.as_bytes(), "AAAA"));
    }
}
