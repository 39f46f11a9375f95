//! Several pods may be one teammate's for a moment: the old one that ends, and the new one that begins.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::jiff::Timestamp;
use openclaw_client::protocol::DEFAULT_PORT;

use crate::registry::Agent;
use crate::sync::Broken;

/// A pod or an endpoint that may be a teammate's.
pub(super) struct Candidate {
    /// The entry, without an address.
    pub(super) agent: Agent,
    /// What it is called in the cluster.
    pub(super) host: String,
    /// Where it is, once it has a place.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
    /// Whether it takes requests, and is to stay.
    pub(super) ready: bool,
    pub(super) created: Option<Timestamp>,
}

/// One entry a teammate. Only who is ready has an address: another's may be somebody else's the next moment.
pub(super) fn settle(candidates: Vec<Candidate>) -> Result<Vec<Agent>, Broken> {
    let mut by_prefix: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_prefix.entry(candidate.agent.email_prefix.to_lowercase()).or_default().push(candidate);
    }
    by_prefix.into_values().filter_map(|candidates| one(candidates).transpose()).collect()
}

fn one(mut candidates: Vec<Candidate>) -> Result<Option<Agent>, Broken> {
    // The first will be it: who is ready, by IPv4, and younger.
    candidates.sort_by_key(|candidate| {
        let v6 = candidate.ip.is_some_and(|ip| ip.is_ipv6());
        (!candidate.ready, v6, std::cmp::Reverse(candidate.created))
    });
    let ready: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.ready).collect();
    if let [first, others @ ..] = ready.as_slice()
        && let Some(second) = others.iter().find(|other| other.host != first.host)
    {
        let prefix = &first.agent.email_prefix;
        return Err(Broken::Said(format!("{} and {} are both ready as {prefix}", first.host, second.host)));
    }
    Ok(candidates.into_iter().next().map(Candidate::into_agent))
}

impl Candidate {
    fn into_agent(self) -> Agent {
        let ip = self.ip.filter(|_| self.ready).map(|ip| match self.port {
            Some(port) if port != DEFAULT_PORT => std::net::SocketAddr::new(ip, port).to_string(),
            _ => ip.to_string(),
        });
        Agent { ip, ..self.agent }
    }
}
