//! The tokens we hold for other peers' gateways: shared ones, given to us, and device tokens, issued to our key.
//!
//! Both files map e-mail prefixes to secrets and are read afresh each time, so that an edit made meanwhile counts.
//! No error of this module carries any content of a file except e-mail prefixes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use openclaw_client::Secret;
use zeroize::Zeroizing;

use crate::merged::Merged;
use crate::private_file::PrivateFileError;

mod device_tokens;
mod prefix_map;

pub use device_tokens::{DeviceToken, DeviceTokenStore, DeviceTokens};
use prefix_map::PrefixMap;

/// Why a token could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The file was refused, unreadable or could not be written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file is no JSON, or JSON of another shape. The parser's own words are left out: they quote the file.
    #[error("{path}:{line}:{column}: {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// One e-mail prefix is there twice, perhaps in different case.
    #[error("{path} has two entries for {email_prefix}")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The prefix, lower-case.
        email_prefix: String,
    },
    /// The token is blank.
    #[error("the token for {email_prefix} is empty")]
    Empty {
        /// Whose.
        email_prefix: String,
    },
    /// The token has a line break or another control character in it: most likely more than the token was pasted.
    #[error("the token for {email_prefix} has a control character in it")]
    ControlCharacter {
        /// Whose.
        email_prefix: String,
    },
    /// The new content could not be turned into JSON.
    #[error("cannot encode {path}")]
    Encode {
        /// The file.
        path: PathBuf,
    },
}

/// `tokens.json`: shared tokens, ours for other peers, by lower-case e-mail prefix.
#[derive(Clone, Debug)]
pub struct TokenStore {
    path: PathBuf,
}

impl TokenStore {
    /// The store in this file, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token for a peer. A missing file holds no tokens, and a blank one is none: so a peer stands there who has no token yet.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed, or this token is unusable.
    pub fn get(&self, email_prefix: &str) -> Result<Option<Secret>, SecretsError> {
        let key = email_prefix.to_lowercase();
        let token = self.read()?.find(|(prefix, _)| *prefix == key);
        token.map(|(key, token)| checked(&token, &key)).transpose()
    }

    /// All tokens, by lower-case prefix.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed, or a token is unusable.
    pub fn all(&self) -> Result<HashMap<String, Secret>, SecretsError> {
        self.read()?.map(|(key, token)| Ok((key.clone(), checked(&token, &key)?))).collect()
    }

    /// Those that are not blank.
    fn read(&self) -> Result<impl Iterator<Item = (String, Zeroizing<String>)>, SecretsError> {
        let tokens = PrefixMap::<Zeroizing<String>>::read(&self.path)?.tokens;
        Ok(tokens.into_iter().filter(|(_, token)| !token.trim().is_empty()))
    }

    /// The prefixes there is a token for, sorted.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed.
    pub fn prefixes(&self) -> Result<Vec<String>, SecretsError> {
        Ok(self.read()?.map(|(key, _)| key).collect())
    }

    /// Keeps a token for a peer, in place of any before. White space around it is dropped.
    ///
    /// # Errors
    /// [`SecretsError`] when the token is unusable, or the file is refused, malformed or cannot be written.
    pub fn set(&self, email_prefix: &str, token: &Secret) -> Result<(), SecretsError> {
        let key = email_prefix.to_lowercase();
        let token = checked(token.expose(), &key)?;
        PrefixMap::<Zeroizing<String>>::edit(&self.path, |tokens| {
            tokens.insert(key, Zeroizing::new(token.expose().to_owned()));
            true
        })
    }

    /// Takes over tokens of somebody else's file. One that we hold already stays, unless `overwrite`. All or none.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused, malformed or cannot be written.
    pub fn merge(&self, others: &HashMap<String, Secret>, overwrite: bool) -> Result<Merged, SecretsError> {
        let mut merged = Merged::default();
        PrefixMap::<Zeroizing<String>>::edit(&self.path, |tokens| {
            for (email_prefix, token) in others {
                let known = tokens.get(email_prefix).filter(|known| !known.trim().is_empty());
                let same = known.is_some_and(|known| known.trim() == token.expose());
                let change = !same && (known.is_none() || overwrite);
                merged.note(email_prefix, known.is_some(), change);
                if change {
                    tokens.insert(email_prefix.clone(), Zeroizing::new(token.expose().to_owned()));
                }
            }
            merged.changes()
        })?;
        Ok(merged.sorted())
    }

    /// Forgets the token for a peer; says whether there was one.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused, malformed or cannot be written.
    pub fn remove(&self, email_prefix: &str) -> Result<bool, SecretsError> {
        PrefixMap::<Zeroizing<String>>::remove(&self.path, email_prefix)
    }
}

