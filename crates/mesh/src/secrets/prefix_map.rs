//! The shape both token files share: `{"tokens": {"<emailPrefix>": …}}`, plus whatever else their owner put in.

use std::{collections::BTreeMap, fmt, marker::PhantomData, path::Path};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::SecretsError;
use crate::private_file;

/// Enough spare room to rewrite a file with one more entry, so that the buffer does not move and leave a copy behind.
const ROOM_FOR_ONE_MORE: usize = 4096;

/// One token file in memory. The keys are lower-case.
#[derive(Serialize)]
pub(super) struct PrefixMap<T> {
    pub tokens: BTreeMap<String, T>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl<T: Serialize + DeserializeOwned> PrefixMap<T> {
    /// What the file holds; nothing when it is missing.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let bytes = private_file::read(path)?;
        Self::parse(path, bytes.as_deref().map(Vec::as_slice))
    }

    /// Changes the entries under the lock of the file, which is rewritten only if `edit` says that something changed.
    pub fn edit(
        path: &Path,
        edit: impl FnOnce(&mut BTreeMap<String, T>) -> bool,
    ) -> Result<(), SecretsError> {
        private_file::update(path, |bytes| {
            let mut file = Self::parse(path, bytes)?;
            if !edit(&mut file.tokens) {
                return Ok(None);
            }
            let size = bytes.map_or(0, <[u8]>::len) * 2 + ROOM_FOR_ONE_MORE;
            let mut new = Zeroizing::new(Vec::with_capacity(size));
            serde_json::to_writer_pretty(&mut *new, &file)
                .map_err(|_| SecretsError::Encode { path: path.into() })?;
            new.push(b'\n');
            Ok(Some(new))
        })
    }

    /// Takes one entry out; says whether it was there. A missing file is not created for that.
    pub fn remove(path: &Path, email_prefix: &str) -> Result<bool, SecretsError> {
        let key = email_prefix.to_lowercase();
        if !Self::read(path)?.tokens.contains_key(&key) {
            return Ok(false);
        }
        let mut found = false;
        Self::edit(path, |tokens| {
            found = tokens.remove(&key).is_some();
            found
        })?;
        Ok(found)
    }

    fn parse(path: &Path, bytes: Option<&[u8]>) -> Result<Self, SecretsError> {
        let Some(bytes) = bytes else { return Ok(Self { tokens: BTreeMap::new(), extra: Map::new() }) };
        let file: Wire<T> = serde_json::from_slice(bytes).map_err(|error| SecretsError::Malformed {
            path: path.into(),
            line: error.line(),
            column: error.column(),
            expected: match error.classify() {
                serde_json::error::Category::Data => "not of the shape {\"tokens\": {\"<emailPrefix>\": …}}",
                _ => "not valid JSON",
            },
        })?;
        let mut tokens = BTreeMap::new();
        for (email_prefix, token) in file.tokens.0 {
            let email_prefix = email_prefix.to_lowercase();
            if tokens.contains_key(&email_prefix) {
                return Err(SecretsError::Duplicate { path: path.into(), email_prefix });
            }
            tokens.insert(email_prefix, token);
        }
        Ok(Self { tokens, extra: file.extra })
    }
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Wire<T> {
    #[serde(default)]
    tokens: Entries<T>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A JSON object as the list of its entries: a map would silently keep the last of two equal keys.
struct Entries<T>(Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}
