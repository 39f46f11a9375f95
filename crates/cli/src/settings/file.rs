//! `config.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::guards::LimitsTable;
use super::sync::SyncEntry;
use super::{Setting, Source};
use crate::error::{CliError, Exit};

/// `config.toml`. Every key is optional; an unknown one is a mistake.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    pub(super) registry: Option<PathBuf>,
    pub(super) tokens: Option<PathBuf>,
    pub(super) policy: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) gateway: Option<String>,
    pub(super) me: Option<String>,
    pub(super) email_domain: Option<String>,
    pub(super) im_fallback: Option<PathBuf>,
    pub(super) msg_soft_limit: Option<usize>,
    pub(super) msg_hard_limit: Option<usize>,
    #[serde(deserialize_with = "super::spelled::duration")]
    pub(super) timeout: Option<String>,
    #[serde(deserialize_with = "super::spelled::duration")]
    pub(super) connect_timeout: Option<String>,
    pub(super) allow_insecure_private_ws: Option<bool>,
    pub(super) queue: Option<bool>,
    pub(super) sync: Option<Vec<SyncEntry>>,
    pub(super) limits: LimitsTable,
}

pub(super) fn malformed_config(path: &Path, why: &str) -> CliError {
    CliError::new(Exit::Usage, "config-malformed", format!("{}{why}", path.display()))
        .hint("put that place right by hand; agent-mesh config --config /dev/null lists every setting")
}

/// Reads the file. One that nobody named need not be there.
pub(super) fn read(path: &Setting<PathBuf>) -> Result<ConfigFile, CliError> {
    match std::fs::read_to_string(&path.value) {
        Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let (line, column) = (
                before.matches('\n').count() + 1,
                before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            );
            malformed_config(&path.value, &format!(":{line}:{column}: {}", error.message()))
        }),
        // Only a file that somebody named has to be there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.source == Source::Default => {
            Ok(ConfigFile::default())
        }
        Err(error) => Err(malformed_config(&path.value, &format!(": {error}"))),
    }
}
