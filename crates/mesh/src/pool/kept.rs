//! A connection that is kept, what it was made on, and until when it is good for another message.
//!
//! Whether the gateway is the one we know was asked when the connection was made. That is enough: it is asked once of each
//! process of it, and no connection outlives the process.

use std::sync::{Mutex, PoisonError, Weak};

use jiff::Timestamp;
use openclaw_client::{Client, Credential, Endpoint, Fingerprint, Secret};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, sleep_until};

use super::{IDLE, Places};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::route::gateway;

/// A connection that others may use.
pub(super) struct Kept {
    pub number: u64,
    pub client: Client,
    terms: Terms,
    /// The identity and the device token that first contact brought: who knows or shows them comes on the same terms.
    met: Option<String>,
    granted: Option<Secret>,
    pub users: usize,
    /// When its last message was done, by a clock that stands still while the machine sleeps, and by one that does not.
    pub rested: (Instant, Timestamp),
    keeper: AbortHandle,
}

/// What a connection is made on. Any difference makes it another one.
pub(super) struct Terms {
    pub prefix: String,
    endpoint: Endpoint,
    alternatives: Vec<Endpoint>,
    private_only: bool,
    pin: Option<Fingerprint>,
    /// What we know the gateway by.
    identity: Option<String>,
    device: String,
    name: String,
    pub credential: Credential,
}

impl Terms {
    pub fn of(mesh: &Mesh, peer: &Peer) -> Result<Self, MeshError> {
        Ok(Self {
            prefix: peer.to.email_prefix.to_lowercase(),
            endpoint: peer.endpoint.clone(),
            alternatives: peer.dial.alternatives.clone(),
            private_only: peer.dial.private_only,
            pin: peer.dial.pin,
            identity: known_identity(mesh, peer)?,
            credential: gateway::credential_to_talk(mesh, peer)?,
            device: mesh.device()?.id().to_owned(),
            name: mesh.display_name()?,
        })
    }

    /// All of it but identity and credential, which first contact changes.
    fn lasting(&self) -> impl PartialEq + '_ {
        let Self {
            prefix,
            endpoint,
            alternatives,
            private_only,
            pin,
            device,
            name,
            identity: _,
            credential: _,
        } = self;
        (prefix, endpoint, alternatives, private_only, pin, device, name)
    }
}

/// The identity that we know a teammate's gateway by.
pub(super) fn known_identity(mesh: &Mesh, peer: &Peer) -> Result<Option<String>, MeshError> {
    Ok(mesh.pins().get(&peer.to.email_prefix)?.identity.map(|identity| identity.device_id))
}

impl Kept {
    /// A new connection, in use. `met` is the identity that we know it by now.
    pub fn new(number: u64, client: Client, terms: Terms, met: Option<String>, keeper: AbortHandle) -> Self {
        let granted = client.hello().auth.as_ref().and_then(|auth| auth.device_token.clone());
        Self {
            number,
            client,
            terms,
            met,
            granted: granted.map(Secret::new),
            users: 1,
            rested: (Instant::now(), Timestamp::now()),
            keeper,
        }
    }

    /// Its last message is done.
    pub fn rests(&mut self) {
        self.rested = (Instant::now(), Timestamp::now());
    }

    /// Whether a message on these terms may go over it.
    pub fn serves(&self, terms: &Terms) -> bool {
        let Terms { identity, credential, .. } = terms;
        let granted = |token: &Secret| self.granted.as_ref() == Some(token);
        self.terms.lasting() == terms.lasting()
            && (*identity == self.terms.identity || *identity == self.met)
            && (*credential == self.terms.credential
                || matches!(credential, Credential::Device(token) if granted(token)))
            && self.is_well()
    }

    /// Whether the gateway is there, as far as can be known without asking it. Its ticks come on time; one that is half an
    /// interval late is not waited for, while the connection itself is given up after two.
    fn is_well(&self) -> bool {
        let tick = Duration::from_millis(self.client.hello().policy.tick_interval_ms);
        let slept = Timestamp::now().duration_since(self.rested.1).unsigned_abs();
        let fresh = self.users > 0 || slept.max(self.rested.0.elapsed()) < IDLE;
        fresh && !self.client.has_ended() && self.client.silence() <= tick.saturating_mul(3) / 2
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Watches over one connection until it rested for too long.
pub(super) async fn rest(places: Weak<Mutex<Places>>, prefix: String, number: u64) {
    let mut wake = Instant::now() + IDLE;
    loop {
        sleep_until(wake).await;
        let Some(places) = places.upgrade() else { return };
        match places.lock().unwrap_or_else(PoisonError::into_inner).expire(&prefix, number) {
            Some(next) => wake = next,
            None => return,
        }
    }
}
