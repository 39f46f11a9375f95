//! Our device identity: one Ed25519 key, created on first use, that every gateway knows us by.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    Signer, SigningKey,
    pkcs8::{self, DecodePrivateKey, EncodePrivateKey, KeypairBytes, spki::der::pem::LineEnding},
};
use openclaw_client::protocol::handshake::DeviceSigner;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};

/// Why there is no device key to sign with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceKeyError {
    /// The key file was refused, unreadable or could not be written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file is there but holds no Ed25519 key in PKCS#8 PEM. It is never replaced: peers have approved that key.
    #[error("{path} is not an Ed25519 private key in PKCS#8 PEM")]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// The operating system gave no random bytes for a new key.
    #[error("no random bytes for a new device key: {0}")]
    NoEntropy(getrandom::Error),
    /// The new key could not be written as PEM.
    #[error("cannot encode a new device key")]
    Encode(#[source] pkcs8::Error),
}

/// The key a gateway recognises this device by.
#[derive(Clone)]
pub struct DeviceKey {
    key: SigningKey,
    id: String,
    public_key: String,
}

impl DeviceKey {
    /// Loads the key, or creates it when there is none. Two processes that start at once end with the same key.
    ///
    /// # Errors
    /// [`DeviceKeyError`] when the file is refused or malformed, or a new one cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, DeviceKeyError> {
        if let Some(found) = Self::load(path)? {
            return Ok(found);
        }
        private_file::update(path, |existing| match existing {
            Some(_) => Ok(None),
            None => generate().map(Some),
        })?;
        Self::load(path)?.ok_or_else(|| DeviceKeyError::Malformed { path: path.into() })
    }

    /// Loads the key without ever creating one: `None` when there is no file.
    ///
    /// # Errors
    /// [`DeviceKeyError`] when the file is refused, unreadable or malformed.
    pub fn load(path: &Path) -> Result<Option<Self>, DeviceKeyError> {
        let Some(bytes) = private_file::read(path)? else { return Ok(None) };
        let key = std::str::from_utf8(&bytes).ok().and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok());
        key.map(|key| Some(Self::new(key))).ok_or_else(|| DeviceKeyError::Malformed { path: path.into() })
    }

    fn new(key: SigningKey) -> Self {
        let public_key = key.verifying_key();
        let digest = Sha256::digest(public_key.as_bytes());
        Self {
            key,
            id: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            public_key: URL_SAFE_NO_PAD.encode(public_key.as_bytes()),
        }
    }

    /// The device id: SHA-256 of the raw public key, 64 lower-case hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The raw 32-byte public key, base64url without padding.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The Ed25519 signature over `payload`, base64url without padding.
    pub fn sign(&self, payload: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.key.sign(payload).to_bytes())
    }
}

impl DeviceSigner for DeviceKey {
    fn id(&self) -> &str {
        &self.id
    }

    fn public_key(&self) -> &str {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> String {
        Self::sign(self, message)
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A new key as PEM.
fn generate() -> Result<Zeroizing<Vec<u8>>, DeviceKeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(DeviceKeyError::NoEntropy)?;
    // Without the public key, which would make it a version 2 document that OpenSSL cannot read.
    let pair = KeypairBytes { secret_key: *seed, public_key: None };
    let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(DeviceKeyError::Encode)?;
    Ok(Zeroizing::new(pem.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, process::Command, thread};

    use super::*;

    fn new_path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/device.pem");
        (dir, path)
    }

    /// The vector recorded from a real gateway, `protocol.md` 1.6: seed 00..1f.
    #[test]
    fn signs_as_the_gateway_expects() {
        let key = DeviceKey::new(SigningKey::from_bytes(&std::array::from_fn(|i| i as u8)));
        let payload = "v3|56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c|gateway-client|backend|\
            operator|operator.read,operator.write|1700000000000|tok-example|\
            00000000-0000-4000-8000-000000000000|agent-mesh|";
        assert_eq!(key.id(), "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c");
        assert_eq!(key.public_key(), "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg");
        assert_eq!(
            key.sign(payload.as_bytes()),
            "zZMux0tYSi5KC6iNyzinq0OUsMX9yGRp63YdJrdR6xSAdO1HzaXVEOnMiW_0HfIhFb6MhSwPxw5puLsLlH1xBQ"
        );
    }

    #[test]
    fn created_once_0600_and_loaded_again() {
        let (_dir, path) = new_path();
        assert!(DeviceKey::load(&path).unwrap().is_none(), "load never creates");
        assert!(!path.parent().unwrap().exists(), "not even the folder");

        let created = DeviceKey::load_or_create(&path).unwrap();
        let again = DeviceKey::load_or_create(&path).unwrap();
        let loaded = DeviceKey::load(&path).unwrap().unwrap();
        assert_eq!((created.id(), created.id()), (again.id(), loaded.id()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn processes_that_start_at_once_end_with_one_key() {
        let (_dir, path) = new_path();
        let ids: HashSet<String> = thread::scope(|scope| {
            let start = || DeviceKey::load_or_create(&path).unwrap().id().to_owned();
            let running: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let (_dir, path) = new_path();
        for damaged in ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            private_file::write(&path, damaged.as_bytes()).unwrap();
            let error = DeviceKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, DeviceKeyError::Malformed { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn debug_shows_only_the_id() {
        let (_dir, path) = new_path();
        let key = DeviceKey::load_or_create(&path).unwrap();
        assert_eq!(format!("{key:?}"), format!("DeviceKey {{ id: {:?}, .. }}", key.id()));
    }

    #[test]
    fn openssl_reads_our_key() {
        let (_dir, path) = new_path();
        let key = DeviceKey::load_or_create(&path).unwrap();
        let command =
            Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&path).output();
        // Not every machine has it.
        let Ok(output) = command else { return };
        assert!(output.stdout.ends_with(key.key.verifying_key().as_bytes()), "{output:?}");
    }
}
