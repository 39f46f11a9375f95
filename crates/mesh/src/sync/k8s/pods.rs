//! A pod as a teammate: who it is, its annotations and labels say.

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

use super::candidate::Candidate;
use crate::registry::Agent;
use crate::sync::{hostnames, uri::K8sUri};

/// What the container's port is called.
const PORT_NAME: &str = "gateway";

/// The pods that say whose they are. Others in the namespace are no agents.
pub(super) fn candidates(pods: &[Pod], uri: &K8sUri) -> Vec<Candidate> {
    pods.iter().filter_map(|pod| candidate(pod, uri)).collect()
}

fn candidate(pod: &Pod, uri: &K8sUri) -> Option<Candidate> {
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let host = pod.metadata.name.clone()?;
    let ending = pod.metadata.deletion_timestamp.is_some();
    Some(Candidate {
        agent: agent(pod, &host, uri)?,
        ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
        port: said(pod, "port")
            .and_then(|port| port.parse().ok())
            .or_else(|| declared_port(pod.spec.as_ref())),
        ready: !ending && is_ready(&status),
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        host,
    })
}

/// What `agent-mesh/<key>` says: an annotation, or a label where its narrow alphabet is enough.
fn said<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    let key = format!("agent-mesh/{key}");
    let maps = [&pod.metadata.annotations, &pod.metadata.labels];
    let found = maps.into_iter().flatten().find_map(|map| map.get(&key));
    found.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn agent(pod: &Pod, host: &str, uri: &K8sUri) -> Option<Agent> {
    let email = || said(pod, "email").and_then(|email| email.split('@').next());
    let known = said(pod, "email-prefix").or_else(email).map(|prefix| Agent::new(prefix, prefix));
    // The name of a host only counts where the source says how to read it.
    let named = || (!uri.prefix.is_empty()).then(|| hostnames::agent(host, &uri.prefix)).flatten();
    let agent = known.or_else(named)?;
    let text = |key| said(pod, key).map(str::to_owned);
    Some(Agent {
        name: text("name").unwrap_or_else(|| agent.email_prefix.clone()),
        nickname: text("nickname"),
        url: text("url"),
        note: text("note"),
        tls_fingerprint: text("tls-fingerprint"),
        device_id: text("device-id"),
        ..agent
    })
}

fn declared_port(spec: Option<&PodSpec>) -> Option<u16> {
    let ports = spec?.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let gateway = ports.into_iter().find(|port| port.name.as_deref() == Some(PORT_NAME))?;
    u16::try_from(gateway.container_port).ok()
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
