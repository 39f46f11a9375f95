//! `k8s:` - the agents that run in a cluster: pods, or the endpoints of services, by namespace and label.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{core::v1::Pod, discovery::v1::EndpointSlice},
};
use kube::{Api, Client, Config, Resource, api::ListParams, core::ObjectList};
use serde::de::DeserializeOwned;

use super::uri::{K8sKind, K8sUri};
use super::{Broken, Fetch};
use crate::registry::Agent;

mod candidate;
mod pods;
mod slices;
pub(super) mod watch;

/// How many objects the API server sends at once.
const PAGE: u32 = 500;
/// A list that ran out of time between two pages is begun anew so often.
const RESTARTS: u32 = 3;

pub(super) async fn fetch(uri: &K8sUri, how: &Fetch) -> Result<Vec<Agent>, Broken> {
    let found = async { list(client(how.connect_timeout).await?, uri).await };
    tokio::time::timeout(how.timeout, found).await.map_err(|_| Broken::Slow(how.timeout))?
}

/// The cluster of the kubeconfig, else the one we run in.
async fn client(connect_timeout: Duration) -> Result<Client, Broken> {
    // The client's TLS panics without a provider; a second call of this changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::infer().await.map_err(|error| {
        Broken::Said(format!("there is neither a kubeconfig nor a cluster around us: {error}"))
    })?;
    config.connect_timeout = Some(connect_timeout);
    Client::try_from(config).map_err(|error| Broken::Said(error.to_string()))
}

async fn list(client: Client, uri: &K8sUri) -> Result<Vec<Agent>, Broken> {
    let candidates = match uri.kind {
        K8sKind::Pods => pods::candidates(&all::<Pod>(client, uri).await?, uri),
        K8sKind::EndpointSlices => slices::candidates(&all::<EndpointSlice>(client, uri).await?, uri),
    };
    candidate::settle(candidates)
}

/// What a namespace has of one kind.
trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

impl Kind for Pod {}
impl Kind for EndpointSlice {}

async fn all<K: Kind>(client: Client, uri: &K8sUri) -> Result<Vec<K>, Broken> {
    let api: Api<K> = Api::namespaced(client, &uri.namespace);
    let mut restarts = 0;
    loop {
        match pages(&api, uri).await {
            // 410: the server forgot the state that the next page belongs to.
            Err(kube::Error::Api(status)) if status.code == 410 && restarts < RESTARTS => restarts += 1,
            other => return other.map_err(|error| said::<K>("list", uri, &error)),
        }
    }
}

async fn pages<K: Kind>(api: &Api<K>, uri: &K8sUri) -> Result<Vec<K>, kube::Error> {
    let mut params = ListParams::default().labels(&uri.selector).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page: ObjectList<K> = api.list(&params).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}

/// What the cluster said, and above all what it did not let us do.
fn said<K: Kind>(verb: &str, uri: &K8sUri, error: &kube::Error) -> Broken {
    let (resource, namespace) = (K::plural(&()), &uri.namespace);
    Broken::Said(match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the cluster does not let us {verb} {resource} in namespace {namespace}: {}",
            status.message
        ),
        kube::Error::Api(status) => {
            format!("the cluster answered {} to {verb} {resource}: {}", status.code, status.message)
        }
        other => format!("cannot {verb} {resource} in namespace {namespace}: {}", crate::error::chain(other)),
    })
}

#[cfg(test)]
mod manifests;
#[cfg(test)]
mod tests;
