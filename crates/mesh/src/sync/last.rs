//! What the last sync left unsaid, in a file of the state folder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::private_file;
use crate::registry::{Agent, Registry};

/// The last sync of a registry, also one that had nothing to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastSync {
    /// The registry that was synced.
    registry: PathBuf,
    /// When.
    pub at: Timestamp,
    /// The addresses that stood in the registry and that no source named, by lower-case prefix.
    unconfirmed: BTreeMap<String, String>,
}

/// The addresses that sources named, by lower-case prefix.
#[derive(Debug)]
pub(crate) struct Named(HashMap<String, HashSet<String>>);

impl Named {
    /// In these answers.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let mut named: HashMap<String, HashSet<String>> = HashMap::new();
        for agent in answers.iter().flat_map(|answer| &answer.agents) {
            if let Some(address) = address(agent) {
                named.entry(agent.email_prefix.to_lowercase()).or_default().insert(address);
            }
        }
        Self(named)
    }

    fn confirms(&self, prefix: &str, address: &str) -> bool {
        self.0.get(prefix).is_some_and(|addresses| addresses.contains(address))
    }
}

impl LastSync {
    /// A sync that made this of the registry.
    pub(crate) fn new(path: &Path, registry: &Registry, named: &Named) -> Self {
        let addresses = registry.agents.iter().filter_map(|agent| Some((agent, address(agent)?)));
        let unconfirmed = addresses.filter_map(|(agent, address)| {
            let prefix = agent.email_prefix.to_lowercase();
            (!named.confirms(&prefix, &address)).then_some((prefix, address))
        });
        Self { registry: real(path), at: Timestamp::now(), unconfirmed: unconfirmed.collect() }
    }

    /// The last sync of this registry, as far as this host knows. A file that cannot be used is as good as none.
    #[must_use]
    pub fn load(folder: &Path, registry: &Path) -> Option<Self> {
        let bytes = private_file::read(&file(folder)).ok()??;
        let last: Self = serde_json::from_slice(&bytes).ok()?;
        (last.registry == real(registry)).then_some(last)
    }

    /// Keeps it. Where that fails, addresses only look newer than they are.
    pub(crate) fn save(&self, folder: &Path) {
        let written = serde_json::to_vec(self).map(|json| private_file::write(&file(folder), &json));
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("cannot remember what the last sync confirmed: {written:?}");
        }
    }

    /// Whether a teammate's address is older than this sync: it stood there already, and no source named it. One that was
    /// changed by hand since is newer.
    #[must_use]
    pub fn is_newer_than_address_of(&self, agent: &Agent) -> bool {
        let known = self.unconfirmed.get(&agent.email_prefix.to_lowercase());
        known.is_some() && known == address(agent).as_ref()
    }
}

fn address(agent: &Agent) -> Option<String> {
    agent.address().ok().map(|endpoint| endpoint.to_string())
}

/// The same file under all its names.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn file(folder: &Path) -> PathBuf {
    folder.join("last.json")
}
