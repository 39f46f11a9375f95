//! The invites we sent, and who came in by one: `<state>/invites.json`, 0600.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::proof::Proof;
use crate::private_file::{self, PrivateFileError};
use crate::record::To;

/// Why our memory of invites could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SentError {
    /// The file was refused, unreadable or could not be written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file is not what we wrote. The parser's own words are left out: they quote the file.
    #[error("{path}:{line}:{column}: not a file of invites")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The new content could not be turned into JSON.
    #[error("cannot encode {path}")]
    Encode {
        /// The file.
        path: PathBuf,
    },
}

/// What an invite is worth to the device that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was sent to this teammate, and nobody else came by it.
    Open(To),
    /// Somebody came by it before.
    Used(To),
    /// It is too late.
    Ended(To),
}

/// The file of invites.
#[derive(Debug, Clone)]
pub(crate) struct SentInvites {
    path: PathBuf,
}

/// The invites as they were when the file was read.
#[derive(Debug, Default)]
pub(crate) struct Guests(Vec<Row>);

#[derive(Default, Serialize, Deserialize)]
struct File {
    #[serde(default)]
    invites: Vec<Row>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    email_prefix: String,
    /// Kept until the invite ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Zeroizing<String>>,
    expires_at: Timestamp,
    /// Whose it is: the first device that showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    /// When that device was let in; it is not let in by this invite again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joined_at: Option<Timestamp>,
}

impl SentInvites {
    /// The file, which need not exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers whom an invite was sent to.
    pub(crate) fn add(&self, to: &To, proof: &Proof, expires_at: Timestamp) -> Result<(), SentError> {
        self.edit(|rows| {
            rows.push(Row {
                name: to.name.clone(),
                email_prefix: to.email_prefix.clone(),
                proof: Some(Zeroizing::new(proof.expose().to_owned())),
                expires_at,
                device_id: None,
                joined_at: None,
            });
        })
    }

    /// Everybody we invited.
    pub(crate) fn read(&self) -> Result<Guests, SentError> {
        let bytes = private_file::read(&self.path)?;
        Ok(Guests(parse(&self.path, bytes.as_deref().map(Vec::as_slice))?.invites))
    }

    /// Gives an open invite to the device that shows it; says whether it is its.
    pub(crate) fn bind(&self, name: &str, device_id: &str) -> Result<bool, SentError> {
        let mut bound = false;
        self.edit(|rows| {
            if let Some(row) = rows.iter_mut().find(|row| row.is_shown_by(name, device_id)) {
                bound = row.joined_at.is_none()
                    && row.device_id.get_or_insert_with(|| device_id.to_owned()) == device_id;
            }
        })?;
        Ok(bound)
    }

    /// Remembers that a device is in that has shown its invite. Of one that has shown none nothing changes.
    pub(crate) fn joined(&self, device_id: &str) -> Result<(), SentError> {
        if self.read()?.shown_by(device_id).is_none() {
            return Ok(());
        }
        self.edit(|rows| {
            rows.retain(|row| row.joined_at.is_none() || !row.is_of(device_id));
            for row in rows.iter_mut().filter(|row| row.is_of(device_id)) {
                row.joined_at = Some(Timestamp::now());
            }
        })
    }

    /// Forgets a device whose access has ended, and the invite it may still hold.
    pub(crate) fn forget(&self, device_id: &str) -> Result<(), SentError> {
        // No file is made just to forget somebody.
        if self.read()?.0.iter().any(|row| row.is_of(device_id)) {
            self.edit(|rows| rows.retain(|row| !row.is_of(device_id)))?;
        }
        Ok(())
    }

    fn edit(&self, edit: impl FnOnce(&mut Vec<Row>)) -> Result<(), SentError> {
        private_file::update(&self.path, |bytes| {
            let mut file = parse(&self.path, bytes)?;
            edit(&mut file.invites);
            let now = Timestamp::now();
            // Of an invite that ended only who showed it is worth knowing.
            file.invites.retain(|row| row.device_id.is_some() || row.expires_at > now);
            for row in file.invites.iter_mut().filter(|row| row.expires_at <= now) {
                row.proof = None;
            }
            let mut json = serde_json::to_vec_pretty(&file)
                .map(Zeroizing::new)
                .map_err(|_| SentError::Encode { path: self.path.clone() })?;
            json.push(b'\n');
            Ok(Some(json))
        })
    }
}

