//! The pairing requests that we filed, and that brought no token of our own yet: `<state>/filed.json`. Somebody approves
//! them on another host, and nobody tells us: the next call has to look.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};
use crate::record::To;

/// So long we look whether one was approved. The request itself vanishes after minutes; an approval does not.
const LOOKED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct Filed {
    path: PathBuf,
}

/// One request, by lower-case e-mail prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PairRequest {
    /// What the peer approves.
    pub request_id: String,
    /// Where it was filed.
    pub url: String,
    /// When.
    pub at: Timestamp,
    /// The rule of the peer's policy that kept us out since: it was approved then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

type Rows = BTreeMap<String, PairRequest>;

impl Filed {
    /// The file, which need not exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Remembers a request.
    pub(crate) fn note(&self, to: &To, request_id: &str, url: String) -> Result<(), PrivateFileError> {
        let is_known = |row: &PairRequest| row.request_id == request_id && row.url == url;
        if self.of(to).as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let request_id = request_id.to_owned();
        let row = PairRequest { request_id, url, at: Timestamp::now(), denied: None };
        self.edit(|rows| drop(rows.insert(key(to), row)))
    }

    /// Remembers that a peer whom we asked has a policy that says no.
    pub(crate) fn denied(&self, to: &To, rule: &str) -> Result<(), PrivateFileError> {
        if self.of(to).is_none_or(|row| row.denied.as_deref() == Some(rule)) {
            return Ok(());
        }
        self.edit(|rows| {
            if let Some(row) = rows.get_mut(&key(to)) {
                row.denied = Some(rule.to_owned());
            }
        })
    }

    /// Forgets a peer whose gateway gave us a token.
    pub(crate) fn forget(&self, to: &To) -> Result<(), PrivateFileError> {
        match self.of(to) {
            Some(_) => self.edit(|rows| drop(rows.remove(&key(to)))),
            None => Ok(()),
        }
    }

    /// What a peer was asked at this address. It only serves to look again: a file that cannot be read says nothing.
    pub(crate) fn at(&self, to: &To, url: &str) -> Option<PairRequest> {
        self.of(to).filter(|row| row.url == url)
    }

    fn of(&self, to: &To) -> Option<PairRequest> {
        let bytes = private_file::read(&self.path).ok().flatten();
        rows(bytes.as_deref().map(Vec::as_slice)).remove(&key(to))
    }

    fn edit(&self, edit: impl FnOnce(&mut Rows)) -> Result<(), PrivateFileError> {
        private_file::update(&self.path, |bytes| {
            let mut rows = rows(bytes);
            edit(&mut rows);
            // Maps with text keys: this cannot fail.
            Ok(Some(Zeroizing::new(serde_json::to_vec(&rows).unwrap_or_default())))
        })
    }
}

fn rows(bytes: Option<&[u8]>) -> Rows {
    let rows: Rows = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let now = Timestamp::now();
    rows.into_iter().filter(|(_, row)| now.duration_since(row.at) < LOOKED_FOR).collect()
}

fn key(to: &To) -> String {
    to.email_prefix.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_until_a_token_comes() {
        let folder = tempfile::tempdir().unwrap();
        let filed = Filed::new(folder.path().join("filed.json"));
        let bob = To { name: "Bob".into(), email_prefix: "Bob".into() };
        filed.forget(&bob).unwrap();
        filed.denied(&bob, "mode").unwrap();
        assert!(!filed.path.exists(), "nothing is made to forget somebody, or for who was not asked");
        filed.note(&bob, "r1", "ws://10.0.0.11:18789".into()).unwrap();
        let first = filed.of(&bob).unwrap();
        filed.note(&bob, "r1", "ws://10.0.0.11:18789".into()).unwrap();
        assert_eq!(filed.of(&bob), Some(first), "since when, not until when");
        filed.denied(&bob, "mode").unwrap();
        assert_eq!(filed.of(&bob).unwrap().denied.as_deref(), Some("mode"));
        filed.note(&bob, "r2", "ws://10.0.0.11:18789".into()).unwrap();
        assert_eq!(filed.of(&bob).map(|row| (row.request_id, row.denied)), Some(("r2".into(), None)));
        filed.forget(&bob).unwrap();
        assert_eq!(filed.of(&bob), None);
    }
}
