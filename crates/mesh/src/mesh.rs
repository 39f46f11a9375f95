//! What every operation starts from.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openclaw_client::{Secret, TlsMemory};

use crate::archive::{Archive, Opening};
use crate::config::MeshConfig;
use crate::device::DeviceKey;
use crate::error::MeshError;
use crate::filed::Filed;
use crate::gathered::Gathered;
use crate::guard::short_name;
use crate::identity::{self, Identity};
use crate::invite::{Asked, SentInvites};
use crate::pins::Pins;
use crate::pool::Pool;
use crate::registry::{Agent, LookupError, Registry, RegistryError};
use crate::secrets::{DeviceToken, DeviceTokenStore, DeviceTokens, TokenStore};

/// The team as seen from here. Files are read when they are first needed, and once.
pub struct Mesh {
    config: MeshConfig,
    registry: OnceLock<Registry>,
    identity: OnceLock<Option<Identity>>,
    device: OnceLock<DeviceKey>,
    tokens: OnceLock<HashMap<String, Secret>>,
    device_tokens: OnceLock<DeviceTokens>,
    /// Device tokens issued to us just now.
    issued: Arc<Gathered<(String, DeviceToken)>>,
    archive: OnceLock<Archive>,
    /// Held by whoever opens the archive beside something else, since many may ask at once; and what was begun of it.
    opening: tokio::sync::Mutex<Option<Opening>>,
    pins: Pins,
    /// Whose gateways refused what we showed, by lower-case prefix.
    refused: Mutex<HashSet<String>>,
    tls: TlsMemory,
    /// The connections that are kept from one operation to the next, if any are.
    pool: Option<Pool>,
}

impl Mesh {
    /// A mesh with these settings. Reads nothing yet.
    #[must_use]
    pub fn new(config: MeshConfig) -> Self {
        let pins = Pins::new(config.state_dir.join("pins.json"));
        Self {
            config,
            pins,
            registry: OnceLock::new(),
            identity: OnceLock::new(),
            device: OnceLock::new(),
            tokens: OnceLock::new(),
            device_tokens: OnceLock::new(),
            issued: Arc::default(),
            archive: OnceLock::new(),
            opening: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
            tls: TlsMemory::default(),
            pool: None,
        }
    }

    /// The same, keeping connections for the next message. For what runs on between messages; it ends with
    /// [`Mesh::close_connections`].
    #[must_use]
    pub fn keeping_connections(self) -> Self {
        Self { pool: Some(Pool::lasting()), ..self }
    }

    /// Says goodbye on every connection that was kept.
    pub async fn close_connections(&self) {
        if let Some(pool) = &self.pool {
            pool.close().await;
        }
    }

