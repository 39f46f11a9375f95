//! Which gateway is a teammate's: what we know it by, and how that is changed.

use jiff::Timestamp;
use openclaw_client::{ConnectError, DialOptions, Fingerprint, Link, Step, Trace};
use serde::Serialize;
use tokio::time::Instant;

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pins::{Pin, PinnedBy, PinnedCertificate, PinnedIdentity};
use crate::record::To;
use crate::registry::Agent;

/// What we know a teammate's gateway by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trusted {
    /// Whose.
    pub to: To,
    /// Its own name for itself, kept on first contact.
    pub identity: Option<PinnedIdentity>,
    /// The certificate that it must show.
    pub certificate: Option<Certificate>,
}

/// A pinned certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its SHA-256, 64 hex digits.
    pub fingerprint: String,
    /// Who pinned it. The registry wins.
    pub pinned_by: PinnedBy,
    /// When, if we did.
    pub since: Option<Timestamp>,
}

/// What we know of one teammate's gateway.
///
/// # Errors
/// When the file of pins cannot be used.
pub fn show(mesh: &Mesh, agent: &Agent) -> Result<Trusted, MeshError> {
    Ok(trusted(agent, mesh.pins().get(&agent.email_prefix)?))
}

/// Everybody whose gateway we know, in registry order; then those who have left the registry.
///
/// # Errors
/// When the file of pins, or the registry, cannot be used.
pub fn list(mesh: &Mesh) -> Result<Vec<Trusted>, MeshError> {
    let mut pins = mesh.pins().all()?;
    let mut rows: Vec<Trusted> = Vec::new();
    for agent in &mesh.registry()?.agents {
        let row = trusted(agent, pins.remove(&agent.email_prefix.to_lowercase()).unwrap_or_default());
        if row.identity.is_some() || row.certificate.is_some() {
            rows.push(row);
        }
    }
    let gone = pins.into_iter().filter(|(_, pin)| pin.identity.is_some() || pin.certificate.is_some());
    rows.extend(gone.map(|(prefix, pin)| trusted(&Agent::new(&prefix, &prefix), pin)));
    Ok(rows)
}

fn trusted(agent: &Agent, pin: Pin) -> Trusted {
    let ours = |pinned: PinnedCertificate| Certificate {
        fingerprint: pinned.fingerprint,
        pinned_by: PinnedBy::Us,
        since: Some(pinned.since),
    };
    let theirs = |pin: Fingerprint| Certificate {
        fingerprint: pin.to_string(),
        pinned_by: PinnedBy::Registry,
        since: None,
    };
    let registry = agent.tls_pin().ok().flatten().map(theirs);
    Trusted {
        to: To::from(agent),
        identity: pin.identity,
        certificate: registry.or(pin.certificate.map(ours)),
    }
}

/// Looks at the certificate of a teammate's gateway and pins it. Shows no credential.
///
/// With `expected`, only that one. One that is pinned already is never replaced by another.
///
/// # Errors
/// When the address has no TLS or no gateway, or shows another certificate than expected or known.
pub async fn add(
    mesh: &Mesh,
    agent: &Agent,
    expected: Option<Fingerprint>,
    deadline: Instant,
) -> Result<Trusted, MeshError> {
    let peer = Peer::new(mesh, agent)?;
    if !peer.endpoint.is_tls() {
        return Err(MeshError::NoCertificate { to: peer.to, endpoint: peer.endpoint.to_string() });
    }
    let pin = match expected.or(peer.dial.pin) {
        Some(pin) => pin,
        None => certificate(&peer, deadline).await?,
    };
    // The handshake with that pin shows that the gateway holds the certificate's key, and the challenge that it is one.
    for pin in [Some(pin), peer.dial.pin].into_iter().flatten() {
        let dial = DialOptions { pin: Some(pin), ..peer.dial.clone() };
        let mut trace = Trace::default();
        let answered = async {
            let link = Link::dial(&peer.endpoint, &dial, deadline, &mut trace).await?;
            link.challenge(deadline, &mut trace).await.map(drop)
        };
        answered.await.map_err(|error| peer.failed(error))?;
    }
    mesh.pins().set_certificate(&agent.email_prefix, pin)?;
    show(mesh, agent)
}

/// The certificate that is shown, whoever vouches for it.
async fn certificate(peer: &Peer, deadline: Instant) -> Result<Fingerprint, MeshError> {
    let mut trace = Trace::default();
    match Link::dial(&peer.endpoint, &peer.dial, deadline, &mut trace).await {
        Err(ConnectError::Untrusted { fingerprint: Some(shown), .. }) => Ok(shown),
        Err(error) => Err(peer.failed(error)),
        Ok(_) => {
            let shown = trace.steps.iter().find(|done| done.step == Step::Tls);
            let shown = shown.and_then(|done| done.detail.parse().ok());
            let no_certificate = || peer.failed(ConnectError::Tls(std::io::Error::other("no certificate")));
            shown.ok_or_else(no_certificate)
        }
    }
}

/// Forgets what we know of a teammate's gateway, so that the next contact is the first. Says what it was.
///
/// # Errors
/// When the file of pins cannot be used.
pub fn reset(mesh: &Mesh, email_prefix: &str) -> Result<Option<Pin>, MeshError> {
    Ok(mesh.pins().forget(email_prefix)?)
}
