//! Whom we asked by an invite, and were not let in by yet: `<state>/asked.json`. The invite is a secret and not in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};
use crate::record::To;

/// So long an invite can be given again: a gateway lets its code live for ten minutes.
const GOOD: SignedDuration = SignedDuration::from_mins(10);

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    path: PathBuf,
}

/// One request, by lower-case e-mail prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    name: String,
    /// Where.
    pub url: String,
    /// When it was made first.
    pub at: Timestamp,
}

type Rows = BTreeMap<String, Request>;

impl Asked {
    /// The file, which need not exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Remembers that a teammate was asked.
    pub(crate) fn note(&self, to: &To, url: String) -> Result<(), PrivateFileError> {
        let request = Request { name: to.name.clone(), url, at: Timestamp::now() };
        self.edit(|rows| {
            let fresh = rows.get(&key(to)).is_none_or(|before| before.url != request.url);
            if fresh {
                rows.insert(key(to), request);
            }
            fresh
        })
    }

    /// Forgets a teammate who has let us in.
    pub(crate) fn forget(&self, to: &To) -> Result<(), PrivateFileError> {
        // No file is made just to forget somebody.
        if self.path.exists() { self.edit(|rows| rows.remove(&key(to)).is_some()) } else { Ok(()) }
    }

    /// What a teammate was asked, as long as the invite may be good.
    pub(crate) fn of(&self, to: &To) -> Option<Request> {
        self.read(Timestamp::now()).remove(&key(to))
    }

    /// The same, for a teammate who may not be in the registry yet: by e-mail prefix or name.
    pub(crate) fn called(&self, name: &str) -> Option<(To, Request)> {
        let is_meant = |prefix: &str, row: &Request| {
            prefix.eq_ignore_ascii_case(name) || row.name.to_lowercase() == name.to_lowercase()
        };
        self.all().into_iter().find(|(to, row)| is_meant(&to.email_prefix, row))
    }

    /// Everybody who was asked.
    pub(crate) fn all(&self) -> Vec<(To, Request)> {
        let to = |email_prefix, row: &Request| To { name: row.name.clone(), email_prefix };
        self.read(Timestamp::now()).into_iter().map(|(prefix, row)| (to(prefix, &row), row)).collect()
    }

    /// It only serves to say what helps: a file that cannot be read says nothing.
    fn read(&self, now: Timestamp) -> Rows {
        let bytes = private_file::read(&self.path).ok().flatten();
        rows(bytes.as_deref().map(Vec::as_slice), now)
    }

    fn edit(&self, edit: impl FnOnce(&mut Rows) -> bool) -> Result<(), PrivateFileError> {
        private_file::update(&self.path, |bytes| {
            let mut rows = rows(bytes, Timestamp::now());
            // Maps with text keys: this cannot fail.
            let json = |rows: &Rows| serde_json::to_vec(rows).unwrap_or_default();
            Ok(edit(&mut rows).then(|| Zeroizing::new(json(&rows))))
        })
    }
}

fn rows(bytes: Option<&[u8]>, now: Timestamp) -> Rows {
    let rows: Rows = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    rows.into_iter().filter(|(_, row)| now.duration_since(row.at) < GOOD).collect()
}

fn key(to: &To) -> String {
    to.email_prefix.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> To {
        To { name: "Bob".into(), email_prefix: "bob".into() }
    }

    #[test]
    fn who_was_asked_is_known_until_he_lets_us_in() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Asked::new(folder.path().join("asked.json"));
        assert_eq!(asked.of(&bob()), None);
        asked.forget(&bob()).unwrap();
        assert!(!asked.path.exists(), "nothing is made to forget somebody");
        asked.note(&bob(), "ws://10.0.0.11:18789".into()).unwrap();
        let first = asked.of(&bob()).unwrap();
        asked.note(&bob(), "ws://10.0.0.11:18789".into()).unwrap();
        assert_eq!(asked.of(&bob()), Some(first.clone()), "since when, not until when");
        for name in ["bob", "BOB", "Bob"] {
            assert_eq!(asked.called(name), Some((bob(), first.clone())), "{name}");
        }
        assert_eq!(asked.called("carol"), None);
        assert!(asked.read(first.at + GOOD).is_empty(), "its invite has ended");
        asked.forget(&bob()).unwrap();
        assert_eq!(asked.of(&bob()), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_nothing_and_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Asked::new(folder.path().join("asked.json"));
        private_file::write(&asked.path, b"nope").unwrap();
        assert_eq!(asked.of(&bob()), None);
        asked.note(&bob(), "ws://10.0.0.11:18789".into()).unwrap();
        assert!(asked.of(&bob()).is_some());
    }
}
