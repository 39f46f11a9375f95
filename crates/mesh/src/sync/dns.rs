//! `dns:` - what the name service says: SRV records, or the addresses behind a name and what they are called in turn.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::future::try_join_all;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use openclaw_client::protocol::DEFAULT_PORT;

use super::{Broken, hostnames, uri::DnsUri};
use crate::registry::Agent;

pub(super) async fn fetch(uri: &DnsUri, limit: Duration) -> Result<Vec<Agent>, Broken> {
    let resolver = resolver(uri.server).map_err(|error| failed(&uri.name, &error))?;
    let found = async {
        if uri.name.starts_with('_') { services(&resolver, uri).await } else { hosts(&resolver, uri).await }
    };
    tokio::time::timeout(limit, found).await.map_err(|_| Broken::Slow(limit))?
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let Some(server) = server else { return TokioResolver::builder_tokio()?.build() };
    let at = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(at).to_vec();
    let config =
        ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, connections)]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

/// One teammate a record. The host's name is kept and not its address: it is looked up anew for each call.
async fn services(resolver: &TokioResolver, uri: &DnsUri) -> Result<Vec<Agent>, Broken> {
    let lookup = match resolver.srv_lookup(uri.name.as_str()).await {
        Err(error) if is_empty(&error) => return Ok(Vec::new()),
        other => other.map_err(|error| failed(&uri.name, &error))?,
    };
    let mut agents = Vec::new();
    for record in lookup.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        let host = srv.target.to_utf8().trim_end_matches('.').to_owned();
        if let Some(mut agent) = hostnames::agent(&host, &uri.prefix) {
            if uri.server.is_some() {
                // Nobody else here asks that server.
                agent.ip = address(resolver, &host).await?.map(|ip| with_port(ip, srv.port));
            }
            agent.hostname = Some(host_and_port(&host, srv.port));
            agents.push(agent);
        }
    }
    // The answer's order changes from one to the next.
    agents.sort_by(|a, b| a.email_prefix.cmp(&b.email_prefix));
    Ok(agents)
}

/// One teammate an address, by the name that the address has in turn.
async fn hosts(resolver: &TokioResolver, uri: &DnsUri) -> Result<Vec<Agent>, Broken> {
    let lookup = match resolver.lookup_ip(uri.name.as_str()).await {
        Err(error) if is_empty(&error) => return Ok(Vec::new()),
        other => other.map_err(|error| failed(&uri.name, &error))?,
    };
    let named = lookup.iter().map(async |ip| Ok::<_, Broken>((ip, name_of(resolver, ip).await?)));
    let mut named = try_join_all(named).await?;
    // IPv4 first; a host that has both is one teammate.
    named.sort_by(|(ip, host), (other, name)| (host, ip.is_ipv6(), ip).cmp(&(name, other.is_ipv6(), other)));
    named.dedup_by(|(_, host), (_, before)| host == before);
    let agents = named.into_iter().filter_map(|(ip, host)| {
        let agent = hostnames::agent(&host, &uri.prefix)?;
        Some(Agent { ip: Some(ip.to_string()), hostname: Some(host), ..agent })
    });
    Ok(agents.collect())
}

async fn name_of(resolver: &TokioResolver, ip: IpAddr) -> Result<String, Broken> {
    let lookup = resolver.reverse_lookup(ip).await.map_err(|error| failed(&ip.to_string(), &error))?;
    let name = lookup.answers().iter().find_map(|record| match &record.data {
        RData::PTR(name) => Some(name.to_utf8().trim_end_matches('.').to_owned()),
        _ => None,
    });
    name.ok_or_else(|| Broken::Said(format!("{ip} has no name that says whose it is")))
}

async fn address(resolver: &TokioResolver, host: &str) -> Result<Option<IpAddr>, Broken> {
    let lookup = resolver.lookup_ip(format!("{host}.")).await.map_err(|error| failed(host, &error))?;
    Ok(lookup.iter().min_by_key(|ip| (ip.is_ipv6(), *ip)))
}

fn with_port(ip: IpAddr, port: u16) -> String {
    if port == DEFAULT_PORT { ip.to_string() } else { SocketAddr::new(ip, port).to_string() }
}

fn host_and_port(host: &str, port: u16) -> String {
    if port == DEFAULT_PORT { host.to_owned() } else { format!("{host}:{port}") }
}

/// The name is there and has no such records: a service without agents. A name that is not there is a mistake.
fn is_empty(error: &NetError) -> bool {
    error.is_no_records_found() && !error.is_nx_domain()
}

fn failed(name: &str, error: &NetError) -> Broken {
    Broken::Said(if error.is_nx_domain() {
        format!("there is no name {name}")
    } else {
        format!("cannot look up {name}: {error}")
    })
}

#[cfg(test)]
mod tests;