impl Guests {
    /// What the invite is worth that a device shows; none, if it shows none of ours.
    pub(crate) fn standing(&self, name: &str, device_id: &str, now: Timestamp) -> Option<Standing> {
        let row = self.0.iter().find(|row| row.is_shown_by(name, device_id))?;
        let is_its = row.device_id.as_deref().is_none_or(|known| known == device_id);
        Some(match () {
            () if row.joined_at.is_some() || !is_its => Standing::Used(row.to()),
            () if row.expires_at <= now => Standing::Ended(row.to()),
            () => Standing::Open(row.to()),
        })
    }

    /// Whether an invite is good yet that nobody came by.
    pub(crate) fn awaits(&self, now: Timestamp) -> bool {
        self.0.iter().any(|row| row.joined_at.is_none() && row.expires_at > now)
    }

    /// Who showed an invite with this device, and is not told to be in by it.
    pub(crate) fn shown_by(&self, device_id: &str) -> Option<To> {
        let row = self.0.iter().rev().find(|row| row.joined_at.is_none() && row.is_of(device_id))?;
        Some(row.to())
    }

    /// Whose a device is: who came in with it last, else who showed an invite with it. One that showed the invites of two
    /// is nobody's.
    pub(crate) fn whose(&self, device_id: &str) -> Option<To> {
        let mut shown = self.0.iter().rev().filter(|row| row.is_of(device_id));
        if let Some(row) = shown.clone().find(|row| row.joined_at.is_some()) {
            return Some(row.to());
        }
        let last = shown.next()?;
        let is_same = |row: &Row| row.email_prefix.eq_ignore_ascii_case(&last.email_prefix);
        shown.all(is_same).then(|| last.to())
    }

    /// The devices that showed an invite, and whose they are.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (&str, To)> {
        let ids: BTreeSet<&str> = self.0.iter().filter_map(|row| row.device_id.as_deref()).collect();
        ids.into_iter().filter_map(|id| Some((id, self.whose(id)?)))
    }

    /// The devices of a teammate.
    pub(crate) fn devices_of<'a>(&'a self, email_prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let theirs = |to: &To| to.email_prefix.eq_ignore_ascii_case(email_prefix);
        self.devices().filter_map(move |(id, to)| theirs(&to).then_some(id))
    }
}

impl Row {
    fn to(&self) -> To {
        To { name: self.name.clone(), email_prefix: self.email_prefix.clone() }
    }

    fn is_of(&self, device_id: &str) -> bool {
        self.device_id.as_deref() == Some(device_id)
    }

    fn is_shown_by(&self, name: &str, device_id: &str) -> bool {
        let proof = self.proof.as_deref().and_then(|text| Proof::read(text));
        proof.is_some_and(|proof| proof.holds(name, device_id))
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("email_prefix", &self.email_prefix)
            .field("expires_at", &self.expires_at)
            .field("device_id", &self.device_id)
            .field("joined_at", &self.joined_at)
            .finish_non_exhaustive()
    }
}

