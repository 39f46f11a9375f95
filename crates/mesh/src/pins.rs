//! What we know a teammate's gateway by: `<state>/pins.json`.
//!
//! Two marks are kept. The *identity* is the gateway's own name for itself, kept on first contact. Nothing in the handshake
//! proves that a gateway holds its key, so it guards against mistakes such as a reused address, not against attackers. The
//! *certificate* is proven in every TLS handshake, and is kept only where the user says so: one that an authority vouches
//! for changes every few weeks, and one that nobody vouches for is no proof on the first day.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use openclaw_client::Fingerprint;
use openclaw_client::protocol::methods::info::GatewayIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::gathered::Gathered;
use crate::private_file::{self, PrivateFileError};

/// Why what we know of gateways could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinsError {
    /// The file was refused, unreadable or could not be written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file is not what we wrote.
    #[error("{path}:{}:{}: not a file of pins", source.line(), source.column())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The new content could not be turned into JSON.
    #[error("cannot encode {path}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// What we know one teammate's gateway by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "what one gateway is known by")]
pub struct Pin {
    /// Its identity. Gateways before protocol 4 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PinnedIdentity>,
    /// The certificate it must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PinnedCertificate>,
    /// The process of it that we asked last: as long as it is the same one, there is nothing to ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// The identity of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a gateway's identity")]
pub struct PinnedIdentity {
    /// The SHA-256 of its public key, 64 hex digits.
    pub device_id: String,
    /// The raw Ed25519 key, base64url.
    pub public_key: String,
    /// When it was kept.
    pub since: Timestamp,
}

/// The certificate of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a certificate")]
pub struct PinnedCertificate {
    /// Its SHA-256, 64 hex digits.
    pub fingerprint: String,
    /// When it was kept.
    pub since: Timestamp,
}

/// By what a gateway is told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Its own name for itself.
    Identity,
    /// What it shows in the TLS handshake.
    Certificate,
}

/// Who said that this is the one to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PinnedBy {
    /// The registry.
    Registry,
    /// This host: on first contact, or with `trust add`.
    Us,
    /// The invite that is being redeemed.
    Invite,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Certificate => "certificate",
        })
    }
}

/// The file, as it is on disk.
#[derive(Default, Serialize, Deserialize)]
#[serde(expecting = "an object with pins")]
struct File {
    #[serde(default)]
    pins: BTreeMap<String, Pin>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// `pins.json`, read once and written as gateways are met. Keys are lower-case e-mail prefixes.
#[derive(Clone, Debug)]
pub struct Pins {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// What we know, once the file was read.
    known: Mutex<Option<BTreeMap<String, Pin>>>,
    /// Gateways met since, which are not in the file yet.
    met: Gathered<(String, Met)>,
}

/// What a gateway process said of itself.
#[derive(Clone, Debug)]
struct Met {
    boot_id: Option<String>,
    identity: Option<GatewayIdentity>,
}

impl Pins {
    /// What this file knows; it need not exist. Reads nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let shared = Shared { path: path.into(), known: Mutex::default(), met: Gathered::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What we know a teammate's gateway by; nothing of one we never met.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused or malformed.
    pub fn get(&self, email_prefix: &str) -> Result<Pin, PinsError> {
        let key = email_prefix.to_lowercase();
        self.shared.with_pins(|pins| pins.get(&key).cloned().unwrap_or_default())
    }

    /// Everything we know, by lower-case prefix.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused or malformed.
    pub fn all(&self) -> Result<BTreeMap<String, Pin>, PinsError> {
        self.shared.with_pins(|pins| pins.clone())
    }

    /// Keeps what a gateway process said of itself. An identity that is known stays: whoever calls this has compared them,
    /// and compares again with what is returned, since another program may have been faster.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused, malformed or cannot be written.
    pub(crate) async fn meet(
        &self,
        email_prefix: &str,
        boot_id: Option<&str>,
        identity: Option<GatewayIdentity>,
    ) -> Result<Pin, PinsError> {
        let key = email_prefix.to_lowercase();
        let met = Met { boot_id: boot_id.map(str::to_owned), identity };
        if !self.shared.met.add((key.clone(), met.clone())) {
            return self.shared.with_pins(|pins| met.enter(pins, &key).clone());
        }
        self.write().await?;
        self.get(email_prefix)
    }

