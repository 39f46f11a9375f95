//! One peer, from its address to its readiness.

use std::path::Path;
use std::time::Duration;

use openclaw_client::protocol::Fault;
use openclaw_client::{CallError, ConnectError};
use tokio::time::Instant;

use super::clock::Reading;
use super::{Check, Finding, Fix, chain};
use crate::error::{MeshError, with_cause};
use crate::mesh::Mesh;
use crate::ops::probe::{Probe, StepReport, probe};
use crate::peer::Peer;
use crate::pins::Mark;
use crate::private_file::shell_word;
use crate::record::To;
use crate::registry::Agent;
use crate::route::recognize::Recognition;

/// What was found out about one peer.
pub(super) struct Examined {
    pub to: To,
    pub checks: Vec<Check>,
    pub clock: Option<Reading>,
}

/// Looks how far we get with one peer. The first check that fails is the last.
pub(super) async fn examine(mesh: &Mesh, agent: &Agent, timeout: Duration) -> Examined {
    let to = To::from(agent);
    let looked = async {
        let peer = Peer::new(mesh, agent)?;
        probe(mesh, &peer, Instant::now() + timeout).await
    };
    match looked.await {
        Ok(probe) => {
            let clock = probe.ahead_ms.map(|ahead_ms| Reading { to: to.clone(), ahead_ms });
            let has_device_token = mesh.device_token(&to.email_prefix).ok().flatten().is_some();
            let checks = checks(&to, &probe, has_device_token);
            Examined { to, checks, clock }
        }
        Err(error) => {
            let finding = match &error {
                // Teammates are listed before their agents are up.
                MeshError::NoAddress { .. } => Finding::warn(chain(&error), None),
                _ => Finding::fail(chain(&error), None),
            };
            let checks = vec![finding.about(&to, "address", 0.0)];
            Examined { to, checks, clock: None }
        }
    }
}

/// resolve, tcp, tls, websocket, challenge, auth, pairing, scope, identity, ready.
fn checks(to: &To, probe: &Probe, has_device_token: bool) -> Vec<Check> {
    let mut checks = Vec::with_capacity(10);
    for report in &probe.steps {
        match (report.step, &probe.error) {
            ("auth", Some(error)) if error.refusal().is_some_and(|fault| is_pairing(&fault)) => {
                checks.push(Finding::ok("the credential is right").about(to, "auth", report.ms));
                checks.push(Finding::fail(&*report.detail, fix(to, error)).about(to, "pairing", 0.0));
            }
            ("scope", error) => {
                checks.push(pairing(to, report.ok, has_device_token).about(to, "pairing", 0.0));
                checks.push(step(to, report, error.as_ref()));
            }
            (_, error) => checks.push(step(to, report, error.as_ref())),
        }
    }
    checks.extend(identity(probe).map(|finding| finding.about(to, "identity", 0.0)));
    if probe.error.is_none() {
        checks.extend(probe.health.as_ref().map(|health| ready(to, health)));
    }
    checks
}

fn step(to: &To, report: &StepReport, error: Option<&MeshError>) -> Check {
    let name = if report.step == "ws" { "websocket" } else { report.step };
    let finding = match report.ok {
        true => Finding::ok(&*report.detail),
        false => Finding::fail(&*report.detail, error.and_then(|error| fix(to, error))),
    };
    finding.about(to, name, report.ms)
}

fn pairing(to: &To, has_scope: bool, has_device_token: bool) -> Finding {
    match (has_device_token, has_scope) {
        (true, _) => Finding::ok("its gateway gave our device a token"),
        (false, true) => Finding::ok("not needed: the shared token alone gives the rights"),
        (false, false) => Finding::fail("not paired, and the shared token alone gives no rights", pair(to)),
    }
}

/// Which gateway it is, once it let us in.
fn identity(probe: &Probe) -> Option<Finding> {
    match (&probe.recognized, &probe.error) {
        (_, Some(error @ MeshError::IdentityChanged { to, mark: Mark::Identity, .. })) => {
            Some(Finding::fail(error.to_string(), fix(to, error)))
        }
        (Some(Recognition::Known(id)), _) => Some(Finding::ok(format!("the gateway we know, {id}"))),
        (Some(Recognition::New(id)), _) => {
            Some(Finding::ok(format!("not met before; the next message keeps {id}")))
        }
        (Some(Recognition::Nameless), _) => Some(Finding::ok("this gateway has none")),
        (None, _) => None,
    }
}

fn ready(to: &To, health: &Result<f64, CallError>) -> Check {
    match health {
        Ok(ms) => Finding::ok("it answers calls").about(to, "ready", *ms),
        Err(error) => Finding::fail(with_cause(error), Fix::theirs(GATEWAY_STATUS)).about(to, "ready", 0.0),
    }
}

const GATEWAY_STATUS: &str = "openclaw gateway status";
/// Prints what a `tlsFingerprint` in the registry has to be.
const SHOW_FINGERPRINT: &str =
    "openssl x509 -in ~/.openclaw/gateway/tls/gateway-cert.pem -noout -fingerprint -sha256";

/// The command that helps, if there is one.
fn fix(to: &To, error: &MeshError) -> Option<Fix> {
    let set_token = || Fix::ours(format!("agent-mesh token set {} < FILE", word(to)));
    match error {
        MeshError::NoCredential { .. } | MeshError::RefusedBefore { .. } => set_token(),
        MeshError::Scope { .. } => pair(to),
        MeshError::IdentityChanged { mark: Mark::Certificate, .. } => Fix::theirs(SHOW_FINGERPRINT),
        MeshError::IdentityChanged { .. } => Fix::ours(format!("agent-mesh trust reset {}", word(to))),
        MeshError::Connect { source, .. } => match &**source {
            ConnectError::Refused(shape) => match shape.fault() {
                Fault::TokenMismatch | Fault::TokenMissing => set_token(),
                Fault::PairingRequired { request_id: Some(id), .. } => {
                    Fix::theirs(format!("openclaw devices approve {}", shell_word(Path::new(&id))))
                }
                fault if fault.is_auth() && !matches!(fault, Fault::RateLimited { .. }) => pair(to),
                _ => None,
            },
            ConnectError::Untrusted { .. } => Fix::theirs(SHOW_FINGERPRINT),
            ConnectError::Resolve { .. } | ConnectError::PublicAddress { .. } => None,
            _ => Fix::theirs(GATEWAY_STATUS),
        },
        _ => None,
    }
}

fn pair(to: &To) -> Option<Fix> {
    Fix::ours(format!("agent-mesh pair --to {}", word(to)))
}

fn word(to: &To) -> String {
    shell_word(Path::new(&to.email_prefix))
}

fn is_pairing(fault: &Fault) -> bool {
    matches!(fault, Fault::PairingRequired { .. } | Fault::DeviceIdentityRequired)
}
