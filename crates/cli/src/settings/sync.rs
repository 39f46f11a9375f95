//! The sources of `sync`: `[[sync]]` in `config.toml`, one variable, or options.

use std::path::PathBuf;

use agent_team_mesh::sync::{Source as SyncSource, SourceUri};
use serde::Deserialize;

use super::env::invalid;
use super::layers::{Layers, first};
use super::{Setting, Settings, Source, table};
use crate::error::CliError;

/// One source, as somebody wrote it down. It is understood when it is needed: a mistake here is no reason not to send.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SyncEntry {
    /// The URI.
    pub from: String,
    /// The file of the token that an `https:` source wants.
    pub bearer_file: Option<PathBuf>,
}

impl SyncEntry {
    /// A source without a bearer.
    pub fn plain(from: &str) -> Self {
        Self { from: from.to_owned(), bearer_file: None }
    }
}

/// The sources of the strongest layer that names any.
pub(super) fn entries(
    layers: &Layers<'_>,
    file: Option<Vec<SyncEntry>>,
) -> Result<Setting<Vec<SyncEntry>>, CliError> {
    let env = layers.env.text(table::SYNC.env)?.map(|from| vec![SyncEntry::plain(from)]);
    Ok(first(&table::SYNC, None, env, file, Vec::new))
}

/// All of them without anything that may be a secret.
pub(super) fn show(entries: &[SyncEntry]) -> Option<String> {
    let name = |entry: &SyncEntry| match entry.from.parse::<SourceUri>() {
        Ok(uri) => uri.mark(),
        Err(_) => "(no source)".to_owned(),
    };
    (!entries.is_empty()).then(|| entries.iter().map(name).collect::<Vec<_>>().join(", "))
}

impl Settings {
    /// The sources of the options if there are any, else those of the settings. An option that names a source of the
    /// settings gets its bearer.
    pub fn sync_sources(&self, from: &[String]) -> Result<Vec<SyncSource>, CliError> {
        let Setting { value: settings, source } = &self.sync;
        if from.is_empty() {
            let place = match source {
                Source::Env(name) | Source::Flag(name) => name,
                Source::File | Source::Default => "config.toml: sync",
            };
            return settings.iter().map(|entry| understood(place, entry)).collect();
        }
        let entry = |from: &String| {
            let known = settings.iter().find(|entry| entry.from == *from).cloned();
            known.unwrap_or_else(|| SyncEntry::plain(from))
        };
        from.iter().map(|from| understood("--from", &entry(from))).collect()
    }
}

fn understood(place: &str, entry: &SyncEntry) -> Result<SyncSource, CliError> {
    let uri: SourceUri = entry.from.parse().map_err(|why| {
        let error = invalid(place, &format!("{why}"));
        // What has no scheme is most often a file.
        if entry.from.contains(':') { error } else { error.hint("a file is named as file:PATH") }
    })?;
    if entry.bearer_file.is_some() && !matches!(uri, SourceUri::Http(_)) {
        return Err(invalid(place, "bearer-file is for https: sources"));
    }
    Ok(SyncSource { uri, bearer_file: entry.bearer_file.clone() })
}
