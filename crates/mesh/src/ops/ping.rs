//! How far we get with one teammate's gateway, step by step.

use openclaw_client::Step;
use serde::Serialize;
use tokio::time::{Duration, Instant};

pub use super::probe::StepReport;
use super::probe::probe;
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::record::To;
use crate::registry::Agent;

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
    /// Milliseconds of one round trip: of a `health` call if we were let in, else of the TCP connect.
    pub rtt_ms: Option<f64>,
    /// Whether a gateway answered at all.
    #[serde(skip)]
    pub answered: bool,
    /// What stopped us.
    #[serde(skip)]
    pub error: Option<MeshError>,
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
        rtt_ms: health.or(passed(Step::Tcp).map(|report| report.ms)),
        answered: passed(Step::Challenge).is_some(),
        steps: probe.steps,
        error: probe.error,
    })
}
