//! Taking over the registry and the tokens of a bash skill.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use openclaw_client::Secret;

use super::Warning;
use crate::config::MeshConfig;
use crate::error::MeshError;
use crate::merged::Merged;
use crate::private_file::shell_word;
use crate::registry::{Agent, Registry};
use crate::secrets::TokenStore;

/// What a bash skill's folder holds, checked.
#[derive(Default)]
pub(super) struct Theirs {
    pub registry: Option<Registry>,
    pub tokens: HashMap<String, Secret>,
    /// Whose entries held a token, which is left behind.
    inline: Vec<String>,
}

impl Theirs {
    /// Reads a skill's folder. Its tokens file has to be as private as ours.
    pub fn load(folder: &Path, config: &MeshConfig) -> Result<Self, MeshError> {
        let registry = find(folder, "registry.json");
        let tokens = find(folder, "tokens.json");
        if registry.is_none() && tokens.is_none() {
            return Err(MeshError::NothingToImport { folder: folder.to_owned() });
        }
        let mut theirs = Self::default();
        // Settings may still name the skill's own files: those need not be copied onto themselves.
        if let Some(path) = registry.filter(|path| !is_same(path, &config.registry)) {
            let mut registry = Registry::load(&path)?;
            theirs.inline = without_tokens(&mut registry);
            theirs.registry = Some(registry);
        }
        if let Some(path) = tokens.filter(|path| !is_same(path, &config.tokens)) {
            theirs.tokens = TokenStore::new(path).all()?;
        }
        Ok(theirs)
    }

    /// The tokens that were left behind.
    pub fn warnings(&self) -> Vec<Warning> {
        let left = self.inline.iter().map(|email_prefix| Warning {
            message: format!("the token in the registry entry of {email_prefix} was not taken over"),
            fix: Some(format!("agent-mesh token set {} < FILE", shell_word(Path::new(email_prefix)))),
        });
        left.collect()
    }
}

/// Where the skill keeps a file: under `references`, or at its top.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join("references").join(name), folder.join(name)].into_iter().find(|path| path.exists())
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Tokens have no business in a registry, and copying them would spread them.
fn without_tokens(registry: &mut Registry) -> Vec<String> {
    let holders = registry.agents.iter_mut().filter(|agent| agent.has_inline_token());
    holders
        .map(|agent| {
            agent.token = None;
            agent.email_prefix.clone()
        })
        .collect()
}

/// Adds their entries to ours. Of two with one e-mail prefix ours stays, unless `overwrite`.
pub(super) fn merge(ours: &mut Registry, theirs: &Registry, overwrite: bool) -> Merged {
    let mut merged = Merged::default();
    let key = |agent: &Agent| agent.email_prefix.to_lowercase();
    let places: HashMap<String, usize> = ours.agents.iter().map(key).zip(0..).collect();
    for agent in &theirs.agents {
        let known = places.get(&key(agent)).and_then(|place| ours.agents.get_mut(*place));
        let changed = overwrite && known.as_deref().is_some_and(|known| known != agent);
        merged.note(&key(agent), known.is_some(), changed);
        match known {
            Some(known) if changed => *known = agent.clone(),
            Some(_) => {}
            None => ours.agents.push(agent.clone()),
        }
    }
    ours.registry_doc_url = ours.registry_doc_url.take().or_else(|| theirs.registry_doc_url.clone());
    for (field, value) in &theirs.extra {
        ours.extra.entry(field.as_str()).or_insert_with(|| value.clone());
    }
    merged.sorted()
}
