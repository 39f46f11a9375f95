//! What a web server said last, in a file of the state folder: its ETag, its date, and the document they belong to.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::private_file;

/// The last good answer. The document is kept with its ETag, since "not modified" is of no use without it: the registry
/// may have changed meanwhile.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remembered {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
    pub(super) body: String,
    #[serde(skip)]
    name: String,
}

impl Remembered {
    /// What to remember of an answer, if it can be asked for again.
    pub(super) fn new(url: &Url, validators: (Option<String>, Option<String>), body: &[u8]) -> Option<Self> {
        let (etag, last_modified) = validators;
        if etag.is_none() && last_modified.is_none() {
            return None;
        }
        let body = std::str::from_utf8(body).ok()?.to_owned();
        Some(Self { etag, last_modified, body, name: name(url) })
    }

    /// What is remembered of this URL. A file that cannot be used is as good as none: the document is fetched anew.
    pub(super) fn load(folder: &Path, url: &Url) -> Option<Self> {
        let name = name(url);
        let bytes = private_file::read(&file(folder, &name)).ok()??;
        Some(Self { name, ..serde_json::from_slice(&bytes).ok()? })
    }

    /// Keeps it. Where that fails, the next sync transfers the document once more.
    pub(super) fn save(&self, folder: &Path) {
        let written =
            serde_json::to_vec(self).map(|json| private_file::write(&file(folder, &self.name), &json));
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("cannot remember what a source answered: {written:?}");
        }
    }
}

/// Of the whole URL, whose query may be a secret.
fn name(url: &Url) -> String {
    let hash = Sha256::digest(url.as_str());
    hash.iter().take(8).fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}
