//! The registry: who is in the team, and how to reach them.
//!
//! The file is the bash skill's, plus optional fields. People edit it by hand and other tools read it, so a rewrite keeps
//! every field it does not know.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use openclaw_client::{Endpoint, EndpointError, Fingerprint, check_http_url};
use schemars::{JsonSchema, schema_for};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::private_file::{self, PrivateFileError};

mod address;
mod lookup;

pub use address::NoAddress;
pub use lookup::{Candidate, LookupError};

/// The team: `registry.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "an object with a list `agents`")]
pub struct Registry {
    /// Where the JSON Schema of this file is, for editors.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The teammates, in the order of the file.
    pub agents: Vec<Agent>,
    /// Where the team keeps the original of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_doc_url: Option<String>,
    /// When `agent-mesh sync` last changed this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<String>,
    /// The domains of the team's addresses; any, if none are known. Not a part of the file.
    #[serde(skip)]
    pub email_domains: Vec<String>,
    /// Fields of others, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One teammate's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a teammate: an object with name and emailPrefix")]
pub struct Agent {
    /// The name people see.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Another name, in any script; `redName` is the same thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    /// Another name, in any script; the bash skill's spelling of `nickname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub red_name: Option<String>,
    /// The local part of the teammate's e-mail address: the key of this file, whatever its case.
    #[schemars(length(min = 1), regex(pattern = r"^[^@\s]+$"))]
    pub email_prefix: String,
    /// IPv4 or IPv6 address, with a port if it is not 18789. Empty while it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Host name, with a port if it is not 18789.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port of `ip` and `hostname` where they name none; 18789 when absent.
    #[serde(default, deserialize_with = "port", skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// `ws://` or `wss://` address; wins over `ip` and `hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// SHA-256 of the certificate the gateway must show, 64 hex digits, colons allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$"))]
    pub tls_fingerprint: Option<String>,
    /// Which agent of the gateway to talk to; `main` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The session to talk in; one per sender when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How messages reach this teammate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Labels that a broadcast can select by.
    #[serde(default, deserialize_with = "null_is_none", skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The id of the teammate's own device key, 64 lower-case hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub device_id: Option<String>,
    /// `http://` or `https://` address of the teammate's A2A endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a2a_url: Option<String>,
    /// The source that `agent-mesh sync` had this entry from; it is removed when it is no longer listed there. Entries
    /// made by hand have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A token that does not belong here: see [`InlineToken`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub token: Option<InlineToken>,
    /// Fields of others, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A port, which scripts also write as a text.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    const EXPECTED: &str = "expected a port from 1 to 65535";
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a port from 1 to 65535")]
    enum Port {
        Number(NonZeroU16),
        Text(String),
    }
    match Option::<Port>::deserialize(deserializer)? {
        Some(Port::Number(port)) => Ok(Some(port)),
        Some(Port::Text(text)) if !text.trim().is_empty() => {
            text.trim().parse().map(Some).map_err(|_| D::Error::custom(EXPECTED))
        }
        _ => Ok(None),
    }
}

fn null_is_none<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// How a message reaches a teammate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The gateway's `agent` method.
    #[default]
    Agent,
    /// The gateway's chat methods, as the bash skill did.
    Chat,
    /// The A2A protocol over HTTP.
    A2a,
}

/// A token somebody wrote into the registry. It has no business there and is never used; it is only kept on a rewrite.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InlineToken(Value);

impl fmt::Debug for InlineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InlineToken(redacted)")
    }
}