    /// Many gateways are about to be met. What they say of themselves is known at once, and from here on in the file only
    /// when [`Pins::write`] returns, or some seconds later; until [`Pins::met_many`].
    pub(crate) fn meeting_many(&self) {
        self.shared.met.begin();
    }

    /// They were met.
    pub(crate) fn met_many(&self) {
        self.shared.met.end();
    }

    /// Writes down who was met.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused, malformed or cannot be written.
    pub(crate) async fn write(&self) -> Result<(), PinsError> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || shared.write_met()).await {
            Ok(result) => result,
            Err(gone) => std::panic::resume_unwind(gone.into_panic()),
        }
    }

    /// The same, on this thread.
    pub(crate) fn write_now(&self) -> Result<(), PinsError> {
        self.shared.write_met()
    }

    /// Keeps the certificate that a teammate's gateway must show.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused, malformed or cannot be written.
    pub fn set_certificate(&self, email_prefix: &str, fingerprint: Fingerprint) -> Result<(), PinsError> {
        let key = email_prefix.to_lowercase();
        let certificate = PinnedCertificate { fingerprint: fingerprint.to_string(), since: Timestamp::now() };
        self.shared.edit(|pins| {
            pins.entry(key).or_default().certificate = Some(certificate);
            true
        })
    }

    /// Forgets a teammate's gateway, and says what was known of it.
    ///
    /// # Errors
    /// [`PinsError`] when the file is refused, malformed or cannot be written.
    pub fn forget(&self, email_prefix: &str) -> Result<Option<Pin>, PinsError> {
        let key = email_prefix.to_lowercase();
        if self.get(&key)? == Pin::default() {
            return Ok(None);
        }
        let mut known = None;
        self.shared.edit(|pins| {
            known = pins.remove(&key);
            known.is_some()
        })?;
        Ok(known)
    }
}

impl Met {
    /// An identity that is known stays.
    fn enter<'a>(&self, pins: &'a mut BTreeMap<String, Pin>, key: &str) -> &'a Pin {
        let pin = pins.entry(key.to_owned()).or_default();
        pin.boot_id.clone_from(&self.boot_id);
        if let (None, Some(new)) = (&pin.identity, &self.identity) {
            let GatewayIdentity { device_id, public_key } = new.clone();
            pin.identity = Some(PinnedIdentity { device_id, public_key, since: Timestamp::now() });
        }
        pin
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<String, Pin>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_pins<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Pin>) -> T) -> Result<T, PinsError> {
        let mut known = self.lock();
        let pins = match known.take() {
            Some(pins) => pins,
            None => {
                let bytes = private_file::read(&self.path)?;
                parse(&self.path, bytes.as_deref().map(Vec::as_slice))?.pins
            }
        };
        Ok(look(known.insert(pins)))
    }

    fn write_met(&self) -> Result<(), PinsError> {
        self.met.write(|met| {
            self.edit(|pins| {
                for (key, met) in met {
                    met.enter(pins, key);
                }
                true
            })
        })
    }

    /// Changes the file under its lock, and what we know of it.
    fn edit(&self, edit: impl FnOnce(&mut BTreeMap<String, Pin>) -> bool) -> Result<(), PinsError> {
        let mut pins = BTreeMap::new();
        private_file::update(&self.path, |bytes| {
            let mut file = parse(&self.path, bytes)?;
            let changed = edit(&mut file.pins);
            let json = if changed { Some(encode(&self.path, &file)?) } else { None };
            pins = file.pins;
            Ok::<_, PinsError>(json)
        })?;
        let mut known = self.lock();
        // Met while the file was being written.
        for (key, met) in &*self.met.waiting() {
            met.enter(&mut pins, key);
        }
        *known = Some(pins);
        Ok(())
    }
}

fn parse(path: &Path, bytes: Option<&[u8]>) -> Result<File, PinsError> {
    let Some(bytes) = bytes else { return Ok(File::default()) };
    serde_json::from_slice(bytes).map_err(|source| PinsError::Malformed { path: path.into(), source })
}

fn encode(path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, PinsError> {
    let mut json =
        serde_json::to_vec_pretty(file).map_err(|source| PinsError::Encode { path: path.into(), source })?;
    json.push(b'\n');
    Ok(Zeroizing::new(json))
}

#[cfg(test)]
mod tests;
