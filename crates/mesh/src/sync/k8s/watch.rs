//! The cluster tells when something changed: one request that stays open, taken up again wherever it breaks off.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::sync::mpsc;

use super::{Kind, said};
use crate::sync::{
    Broken, Signal,
    uri::{K8sKind, K8sUri},
};

/// The server ends a watch after so long, in seconds.
const WATCH: u32 = 290;
/// One from which nothing, not even its end, came for so long is dead.
const SILENCE: Duration = Duration::from_secs(310);
/// The rest after the first failure, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A watch over one source.
pub(crate) struct Watch {
    uri: K8sUri,
    connect: Connect,
    signals: mpsc::Sender<Signal>,
    /// From where on changes are wanted.
    version: Option<String>,
    trouble: Option<String>,
}

/// How we get to the cluster.
enum Connect {
    /// Anew each time, since the service account's token may be another by now.
    Within(Duration),
    /// As a test says.
    #[cfg(test)]
    With(Client),
}

impl Connect {
    async fn client(&self) -> Result<Client, Broken> {
        match self {
            Self::Within(timeout) => super::client(*timeout).await,
            #[cfg(test)]
            Self::With(client) => Ok(client.clone()),
        }
    }
}

/// How a watch ended.
enum End {
    /// As it should: it goes on from the last version seen.
    Resumable,
    /// The server forgot the version: what happened meanwhile is not known.
    Gone,
}

impl Watch {
    /// Remembers where things are now. Where that fails, [`run`](Self::run) tries again.
    pub(crate) async fn begin(uri: K8sUri, connect_timeout: Duration, signals: mpsc::Sender<Signal>) -> Self {
        Self::new(uri, Connect::Within(connect_timeout), signals).await
    }

    #[cfg(test)]
    pub(super) async fn begin_with(uri: K8sUri, client: Client, signals: mpsc::Sender<Signal>) -> Self {
        Self::new(uri, Connect::With(client), signals).await
    }

    async fn new(uri: K8sUri, connect: Connect, signals: mpsc::Sender<Signal>) -> Self {
        let mut watch = Self { uri, connect, signals, version: None, trouble: None };
        if let Ok(client) = watch.connect.client().await {
            watch.version = watch.now(&client).await.ok();
        }
        watch
    }

    /// Watches for good.
    pub(crate) async fn run(mut self) {
        let mut rest = RESTS.0;
        while !self.signals.is_closed() {
            match self.once().await {
                Ok(()) => rest = RESTS.0,
                Err(broken) => {
                    self.complain(broken.to_string());
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(RESTS.1);
                }
            }
        }
    }

    /// Once through: connect, find out where things are if we do not know, and watch to the end.
    async fn once(&mut self) -> Result<(), Broken> {
        let client = self.connect.client().await?;
        let version = match self.version.clone() {
            Some(version) => version,
            None => {
                let version = self.now(&client).await?;
                self.version = Some(version.clone());
                // Whatever happened before that was not seen.
                self.tell(Signal::Changed);
                version
            }
        };
        let end = match self.uri.kind {
            K8sKind::Pods => self.follow::<Pod>(client, &version).await?,
            K8sKind::EndpointSlices => self.follow::<EndpointSlice>(client, &version).await?,
        };
        if matches!(end, End::Gone) {
            self.version = None;
        }
        Ok(())
    }

    async fn now(&self, client: &Client) -> Result<String, Broken> {
        match self.uri.kind {
            K8sKind::Pods => self.version_of::<Pod>(client.clone()).await,
            K8sKind::EndpointSlices => self.version_of::<EndpointSlice>(client.clone()).await,
        }
    }

    async fn version_of<K: Kind>(&self, client: Client) -> Result<String, Broken> {
        let api: Api<K> = Api::namespaced(client, &self.uri.namespace);
        let one = ListParams::default().labels(&self.uri.selector).limit(1);
        let list = api.list_metadata(&one).await.map_err(|error| said::<K>("list", &self.uri, &error))?;
        Ok(list.metadata.resource_version.unwrap_or_default())
    }

    /// Tells of each change, until the server ends it.
    async fn follow<K: Kind>(&mut self, client: Client, version: &str) -> Result<End, Broken> {
        let api: Api<K> = Api::namespaced(client, &self.uri.namespace);
        let params = WatchParams::default().labels(&self.uri.selector).timeout(WATCH);
        let denied = |error: &kube::Error, uri: &K8sUri| said::<K>("watch", uri, error);
        let events = match api.watch_metadata(&params, version).await {
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Gone),
            other => other.map_err(|error| denied(&error, &self.uri))?,
        };
        self.trouble = None;
        pin_mut!(events);
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
            match event.map_err(|error| denied(&error, &self.uri))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    self.version = object.metadata.resource_version.or_else(|| self.version.take());
                    self.tell(Signal::Changed);
                }
                WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) if status.code == 410 => return Ok(End::Gone),
                WatchEvent::Error(status) => return Err(denied(&kube::Error::Api(status), &self.uri)),
            }
        }
        Ok(End::Resumable)
    }

    /// The same trouble is told once.
    fn complain(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            self.tell(Signal::Trouble(trouble.clone()));
            self.trouble = Some(trouble);
        }
    }

    fn tell(&self, signal: Signal) {
        // A full queue says already that something changed.
        let _ = self.signals.try_send(signal);
    }
}