    /// The same team, its files read anew; the archive stays open, and so do connections that are kept. For what runs
    /// long enough to see them change.
    #[must_use]
    pub fn reread(&self) -> Self {
        let (tls, pool) = (self.tls.clone(), self.pool.clone());
        let fresh = Self { tls, pool, ..Self::new(self.config.clone()) };
        match self.archive.get() {
            Some(archive) => Self { archive: OnceLock::from(archive.clone()), ..fresh },
            None => fresh,
        }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// The team.
    ///
    /// # Errors
    /// When the file is missing or malformed.
    pub fn registry(&self) -> Result<&Registry, MeshError> {
        once(&self.registry, || {
            let mut registry = Registry::load(&self.config.registry)?;
            // Where our own address is, our team's are, too; without one, nobody said what the configured domain is good
            // for. Whoever needs to know who we are hears what is wrong with it.
            if let Ok(Some(me)) = self.identity()
                && let Some((_, domain)) = me.email.split_once('@')
            {
                registry.email_domains = vec![self.config.identity.domain.clone(), domain.to_owned()];
            }
            Ok(registry)
        })
    }

    /// The teammate whom a name means. One whom we asked by an invite is not in the registry before he lets us in.
    ///
    /// # Errors
    /// When the file is missing or malformed, or the name fits nobody or several.
    pub fn teammate(&self, name: &str) -> Result<&Agent, MeshError> {
        let found = self.registry().and_then(|registry| Ok(registry.find(name)?));
        let is_missing = matches!(
            found,
            Err(MeshError::Registry(RegistryError::Missing { .. })
                | MeshError::Lookup(LookupError::Unknown { .. }))
        );
        match is_missing.then(|| self.asked().called(name)).flatten() {
            Some((to, request)) => Err(MeshError::Asked { to, at: request.at }),
            None => found,
        }
    }

    /// Who we are, if any source says.
    ///
    /// # Errors
    /// When a source is there and cannot be used.
    pub fn identity(&self) -> Result<Option<&Identity>, MeshError> {
        Ok(once(&self.identity, || Ok(identity::resolve(&self.config.identity)?))?.as_ref())
    }

    /// Who we are.
    ///
    /// # Errors
    /// When no source says, or one cannot be used.
    pub fn require_identity(&self) -> Result<&Identity, MeshError> {
        self.identity()?
            .ok_or_else(|| MeshError::IdentityUnknown { searched: identity::searched(&self.config.identity) })
    }

    /// Our device key, made on first use.
    ///
    /// # Errors
    /// When the file cannot be used or made.
    pub fn device(&self) -> Result<&DeviceKey, MeshError> {
        once(&self.device, || Ok(DeviceKey::load_or_create(&self.device_key_path())?))
    }

    /// The file of our device key.
    #[must_use]
    pub fn device_key_path(&self) -> PathBuf {
        self.config.state_dir.join("device.pem")
    }

    /// Our device id, if there is a key already.
    ///
    /// # Errors
    /// When the file is there and cannot be used.
    pub fn device_id(&self) -> Result<Option<String>, MeshError> {
        let key = match self.device.get() {
            Some(key) => Some(key),
            // None is made just to find out whether there is one.
            None => DeviceKey::load(&self.device_key_path())?.map(|key| self.device.get_or_init(|| key)),
        };
        Ok(key.map(|key| key.id().to_owned()))
    }

    /// The name we go by: our e-mail prefix, or `dev-` and the first twelve hex digits of our device id.
    ///
    /// # Errors
    /// When identity or device key cannot be used.
    pub fn my_name(&self) -> Result<String, MeshError> {
        if let Some(identity) = self.identity()? {
            return Ok(identity.email_prefix.clone());
        }
        Ok(short_name(self.device()?.id()))
    }

    /// Our name in a gateway's lists: what the owner reads before approving us. Unique, because gateways merge
    /// records of one name, and constant.
    pub(crate) fn display_name(&self) -> Result<String, MeshError> {
        let id = self.device()?.id();
        Ok(format!("agent-mesh:{} ({})", self.my_name()?, id.get(..8).unwrap_or(id)))
    }

    /// Our name where we show no device; makes no key.
    pub(crate) fn bare_name(&self) -> Result<String, MeshError> {
        let me = self.identity()?.map_or("somebody", |identity| identity.email_prefix.as_str());
        Ok(format!("agent-mesh:{me}"))
    }

    /// Whether an entry of the registry is ourselves.
    #[must_use]
    pub fn is_me(&self, agent: &Agent) -> bool {
        let me = self.identity().ok().flatten();
        me.is_some_and(|me| me.email_prefix.eq_ignore_ascii_case(&agent.email_prefix))
    }

    /// The shared token we hold for a peer.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn shared_token(&self, email_prefix: &str) -> Result<Option<&Secret>, MeshError> {
        let tokens = once(&self.tokens, || Ok(self.token_store().all()?))?;
        Ok(tokens.get(&email_prefix.to_lowercase()))
    }

