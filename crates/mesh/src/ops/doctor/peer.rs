//! One peer, from its address to its readiness.

use std::sync::Arc;
use std::time::Duration;

use openclaw_client::CallError;
use openclaw_client::protocol::Fault;
use tokio::time::Instant;

use super::clock::Reading;
use super::remedy::Remedies;
use super::{Check, Finding, Fix, chain};
use crate::crowd::Turn;
use crate::denial::policy_of_peer;
use crate::error::{MeshError, with_cause};
use crate::mesh::Mesh;
use crate::ops::probe::{Probe, StepReport, probe};
use crate::peer::Peer;
use crate::pins::Mark;
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
pub(super) async fn examine(mesh: &Mesh, agent: &Agent, timeout: Duration, turn: Arc<Turn>) -> Examined {
    let to = To::from(agent);
    let looked = async {
        let peer = Peer::new(mesh, agent)?.in_turn(turn);
        probe(mesh, &peer, Instant::now() + timeout).await
    };
    match looked.await {
        Ok(probe) => {
            let clock = probe.ahead_ms.map(|ahead_ms| Reading { to: to.clone(), ahead_ms });
            let remedies = Remedies::new(mesh, agent, &to);
            let checks = checks(&to, &probe, &remedies);
            Examined { to, checks, clock }
        }
        Err(error) => {
            let finding = match &error {
                // Teammates are listed before their agents are up.
                MeshError::NoAddress { .. } => {
                    Finding::warn(chain(&error), Some(Fix::edit(&mesh.config().registry)))
                }
                _ => Finding::fail(chain(&error), Remedies::new(mesh, agent, &to).against(&error)),
            };
            let checks = vec![finding.about(&to, "address", 0.0)];
            Examined { to, checks, clock: None }
        }
    }
}

/// resolve, tcp, tls, websocket, challenge, auth, pairing, scope, identity, ready.
fn checks(to: &To, probe: &Probe, remedies: &Remedies<'_>) -> Vec<Check> {
    let mut checks = Vec::with_capacity(10);
    for report in &probe.steps {
        match (report.step, &probe.error) {
            ("auth", Some(error)) if error.refusal().is_some_and(|fault| is_pairing(&fault)) => {
                checks.push(Finding::ok("the credential is right").about(to, "auth", report.ms));
                checks
                    .push(Finding::fail(&*report.detail, remedies.against(error)).about(to, "pairing", 0.0));
            }
            ("scope", error) => {
                checks.push(pairing(report.ok, remedies).about(to, "pairing", 0.0));
                checks.push(step(to, report, error.as_ref(), remedies));
            }
            (_, error) => checks.push(step(to, report, error.as_ref(), remedies)),
        }
    }
    checks.extend(identity(probe, remedies).map(|finding| finding.about(to, "identity", 0.0)));
    if probe.error.is_none() {
        checks.extend(probe.health.as_ref().map(|health| ready(to, health, remedies)));
    }
    checks
}

fn step(to: &To, report: &StepReport, error: Option<&MeshError>, remedies: &Remedies<'_>) -> Check {
    let name = if report.step == "ws" { "websocket" } else { report.step };
    let finding = match report.ok {
        true => Finding::ok(&*report.detail),
        false => Finding::fail(told(to, report, error), error.and_then(|error| remedies.against(error))),
    };
    finding.about(to, name, report.ms)
}

/// What went wrong; of a policy, which rule it is.
fn told(to: &To, report: &StepReport, error: Option<&MeshError>) -> String {
    let Some(Fault::PolicyDenied { rule, limit, retry_after_ms }) = error.and_then(MeshError::refusal) else {
        return report.detail.clone();
    };
    format!("{}: {}", report.detail, policy_of_peer(to, rule.as_deref(), limit, retry_after_ms))
}

fn pairing(has_scope: bool, remedies: &Remedies<'_>) -> Finding {
    match (remedies.has_device_token(), has_scope) {
        (true, _) => Finding::ok("its gateway gave our device a token"),
        (false, true) => Finding::ok("not needed: the shared token alone gives the rights"),
        (false, false) => {
            let asked = remedies.filed().map(|filed| format!("; request {} was filed", filed.request_id));
            let detail = "not paired, and the shared token alone gives no rights";
            Finding::fail(format!("{detail}{}", asked.unwrap_or_default()), Some(remedies.pair()))
        }
    }
}

/// Which gateway it is, once it let us in.
fn identity(probe: &Probe, remedies: &Remedies<'_>) -> Option<Finding> {
    match (&probe.recognized, &probe.error) {
        (_, Some(error @ MeshError::IdentityChanged { mark: Mark::Identity, .. })) => {
            Some(Finding::fail(error.to_string(), remedies.against(error)))
        }
        (Some(Recognition::Known(id)), _) => Some(Finding::ok(format!("the gateway we know, {id}"))),
        (Some(Recognition::New(id)), _) => {
            Some(Finding::ok(format!("not met before; the next message keeps {id}")))
        }
        (Some(Recognition::Nameless), _) => Some(Finding::ok("this gateway has none")),
        (None, _) => None,
    }
}

fn ready(to: &To, health: &Result<f64, CallError>, remedies: &Remedies<'_>) -> Check {
    match health {
        Ok(ms) => Finding::ok("it answers calls").about(to, "ready", *ms),
        Err(error) => Finding::fail(with_cause(error), Some(remedies.start())).about(to, "ready", 0.0),
    }
}

fn is_pairing(fault: &Fault) -> bool {
    matches!(fault, Fault::PairingRequired { .. } | Fault::DeviceIdentityRequired)
}
