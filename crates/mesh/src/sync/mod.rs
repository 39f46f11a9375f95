//! Where the team's list comes from: one file a source. A source returns teammates; it does not write the registry.
//!
//! `Source::fetch` gets the list, `merge::merge` makes it part of the registry, `ops::sync` writes that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use openclaw_client::Secret;

use crate::private_file;
use crate::registry::Agent;

mod command;
#[cfg(feature = "dns")]
mod dns;
mod entries;
mod error;
mod exec;
mod file;
mod git;
#[cfg(any(feature = "dns", feature = "k8s"))]
mod hostnames;
mod http;
#[cfg(feature = "k8s")]
mod k8s;
pub(crate) mod last;
pub(crate) mod merge;
mod remembered;
mod table;
mod uri;
mod watch;
mod words;

pub use error::{Broken, SyncError};
pub use last::LastSync;
pub use merge::{Changed, Changes, Difference, Who};
pub use uri::{DnsUri, GitUri, K8sKind, K8sUri, SourceUri, UriError};
pub use watch::{Signal, Watcher};
pub use words::QuoteError;

/// The largest answer we take, in bytes: some thirty thousand teammates.
const MAX_ANSWER: u64 = 8 * 1024 * 1024;

/// A source, and what it takes to ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub uri: SourceUri,
    /// The file of the token that an `https:` source wants, 0600.
    pub bearer_file: Option<PathBuf>,
}

/// How all sources of a run are asked.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    /// The folder of what is remembered between runs.
    pub(crate) memory: PathBuf,
    /// Until a connection stands.
    pub(crate) connect_timeout: Duration,
    /// For each source.
    pub(crate) timeout: Duration,
    /// Whether a list that names nobody is meant.
    pub(crate) allow_empty: bool,
    /// Whether to keep what an `https:` source said.
    pub(crate) remember: bool,
}

/// What a source answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The source's name.
    pub(crate) mark: String,
    /// Its list, checked.
    pub(crate) agents: Vec<Agent>,
}

impl Source {
    /// Asks the source.
    pub(crate) async fn fetch(&self, how: &Fetch) -> Result<Answer, SyncError> {
        let mark = self.uri.mark();
        let agents = match &self.uri {
            SourceUri::Http(url) => return self.fetch_http(url, how).await,
            SourceUri::File(path) => read(file::fetch(path), &mark)?,
            SourceUri::Git(uri) => read(git::fetch(uri, how.timeout).await, &mark)?,
            SourceUri::Exec(words) => read(exec::fetch(words, how.timeout).await, &mark)?,
            #[cfg(feature = "dns")]
            SourceUri::Dns(uri) => found(dns::fetch(uri, how.timeout).await, &mark)?,
            #[cfg(not(feature = "dns"))]
            SourceUri::Dns(_) => return Err(SyncError::FeatureAbsent { feature: "dns" }),
            #[cfg(feature = "k8s")]
            SourceUri::K8s(uri) => found(k8s::fetch(uri, how).await, &mark)?,
            #[cfg(not(feature = "k8s"))]
            SourceUri::K8s(_) => return Err(SyncError::FeatureAbsent { feature: "k8s" }),
        };
        answer(mark, agents, how)
    }

    async fn fetch_http(&self, url: &reqwest::Url, how: &Fetch) -> Result<Answer, SyncError> {
        let mark = self.uri.mark();
        let bearer = self.bearer_file.as_deref().map(read_bearer).transpose()?;
        let request = http::Request {
            url,
            bearer: bearer.as_ref(),
            connect_timeout: how.connect_timeout,
            timeout: how.timeout,
            memory: &how.memory,
        };
        let document = http::fetch(&request).await.map_err(|broken| broken.of(&mark))?;
        let agents = read(Ok(document.bytes), &mark)?;
        let answer = answer(mark, agents, how)?;
        // Only now: the ETag of an answer that was no good would make the next one "not modified".
        if let (Some(fresh), true) = (document.fresh, how.remember) {
            fresh.save(&how.memory);
        }
        Ok(answer)
    }
}

fn read(fetched: Result<Vec<u8>, Broken>, mark: &str) -> Result<Vec<Agent>, SyncError> {
    fetched.and_then(|bytes| entries::read(&bytes, mark)).map_err(|broken| broken.of(mark))
}

#[cfg(any(feature = "dns", feature = "k8s"))]
fn found(agents: Result<Vec<Agent>, Broken>, mark: &str) -> Result<Vec<Agent>, SyncError> {
    agents.and_then(|agents| entries::checked(agents, mark)).map_err(|broken| broken.of(mark))
}

fn answer(mark: String, agents: Vec<Agent>, how: &Fetch) -> Result<Answer, SyncError> {
    if agents.is_empty() && !how.allow_empty {
        return Err(SyncError::Empty { origin: mark });
    }
    Ok(Answer { mark, agents })
}

fn read_bearer(path: &Path) -> Result<Secret, SyncError> {
    let wrong = |reason| SyncError::Bearer { path: path.into(), reason };
    let bytes = private_file::read(path)?.ok_or_else(|| wrong("does not exist"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?.trim();
    match text {
        "" => Err(wrong("is empty")),
        text if text.chars().any(|c| !c.is_ascii_graphic()) => Err(wrong("holds more than a token")),
        text => Ok(Secret::new(text.to_owned())),
    }
}

fn within_limit(bytes: Vec<u8>) -> Result<Vec<u8>, Broken> {
    if bytes.len() as u64 > MAX_ANSWER { Err(Broken::TooLarge(MAX_ANSWER)) } else { Ok(bytes) }
}