    /// The bearer token for a peer's A2A endpoint: the one kept as `a2a:bob`; and Bob's other one only where he has no
    /// gateway that it could be for.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn a2a_token(&self, email_prefix: &str) -> Result<Option<&Secret>, MeshError> {
        if let Some(token) = self.shared_token(&a2a_token_key(email_prefix))? {
            return Ok(Some(token));
        }
        let agent = self.registry()?.by_prefix(email_prefix);
        if agent.is_some_and(|agent| agent.address().is_ok()) {
            return Ok(None);
        }
        self.shared_token(email_prefix)
    }

    /// The device token a peer's gateway gave us, if it is for the device key we have now.
    ///
    /// # Errors
    /// When the file, or the device key, cannot be used.
    pub fn device_token(&self, email_prefix: &str) -> Result<Option<&DeviceToken>, MeshError> {
        Ok(self.device_tokens()?.ours.get(&email_prefix.to_lowercase()))
    }

    /// Whether a peer's gateway gave a token to a device of ours, be it the one we have now or another.
    pub(crate) fn has_issued(&self, email_prefix: &str) -> Result<bool, MeshError> {
        Ok(self.device_tokens()?.issuers.contains(&email_prefix.to_lowercase()))
    }

    fn device_tokens(&self) -> Result<&DeviceTokens, MeshError> {
        once(&self.device_tokens, || Ok(self.device_token_store().all(self.device_id()?.as_deref())?))
    }

    /// Keeps the token that a peer's gateway issued to our device.
    pub(crate) fn keep_device_token(&self, email_prefix: &str, token: DeviceToken) -> Result<(), MeshError> {
        if self.issued.add((email_prefix.to_owned(), token)) {
            self.issued.write(|issued| self.device_token_store().set_all(issued))?;
        }
        Ok(())
    }

    /// Lets what many gateways say of themselves, and the tokens they issue, gather for a while before they are written:
    /// see [`MeetingMany`].
    pub(crate) fn meeting_many(&self) -> MeetingMany<'_> {
        self.pins.meeting_many();
        self.issued.begin();
        MeetingMany { mesh: self }
    }

    /// Whether a peer's gateway refused our credential before, in this run.
    pub(crate) fn was_refused(&self, email_prefix: &str) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&email_prefix.to_lowercase())
    }

    /// Remembers that a peer's gateway refused our credential.
    pub(crate) fn note_refused(&self, email_prefix: &str) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(email_prefix.to_lowercase());
    }

    /// The connections for an operation: those that are kept, or some of its own.
    pub(crate) fn pool(&self) -> Pool {
        self.pool.clone().unwrap_or_default()
    }

    /// What TLS connections leave to the next ones.
    pub(crate) fn tls(&self) -> &TlsMemory {
        &self.tls
    }

    /// Every message and what became of it.
    ///
    /// # Errors
    /// When the file cannot be used or made.
    pub fn archive(&self) -> Result<&Archive, MeshError> {
        once(&self.archive, || Ok(Archive::open(&self.archive_path())?))
    }

    /// Begins to open the archive, if there is one, for who will need it in a moment. Should that fail, he is told then.
    pub fn open_archive_ahead(&self) {
        let path = self.archive_path();
        if let Ok(mut opening) = self.opening.try_lock()
            && self.archive.get().is_none()
            && path.exists()
        {
            *opening = Archive::begin_opening(&path).ok();
        }
    }

    /// The same as [`Mesh::archive`], opened while something else goes on.
    pub(crate) async fn opened_archive(&self) -> Result<&Archive, MeshError> {
        if let Some(archive) = self.archive.get() {
            return Ok(archive);
        }
        let mut opening = self.opening.lock().await;
        if let Some(archive) = self.archive.get() {
            return Ok(archive);
        }
        // Whoever stops waiting leaves it to the next one.
        let opened = match &mut *opening {
            Some(begun) => begun.done().await,
            none => none.insert(Archive::begin_opening(&self.archive_path())?).done().await,
        };
        *opening = None;
        let archive = opened?;
        Ok(self.archive.get_or_init(|| archive))
    }

    /// Waits until all that was written so far is kept, as far as the archive is open.
    pub async fn settle_archive(&self) {
        if let Some(archive) = self.archive.get()
            && let Err(error) = archive.settle().await
        {
            tracing::debug!(%error, "what was written last may not be kept");
        }
    }

    /// The file of the archive.
    #[must_use]
    pub fn archive_path(&self) -> PathBuf {
        self.config.state_dir.join("archive.db")
    }

    /// What we know teammates' gateways by.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The folder of what is remembered between syncs.
    #[must_use]
    pub(crate) fn sync_folder(&self) -> PathBuf {
        self.config.state_dir.join("sync")
    }

    /// The file of shared tokens.
    #[must_use]
    pub fn token_store(&self) -> TokenStore {
        TokenStore::new(&self.config.tokens)
    }

    /// The file of invites that we sent.
    pub(crate) fn sent_invites(&self) -> SentInvites {
        SentInvites::new(self.config.state_dir.join("invites.json"))
    }

    /// The file of those whom we asked by an invite.
    pub(crate) fn asked(&self) -> Asked {
        Asked::new(self.config.state_dir.join("asked.json"))
    }

    /// The file of the pairing requests that we filed.
    pub(crate) fn filed(&self) -> Filed {
        Filed::new(self.config.state_dir.join("filed.json"))
    }

    /// The file of device tokens.
    #[must_use]
    pub fn device_token_store(&self) -> DeviceTokenStore {
        DeviceTokenStore::new(self.config.state_dir.join("device-tokens.json"))
    }
}

/// Many gateways are met at once: their files are written every few seconds and when this ends, and not for each of
/// them. Who is killed in between meets them again for the first time.
pub(crate) struct MeetingMany<'a> {
    mesh: &'a Mesh,
}

impl MeetingMany<'_> {
    /// Writes down who was met, and what they issued.
    pub(crate) async fn keep(self) -> Result<(), MeshError> {
        self.mesh.pins.write().await?;
        let (issued, store) = (Arc::clone(&self.mesh.issued), self.mesh.device_token_store());
        let written = tokio::task::spawn_blocking(move || issued.write(|issued| store.set_all(issued)));
        match written.await {
            Ok(result) => Ok(result?),
            Err(gone) => std::panic::resume_unwind(gone.into_panic()),
        }
    }
}

impl Drop for MeetingMany<'_> {
    fn drop(&mut self) {
        self.mesh.pins.met_many();
        self.mesh.issued.end();
        // Nothing waits here unless the operation was broken off.
        let pins = self.mesh.pins.write_now().map_err(MeshError::from);
        let store = self.mesh.device_token_store();
        let issued = self.mesh.issued.write(|issued| store.set_all(issued)).map_err(MeshError::from);
        if let Err(error) = pins.and(issued) {
            tracing::warn!(%error, "gateways that were met are not remembered");
        }
    }
}

/// Where the tokens file keeps the bearer token for somebody's A2A endpoint.
#[must_use]
pub fn a2a_token_key(email_prefix: &str) -> String {
    format!("a2a:{email_prefix}")
}

/// Fills a cell once. Two threads that fill it at once do the work twice and agree.
fn once<T>(cell: &OnceLock<T>, fill: impl FnOnce() -> Result<T, MeshError>) -> Result<&T, MeshError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = fill()?;
    Ok(cell.get_or_init(|| value))
}