/// The token without white space around it, if it can be one.
fn checked(token: &str, email_prefix: &str) -> Result<Secret, SecretsError> {
    let token = token.trim();
    if token.is_empty() {
        return Err(SecretsError::Empty { email_prefix: email_prefix.into() });
    }
    if token.contains(char::is_control) {
        return Err(SecretsError::ControlCharacter { email_prefix: email_prefix.into() });
    }
    Ok(Secret::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use serde_json::{Value, json};

    use super::*;
    use crate::private_file;

    fn store(content: Option<&str>) -> (tempfile::TempDir, TokenStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        if let Some(content) = content {
            private_file::write(&path, content.as_bytes()).unwrap();
        }
        (dir, TokenStore::new(path))
    }

    fn secret(token: &str) -> Secret {
        Secret::new(token.into())
    }

    #[test]
    fn missing_file_is_no_tokens() {
        let (_dir, store) = store(None);
        assert_eq!(store.get("bob").unwrap(), None);
        assert!(store.prefixes().unwrap().is_empty());
        assert!(!store.remove("bob").unwrap());
        assert!(!store.path().exists());
    }

    #[test]
    fn set_get_remove() {
        let (_dir, store) = store(None);
        store.set("Bob", &secret(" tok-b \n")).unwrap();
        store.set("alice", &secret("tok-a")).unwrap();
        assert_eq!(store.get("BOB").unwrap(), Some(secret("tok-b")));
        assert_eq!(store.prefixes().unwrap(), ["alice", "bob"]);
        store.set("bob", &secret("new")).unwrap();
        assert_eq!(store.get("bob").unwrap(), Some(secret("new")));
        assert!(store.remove("bob").unwrap());
        assert_eq!(store.get("bob").unwrap(), None);
        let content: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
        assert_eq!(content, json!({"tokens": {"alice": "tok-a"}}));
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let (_dir, store) = store(Some(r#"{"_comment": "ours", "tokens": {"Bob": "tok"}, "version": 1}"#));
        store.set("carol", &secret("tok-c")).unwrap();
        let content: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
        assert_eq!(
            content,
            json!({"_comment": "ours", "version": 1, "tokens": {"bob": "tok", "carol": "tok-c"}})
        );
    }

    #[test]
    fn malformed_file_names_the_place_and_no_content() {
        for (content, place) in [
            ("{\n  \"tokens\": {\"bob\": hunter2}\n}", ":2:21: "),
            (r#"{"tokens": "hunter2"}"#, ":1:20: "),
            (r#"{"tokens": {"bob": ["hunter2"]}}"#, ":1:19: "),
            (r#"{"tokens": {"bob": "hunter2"}"#, ":1:29: "),
            ("", ":1:0: "),
            ("[\"hunter2\"]", ":1:0: "),
        ] {
            let (_dir, store) = store(Some(content));
            for error in [
                store.get("bob").unwrap_err(),
                store.set("bob", &secret("new")).unwrap_err(),
                store.prefixes().unwrap_err(),
            ] {
                let expected = format!("{}{place}", store.path().display());
                assert!(error.to_string().starts_with(&expected), "{content}: {error}");
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
            }
            assert_eq!(fs::read_to_string(store.path()).unwrap(), content, "a malformed file is left alone");
        }
    }

    #[test]
    fn one_prefix_twice_is_an_error() {
        for content in [
            r#"{"tokens": {"bob": "hunter1", "bob": "hunter2"}}"#,
            r#"{"tokens": {"bob": "hunter1", "BOB": "hunter2"}}"#,
        ] {
            let (_dir, store) = store(Some(content));
            let error = store.get("bob").unwrap_err();
            assert_eq!(error.to_string(), format!("{} has two entries for bob", store.path().display()));
        }
    }

    #[test]
    fn unusable_tokens_are_refused_only_for_their_peer() {
        let (_dir, store) = store(Some(r#"{"tokens": {"bob": "  ", "carol": "a\nb", "dan": " tok\n"}}"#));
        assert_eq!(store.get("bob").unwrap(), None, "his place is there, and no token in it");
        assert_eq!(store.prefixes().unwrap(), ["carol", "dan"]);
        assert!(matches!(store.get("carol"), Err(SecretsError::ControlCharacter { .. })));
        assert_eq!(store.get("dan").unwrap(), Some(secret("tok")));
        assert!(matches!(store.set("bob", &secret(" \t")), Err(SecretsError::Empty { .. })));
        assert!(matches!(store.set("bob", &secret("a\u{1b}b")), Err(SecretsError::ControlCharacter { .. })));
    }

    #[test]
    fn ours_win_a_merge_unless_told_otherwise() {
        let (_dir, store) = store(Some(r#"{"tokens": {"bob": "ours", "dan": "same"}}"#));
        let theirs = ["bob", "carol", "dan"]
            .map(|name| (name.to_owned(), secret(if name == "dan" { "same" } else { "theirs" })));
        let merged = store.merge(&theirs.clone().into(), false).unwrap();
        assert_eq!((merged.added, merged.kept), (vec!["carol".to_owned()], vec!["bob".into(), "dan".into()]));
        assert_eq!(store.get("bob").unwrap(), Some(secret("ours")));
        let merged = store.merge(&theirs.into(), true).unwrap();
        assert_eq!(merged.replaced, ["bob"]);
        assert_eq!(store.get("bob").unwrap(), Some(secret("theirs")));
    }

    #[test]
    fn concurrent_edits_lose_no_entry() {
        let (_dir, store) = store(None);
        thread::scope(|scope| {
            for i in 0..16 {
                let store = &store;
                scope.spawn(move || store.set(&format!("peer{i:02}"), &secret("tok")).unwrap());
            }
        });
        assert_eq!(store.prefixes().unwrap().len(), 16);
    }

    #[test]
    fn wide_mode_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, store) = store(Some("{}"));
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = store.get("bob").unwrap_err();
        assert!(matches!(error, SecretsError::File(PrivateFileError::WideMode { .. })), "{error}");
    }
}