/// Why the registry cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// There is no such file.
    #[error("there is no registry at {path}")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is no JSON, or an entry lacks a field or has one of the wrong type.
    #[error("{path}:{line}:{column}: malformed at {at}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The place inside the document, such as `agents[1].ip`.
        at: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A field has a value it cannot have. The value is not repeated: an URL may hold a password.
    #[error("{path}: {entry} has an invalid {field}")]
    InvalidField {
        /// The file.
        path: PathBuf,
        /// Which entry, such as `agents[1] (Bob)`.
        entry: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: FieldError,
    },
    /// Two entries have one e-mail prefix, perhaps in different case.
    #[error("{path}: {first} and {second} both have the emailPrefix {email_prefix}")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The prefix, lower-case.
        email_prefix: String,
        /// One entry.
        first: String,
        /// The other.
        second: String,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] PrivateFileError),
    /// The registry could not be turned into JSON.
    #[error("cannot encode {path}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// What is wrong with the value of a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// It is blank.
    #[error("it is empty")]
    Empty,
    /// An e-mail prefix with a domain, white space or a control character.
    #[error("it is not the part of an e-mail address before the @")]
    NotAPrefix,
    /// A fingerprint or id of another length or alphabet.
    #[error("it is not {0}")]
    NotHex(&'static str),
    /// A URL that cannot be dialled.
    #[error(transparent)]
    Url(#[from] EndpointError),
}

impl Registry {
    /// Reads and checks a registry.
    ///
    /// # Errors
    /// [`RegistryError`] when the file is missing, unreadable, malformed, or holds one e-mail prefix twice.
    pub fn load(path: &Path) -> Result<Self, RegistryError> {
        match fs::read(path) {
            Ok(bytes) => Self::parse(&bytes, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RegistryError::Missing { path: path.into() })
            }
            Err(source) => Err(RegistryError::Unreadable { path: path.into(), source }),
        }
    }

    /// Parses and checks a registry that came from `origin`, which only serves to name it in errors.
    ///
    /// # Errors
    /// [`RegistryError`] when it is malformed or holds one e-mail prefix twice.
    pub fn parse(json: &[u8], origin: &Path) -> Result<Self, RegistryError> {
        let malformed = |at: String, source: serde_json::Error| RegistryError::Malformed {
            path: origin.into(),
            line: source.line(),
            column: source.column(),
            at,
            source,
        };
        let registry: Self = match serde_json::from_slice(json) {
            Ok(registry) => registry,
            // Read once more for the place: to keep that in mind takes as long as all the rest.
            Err(error) => {
                let mut parser = serde_json::Deserializer::from_slice(json);
                serde_path_to_error::deserialize::<_, Self>(&mut parser)
                    .map_err(|error| malformed(place(error.path()), error.into_inner()))?;
                return Err(malformed("the end".into(), error));
            }
        };
        registry.check(origin)?;
        Ok(registry)
    }

    /// Writes the registry: all at once, keeping the mode of the file and every field, with a final line break.
    ///
    /// # Errors
    /// [`RegistryError`] when an entry is invalid, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), RegistryError> {
        Ok(private_file::write_keeping_mode(path, &self.to_json(path)?)?)
    }

    /// The content of the file `path`.
    pub(crate) fn to_json(&self, path: &Path) -> Result<Vec<u8>, RegistryError> {
        self.check(path)?;
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|source| RegistryError::Encode { path: path.into(), source })?;
        json.push(b'\n');
        Ok(json)
    }

    pub(crate) fn check(&self, path: &Path) -> Result<(), RegistryError> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (index, agent) in self.agents.iter().enumerate() {
            agent.check().map_err(|(field, source)| RegistryError::InvalidField {
                path: path.into(),
                entry: self.entry(index),
                field,
                source,
            })?;
            let email_prefix = agent.email_prefix.to_lowercase();
            if let Some(first) = seen.insert(email_prefix.clone(), index) {
                let (first, second) = (self.entry(first), self.entry(index));
                return Err(RegistryError::Duplicate { path: path.into(), email_prefix, first, second });
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> String {
        let name = self.agents.get(index).map_or("", |agent| agent.name.trim());
        if name.is_empty() { format!("agents[{index}]") } else { format!("agents[{index}] ({name})") }
    }
}

impl Agent {
    /// An entry with nothing but a name and the e-mail prefix.
    pub fn new(name: impl Into<String>, email_prefix: impl Into<String>) -> Self {
        Self { name: name.into(), email_prefix: email_prefix.into(), ..Self::default() }
    }

    /// The other name of this teammate, whichever way the file spells the field.
    pub fn nickname(&self) -> Option<&str> {
        filled(&self.nickname).or(filled(&self.red_name))
    }

    /// The entry as it may be shown: a token somebody wrote into it is no less a secret there.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// Whether somebody wrote a token into this entry. It is never used; tokens belong into `tokens.json`.
    pub fn has_inline_token(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.0 != "")
    }

    /// The pinned SHA-256 of the gateway's certificate.
    ///
    /// # Errors
    /// [`FieldError::NotHex`] when the field is not 64 hex digits; [`Registry::load`] has checked that.
    pub fn tls_pin(&self) -> Result<Option<Fingerprint>, FieldError> {
        let pin = filled(&self.tls_fingerprint).map(str::parse).transpose();
        pin.map_err(|_| FieldError::NotHex("a SHA-256 fingerprint of 64 hex digits"))
    }

    /// The first field with an impossible value, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, FieldError)> {
        let named = |field: &'static str| move |error: FieldError| (field, error);
        if self.name.trim().is_empty() {
            return Err(("name", FieldError::Empty));
        }
        check_prefix(&self.email_prefix).map_err(named("emailPrefix"))?;
        if let Some(url) = filled(&self.url) {
            url.parse::<Endpoint>().map_err(|error| ("url", error.into()))?;
        }
        if let Some(url) = filled(&self.a2a_url) {
            check_http_url(url).map_err(|error| ("a2aUrl", error.into()))?;
        }
        self.tls_pin().map_err(named("tlsFingerprint"))?;
        filled(&self.device_id).map_or(Ok(()), check_device_id).map_err(named("deviceId"))
    }
}

/// The JSON Schema of `registry.json`, for editors and for `docs/`.
pub fn registry_schema() -> Value {
    schema_for!(Registry).to_value()
}

fn place(path: &serde_path_to_error::Path) -> String {
    if path.iter().next().is_none() { "the top level".into() } else { path.to_string() }
}

/// A field's text, if there is any. The bash skill leaves empty strings where it knows nothing.
fn filled(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn check_prefix(prefix: &str) -> Result<(), FieldError> {
    if prefix.is_empty() {
        Err(FieldError::Empty)
    } else if prefix.contains(|c: char| c == '@' || c.is_whitespace() || c.is_control()) {
        Err(FieldError::NotAPrefix)
    } else {
        Ok(())
    }
}

pub(crate) fn check_device_id(id: &str) -> Result<(), FieldError> {
    let valid = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if valid { Ok(()) } else { Err(FieldError::NotHex("64 lower-case hex digits")) }
}

#[cfg(test)]
mod tests;
