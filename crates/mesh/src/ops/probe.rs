//! One look at a teammate's gateway, step by step: what `ping` and `doctor` report on.
//!
//! Without a device token it connects without a device, so it never files a pairing request; a credential that was
//! refused is not shown again in this run.

use openclaw_client::protocol::methods::SCOPE_WRITE;
use openclaw_client::protocol::methods::info::Health;
use openclaw_client::{Access, CallError, Client, Credential, Step, Trace};
use serde::Serialize;
use tokio::time::Instant;

use super::list::millis;
use crate::error::{MeshError, with_cause};
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pins::Mark;
use crate::route::gateway;
use crate::route::recognize::{self, Recognition};

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// Its name.
    pub step: &'static str,
    /// Whether it was passed.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// What was found, or what went wrong.
    pub detail: String,
}

/// What the look found.
#[derive(Debug)]
pub(crate) struct Probe {
    /// resolve, tcp, tls, ws, challenge, auth, scope. The first that fails is the last.
    pub steps: Vec<StepReport>,
    /// By how many milliseconds our clock is ahead of the gateway's, if it sent a challenge.
    pub ahead_ms: Option<i64>,
    /// Milliseconds of a `health` call, if we were let in.
    pub health: Option<Result<f64, CallError>>,
    /// Which gateway it is, if we were let in and may ask.
    pub recognized: Option<Recognition>,
    /// What stopped us.
    pub error: Option<MeshError>,
}

/// Looks how far we get.
///
/// # Errors
/// When a file of ours cannot be used.
pub(crate) async fn probe(mesh: &Mesh, peer: &Peer, deadline: Instant) -> Result<Probe, MeshError> {
    let credential = gateway::credential(mesh, peer);
    let mut trace = Trace::default();
    let mut probe = Probe { steps: Vec::new(), ahead_ms: None, health: None, recognized: None, error: None };
    let start = Instant::now();
    let connected = connect(mesh, peer, credential, deadline, &mut trace, &mut probe.ahead_ms).await;
    probe.steps = passed(&trace, peer);
    match connected {
        Ok(client) => {
            let start = Instant::now();
            let health = client.call(&Health {}, deadline).await;
            probe.health = Some(health.map(|_| millis(start.elapsed())));
            probe.steps.push(scope_step(&client, peer, &mut probe.error));
            match recognize::look(mesh, peer, &client, deadline).await {
                Ok(recognized) => probe.recognized = recognized,
                Err(error) => probe.error = Some(error),
            }
            client.close().await;
        }
        Err(error) => {
            let spent = trace.steps.iter().map(|done| done.took).sum();
            let took = millis(start.elapsed().saturating_sub(spent));
            probe.steps.push(failed_step(&error, took));
            if error.refusal().is_some_and(|fault| fault.is_auth()) {
                mesh.note_refused(&peer.to.email_prefix);
            }
            probe.error = Some(error);
        }
    }
    Ok(probe)
}

async fn connect(
    mesh: &Mesh,
    peer: &Peer,
    credential: Result<Credential, MeshError>,
    deadline: Instant,
    trace: &mut Trace,
    ahead_ms: &mut Option<i64>,
) -> Result<Client, MeshError> {
    let challenged = gateway::challenge(mesh, peer, deadline, trace).await.map_err(|e| peer.failed(e))?;
    *ahead_ms = Some(challenged.ahead_ms());
    let credential = credential?;
    let device = match credential {
        Credential::None => return Err(gateway::no_credential(mesh, peer)),
        _ if mesh.was_refused(&peer.to.email_prefix) => {
            return Err(MeshError::RefusedBefore { to: peer.to.clone() });
        }
        Credential::Device(_) => Some(mesh.device()?),
        _ => None,
    };
    let name = if device.is_some() { mesh.display_name()? } else { mesh.bare_name()? };
    let access = Access::peer(credential, name);
    let signer = device.map(|key| key as _);
    challenged.authenticate(access, signer, deadline, trace).await.map_err(|e| peer.failed(e))
}

fn passed(trace: &Trace, peer: &Peer) -> Vec<StepReport> {
    let mut steps = Vec::with_capacity(7);
    for done in &trace.steps {
        steps.push(StepReport {
            step: done.step.name(),
            ok: true,
            ms: millis(done.took),
            detail: done.detail.clone(),
        });
        if done.step == Step::Tcp && !peer.endpoint.is_tls() {
            steps.push(StepReport {
                step: Step::Tls.name(),
                ok: true,
                ms: 0.0,
                detail: "none: ws://".into(),
            });
        }
    }
    steps
}

fn failed_step(error: &MeshError, ms: f64) -> StepReport {
    let (step, detail) = match error {
        MeshError::Connect { source, .. } => (source.step(), with_cause(&**source)),
        MeshError::IdentityChanged { mark: Mark::Certificate, .. } => (Step::Tls, error.to_string()),
        other => (Step::Auth, other.to_string()),
    };
    StepReport { step: step.name(), ok: false, ms, detail }
}

fn scope_step(client: &Client, peer: &Peer, error: &mut Option<MeshError>) -> StepReport {
    let granted = client.hello().auth.as_ref();
    let ok = granted.is_none_or(|granted| granted.allows(SCOPE_WRITE));
    let detail = match granted {
        None => "this gateway does not say".to_owned(),
        Some(granted) if granted.scopes.is_empty() => "no scopes".to_owned(),
        Some(granted) => granted.scopes.join(", "),
    };
    if !ok {
        *error = Some(MeshError::Scope { to: peer.to.clone(), missing: SCOPE_WRITE.to_owned() });
    }
    StepReport { step: "scope", ok, ms: 0.0, detail }
}
