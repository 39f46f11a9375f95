//! Device tokens: what a peer's gateway issued to our device key when its owner approved us.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use openclaw_client::Secret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{SecretsError, checked, prefix_map::PrefixMap};

/// A token that a peer's gateway issued to our device. Without our key it is worthless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceToken {
    /// The token.
    pub token: Secret,
    /// The device id (ours) it is bound to, 64 hex digits.
    pub device_id: String,
    /// The scopes it was granted; asking for more fails.
    pub scopes: Vec<String>,
    /// When we were given it.
    pub issued_at: Timestamp,
    /// The gateway that issued it.
    pub url: String,
}

/// What the file of device tokens holds, by lower-case prefix.
#[derive(Clone, Debug)]
pub struct DeviceTokens {
    /// The tokens for the device key we have now.
    pub ours: HashMap<String, DeviceToken>,
    /// Who issued a token, to whatever device.
    pub issuers: HashSet<String>,
}

/// `<state>/device-tokens.json`: device tokens by lower-case e-mail prefix.
#[derive(Clone, Debug)]
pub struct DeviceTokenStore {
    path: PathBuf,
}

impl DeviceTokenStore {
    /// The store in this file, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token a peer issued to the device `our_device_id`. One bound to another device is as good as none.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed, or this token is unusable.
    pub fn get(&self, email_prefix: &str, our_device_id: &str) -> Result<Option<DeviceToken>, SecretsError> {
        let key = email_prefix.to_lowercase();
        let row = PrefixMap::<Row>::read(&self.path)?.tokens.remove(&key);
        row.filter(|row| row.device_id == our_device_id).map(|row| row.into_token(&key)).transpose()
    }

    /// All of the file, as the device `our_device_id` sees it: one that is none yet has no token.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed, or a token of ours is unusable.
    pub fn all(&self, our_device_id: Option<&str>) -> Result<DeviceTokens, SecretsError> {
        let rows = PrefixMap::<Row>::read(&self.path)?.tokens;
        let issuers = rows.keys().cloned().collect();
        let mut ours = HashMap::new();
        for (key, row) in rows.into_iter().filter(|(_, row)| Some(row.device_id.as_str()) == our_device_id) {
            let token = row.into_token(&key)?;
            ours.insert(key, token);
        }
        Ok(DeviceTokens { ours, issuers })
    }

    /// The prefixes there is a device token for, whatever device it is bound to, sorted.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused or malformed.
    pub fn prefixes(&self) -> Result<Vec<String>, SecretsError> {
        Ok(PrefixMap::<Row>::read(&self.path)?.tokens.into_keys().collect())
    }

    /// Keeps the token a peer issued, in place of any before.
    ///
    /// # Errors
    /// [`SecretsError`] when the token is unusable, or the file is refused, malformed or cannot be written.
    pub fn set(&self, email_prefix: &str, token: &DeviceToken) -> Result<(), SecretsError> {
        self.set_all(&[(email_prefix.to_owned(), token.clone())])
    }

    /// Keeps the tokens that peers issued, all or none.
    ///
    /// # Errors
    /// As [`DeviceTokenStore::set`].
    pub(crate) fn set_all(&self, issued: &[(String, DeviceToken)]) -> Result<(), SecretsError> {
        for (email_prefix, token) in issued {
            checked(token.token.expose(), &email_prefix.to_lowercase())?;
        }
        PrefixMap::edit(&self.path, |tokens| {
            tokens.extend(issued.iter().map(|(prefix, token)| (prefix.to_lowercase(), Row::from(token))));
            true
        })
    }

    /// Forgets the token of a peer; says whether there was one.
    ///
    /// # Errors
    /// [`SecretsError`] when the file is refused, malformed or cannot be written.
    pub fn remove(&self, email_prefix: &str) -> Result<bool, SecretsError> {
        PrefixMap::<Row>::remove(&self.path, email_prefix)
    }
}

/// A device token as the file spells it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    device_token: Zeroizing<String>,
    device_id: String,
    scopes: Vec<String>,
    issued_at: Timestamp,
    url: String,
}

impl Row {
    fn into_token(self, email_prefix: &str) -> Result<DeviceToken, SecretsError> {
        Ok(DeviceToken {
            token: checked(&self.device_token, email_prefix)?,
            device_id: self.device_id,
            scopes: self.scopes,
            issued_at: self.issued_at,
            url: self.url,
        })
    }
}

impl From<&DeviceToken> for Row {
    fn from(token: &DeviceToken) -> Self {
        Self {
            device_token: Zeroizing::new(token.token.expose().to_owned()),
            device_id: token.device_id.clone(),
            scopes: token.scopes.clone(),
            issued_at: token.issued_at,
            url: token.url.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn token(device_id: &str) -> DeviceToken {
        DeviceToken {
            token: Secret::new("tok".into()),
            device_id: device_id.into(),
            scopes: vec!["operator.read".into(), "operator.write".into()],
            issued_at: "2026-11-23T10:00:00Z".parse().unwrap(),
            url: "ws://10.0.0.10:18789".into(),
        }
    }

    fn store() -> (tempfile::TempDir, DeviceTokenStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device-tokens.json");
        (dir, DeviceTokenStore::new(path))
    }

    #[test]
    fn set_get_remove() {
        let (_dir, store) = store();
        assert_eq!(store.get("bob", "aa").unwrap(), None);
        store.set("Bob", &token("aa")).unwrap();
        assert_eq!(store.get("bob", "aa").unwrap(), Some(token("aa")));
        assert_eq!(store.prefixes().unwrap(), ["bob"]);
        assert!(store.remove("BOB").unwrap());
        assert!(!store.remove("bob").unwrap());
    }

    #[test]
    fn a_token_bound_to_another_device_is_ignored() {
        let (_dir, store) = store();
        store.set("bob", &token("old")).unwrap();
        assert_eq!(store.get("bob", "new").unwrap(), None);
    }

    #[test]
    fn the_file_spells_it_so() {
        let (_dir, store) = store();
        store.set("bob", &token("aa")).unwrap();
        let content: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
        let expected = json!({"tokens": {"bob": {
            "deviceToken": "tok",
            "deviceId": "aa",
            "scopes": ["operator.read", "operator.write"],
            "issuedAt": "2026-11-23T10:00:00Z",
            "url": "ws://10.0.0.10:18789"
        }}});
        assert_eq!(content, expected);
    }

    #[test]
    fn debug_and_errors_show_no_token() {
        let (_dir, store) = store();
        let mut row = token("aa");
        row.token = Secret::new("hunter2".into());
        assert!(!format!("{row:?}").contains("hunter2"));
        crate::private_file::write(
            store.path(),
            br#"{"tokens": {"bob": {"deviceToken": "hunter2", "issuedAt": "x"}}}"#,
        )
        .unwrap();
        let error = store.get("bob", "aa").unwrap_err();
        assert!(matches!(error, SecretsError::Malformed { line: 1, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