fn parse(path: &Path, bytes: Option<&[u8]>) -> Result<File, SentError> {
    let Some(bytes) = bytes else { return Ok(File::default()) };
    serde_json::from_slice(bytes).map_err(|error| SentError::Malformed {
        path: path.into(),
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    fn sent() -> (tempfile::TempDir, SentInvites, Proof) {
        let folder = tempfile::tempdir().unwrap();
        let sent = SentInvites::new(folder.path().join("invites.json"));
        let proof = Proof::generate().unwrap();
        (folder, sent, proof)
    }

    fn alice() -> To {
        To { name: "Alice".into(), email_prefix: "alice".into() }
    }

    fn devices(sent: &SentInvites) -> Vec<(String, String)> {
        let guests = sent.read().unwrap();
        guests.devices().map(|(id, to)| (id.to_owned(), to.email_prefix)).collect()
    }

    fn soon() -> Timestamp {
        Timestamp::now() + 10.minutes()
    }

    #[test]
    fn an_invite_lets_one_device_in_once() {
        let (_folder, sent, proof) = sent();
        sent.add(&alice(), &proof, soon()).unwrap();
        let (hers, another) =
            (proof.sign("agent-mesh:alice", "hers"), proof.sign("agent-mesh:alice", "another"));
        let standing =
            |name: &str, device: &str| sent.read().unwrap().standing(name, device, Timestamp::now());
        assert_eq!(standing(&hers, "hers"), Some(Standing::Open(alice())));
        assert_eq!(standing(&hers, "another"), None);
        assert_eq!(standing("agent-mesh:alice", "hers"), None);

        assert!(sent.bind(&hers, "hers").unwrap());
        assert_eq!(devices(&sent), [("hers".to_owned(), "alice".to_owned())], "before it can say a word");
        assert_eq!(standing(&another, "another"), Some(Standing::Used(alice())));
        assert!(!sent.bind(&another, "another").unwrap());
        assert_eq!(standing(&hers, "hers"), Some(Standing::Open(alice())), "until it really came in");
        sent.joined("hers").unwrap();
        assert_eq!(standing(&hers, "hers"), Some(Standing::Used(alice())), "who was thrown out stays out");
        assert!(!sent.bind(&hers, "hers").unwrap());
        assert_eq!(sent.read().unwrap().whose("hers"), Some(alice()));
        assert_eq!(sent.read().unwrap().devices_of("ALICE").collect::<Vec<_>>(), ["hers"]);

        sent.forget("hers").unwrap();
        assert_eq!(sent.read().unwrap().whose("hers"), None);
        assert!(devices(&sent).is_empty());
    }

    #[test]
    fn a_device_that_was_let_in_is_whose_its_last_invite_was_for() {
        let (_folder, sent, hers) = sent();
        let (again, open) = (Proof::generate().unwrap(), Proof::generate().unwrap());
        let bob = To { name: "Bob".into(), email_prefix: "bob".into() };
        for (to, proof) in [(alice(), &hers), (bob.clone(), &again)] {
            sent.add(&to, proof, soon()).unwrap();
            sent.bind(&proof.sign("x", "d"), "d").unwrap();
            sent.joined("d").unwrap();
        }
        sent.add(&alice(), &open, soon()).unwrap();
        sent.bind(&open.sign("x", "d"), "d").unwrap();
        assert_eq!(devices(&sent), [("d".to_owned(), "bob".to_owned())]);
        assert_eq!(sent.read().unwrap().whose("d"), Some(bob), "as `pair list` has it");
    }

    #[test]
    fn of_an_invite_that_ended_only_who_came_is_kept() {
        let (_folder, sent, proof) = sent();
        let name = proof.sign("x", "hers");
        sent.add(&alice(), &proof, soon()).unwrap();
        let guests = sent.read().unwrap();
        assert_eq!(guests.standing(&name, "hers", soon() + 1.minute()), Some(Standing::Ended(alice())));
        sent.bind(&name, "hers").unwrap();
        sent.joined("hers").unwrap();
        let text = std::fs::read_to_string(&sent.path).unwrap();
        let ended = text.replace(&guests.0[0].expires_at.to_string(), "2026-01-01T00:00:00Z");
        private_file::write(&sent.path, ended.as_bytes()).unwrap();
        let other = Proof::generate().unwrap();
        sent.add(&alice(), &other, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let text = std::fs::read_to_string(&sent.path).unwrap();
        assert!(!text.contains(proof.expose()) && !text.contains(other.expose()), "{text}");
        assert_eq!(sent.read().unwrap().whose("hers"), Some(alice()));
    }

    #[test]
    fn a_device_that_showed_an_invite_keeps_its_name_when_that_ends() {
        let (_folder, sent, proof) = sent();
        sent.add(&alice(), &proof, soon()).unwrap();
        sent.bind(&proof.sign("x", "hers"), "hers").unwrap();
        let end = sent.read().unwrap().0[0].expires_at.to_string();
        let text = std::fs::read_to_string(&sent.path).unwrap();
        private_file::write(&sent.path, text.replace(&end, "2026-01-01T00:00:00Z").as_bytes()).unwrap();
        let other = Proof::generate().unwrap();
        sent.add(&alice(), &other, soon()).unwrap();
        assert_eq!(sent.read().unwrap().whose("hers"), Some(alice()), "it may have been approved by hand");
        assert_eq!(devices(&sent), [("hers".to_owned(), "alice".to_owned())]);
        sent.joined("another").unwrap();
        assert_eq!(
            sent.read().unwrap().shown_by("hers"),
            Some(alice()),
            "another's coming says nothing of it"
        );

        let bob = To { name: "Bob".into(), email_prefix: "bob".into() };
        let bobs = Proof::generate().unwrap();
        sent.add(&bob, &bobs, soon()).unwrap();
        sent.bind(&bobs.sign("x", "hers"), "hers").unwrap();
        let guests = sent.read().unwrap();
        assert_eq!((guests.whose("hers"), guests.devices().count()), (None, 0), "the invites of two");
    }

    #[test]
    fn a_file_of_another_shape_is_named_and_not_quoted() {
        let (_folder, sent, _) = sent();
        assert_eq!(sent.read().unwrap().whose("hers"), None, "no file, no guests");
        private_file::write(&sent.path, br#"{"invites": ["hunter2"]}"#).unwrap();
        let error = sent.read().unwrap_err();
        assert!(matches!(error, SentError::Malformed { line: 1, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
