//! The endpoints of services as teammates: who it is, the host's name says.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::candidate::Candidate;
use crate::sync::{hostnames, uri::K8sUri};

/// What the service's port is called, if it has several.
const PORT_NAME: &str = "gateway";

pub(super) fn candidates(slices: &[EndpointSlice], uri: &K8sUri) -> Vec<Candidate> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten().map(move |e| (slice, e)));
    endpoints.filter_map(|(slice, endpoint)| candidate(slice, endpoint, uri)).collect()
}

fn candidate(slice: &EndpointSlice, endpoint: &Endpoint, uri: &K8sUri) -> Option<Candidate> {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
    let host = endpoint.hostname.clone().or(target)?;
    // Left out, it means yes.
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
    Some(Candidate {
        agent: hostnames::agent(&host, &uri.prefix)?,
        host,
        ip: endpoint.addresses.first().and_then(|ip| ip.parse().ok()),
        port: port(slice),
        ready,
        created: None,
    })
}

fn port(slice: &EndpointSlice) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = match ports {
        [only] => only,
        several => several.iter().find(|port| port.name.as_deref() == Some(PORT_NAME))?,
    };
    port.port.and_then(|port| u16::try_from(port).ok())
}
