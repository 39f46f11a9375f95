//! How far we get with one teammate's gateway, step by step.

use openclaw_client::Step;
use serde::Serialize;
use tokio::time::{Duration, Instant};

pub use super::probe::StepReport;
use super::probe::{Probe, probe};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pins::Mark;
use crate::record::To;
use crate::registry::Agent;
use crate::route::recognize::Recognition;

/// What `ping` found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinged {
    /// Whom.
    pub to: To,
    /// Where.
    pub address: String,
    /// The steps: resolve, tcp, tls, ws, challenge, auth, scope. The first that fails is the last.
    pub steps: Vec<StepReport>,
    /// Which gateway it is, if it let us in and says so.
    pub identity: Option<Identity>,
    /// Milliseconds of one round trip: of a `health` call if we were let in, else of the TCP connect.
    pub rtt_ms: Option<f64>,
    /// Whether a gateway answered at all.
    #[serde(skip)]
    pub answered: bool,
    /// What stopped us.
    #[serde(skip)]
    pub error: Option<MeshError>,
}

/// The gateway's own name for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The SHA-256 of its public key, 64 hex digits.
    pub device_id: String,
    /// Whether it is the one we know.
    pub status: IdentityStatus,
}

/// How a gateway's identity compares with the one we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityStatus {
    /// The same.
    Known,
    /// We know none yet.
    New,
    /// Another one.
    Changed,
}

impl IdentityStatus {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "new",
            Self::Changed => "changed",
        }
    }
}

/// Pings a teammate's gateway. Without a device token it connects without a device, so it never files a pairing
/// request; a credential that was refused is not shown again with the same [`Mesh`].
///
/// # Errors
/// When there is nothing to call, or a file of ours cannot be used. What the peer does stands in the report.
pub async fn ping(mesh: &Mesh, agent: &Agent, timeout: Duration) -> Result<Pinged, MeshError> {
    let peer = Peer::new(mesh, agent)?;
    let probe = probe(mesh, &peer, Instant::now() + timeout).await?;
    let passed = |step: Step| probe.steps.iter().find(|report| report.ok && report.step == step.name());
    let health = probe.health.as_ref().and_then(|health| health.as_ref().ok().copied());
    Ok(Pinged {
        to: peer.to.clone(),
        address: peer.endpoint.to_string(),
        identity: identity(&probe),
        rtt_ms: health.or(passed(Step::Tcp).map(|report| report.ms)),
        answered: passed(Step::Challenge).is_some(),
        steps: probe.steps,
        error: probe.error,
    })
}

fn identity(probe: &Probe) -> Option<Identity> {
    let is = |device_id: &String, status| Some(Identity { device_id: device_id.clone(), status });
    match (&probe.recognized, &probe.error) {
        (Some(Recognition::Known(id)), _) => is(id, IdentityStatus::Known),
        (Some(Recognition::New(id)), _) => is(id, IdentityStatus::New),
        (_, Some(MeshError::IdentityChanged { mark: Mark::Identity, new, .. })) => {
            is(new, IdentityStatus::Changed)
        }
        _ => None,
    }
}
