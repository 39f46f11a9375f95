//! `policy.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::rules::{Mode, RuleSet};
use super::{PeerEntry, Policy, Tag};
use crate::secret::TokenHash;

/// A policy that cannot be used. No value of the file is repeated: one of them may be a token that does not belong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<RuleSet>,
    #[serde(default)]
    tags: BTreeMap<String, RuleSet>,
    #[serde(default)]
    peers: BTreeMap<String, toml::Spanned<toml::Table>>,
}

/// What a peer's table has beside rules.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Credentials {
    device_id: Option<String>,
    token: Option<String>,
}

impl Policy {
    /// Reads a policy. Strangers are denied unless it says otherwise; whoever is named, or has a tag that is named, may
    /// talk unless it says otherwise.
    ///
    /// # Errors
    /// When it is no TOML, has an unknown key, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let place = |at: usize, why: String| PolicyError { line: 1 + text[..at].matches('\n').count(), why };
        let file: File = toml::from_str(text).map_err(|error| {
            place(error.span().map_or(0, |span| span.start.min(text.len())), facts(error.message()))
        })?;
        let mut default = file.default.unwrap_or_default();
        default.mode.get_or_insert(Mode::Deny);
        let tags = file.tags.into_iter().map(|(name, rules)| (tag(&name), rules)).collect();
        let mut policy = Self { default, tags, peers: BTreeMap::new() };
        for (key, table) in file.peers {
            let at = table.span().start;
            let entry = peer(table.into_inner()).map_err(|why| place(at, format!("peers.{key}: {why}")))?;
            if policy.peers.insert(key.to_lowercase(), entry).is_some() {
                return Err(place(at, format!("peers.{key}: there is another in other letters")));
            }
        }
        Ok(policy)
    }
}

fn tag(name: &str) -> Tag {
    let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
    Tag { name: name.to_owned(), value: value.map(str::to_owned) }
}

fn peer(mut table: toml::Table) -> Result<PeerEntry, String> {
    let mut credentials = toml::Table::new();
    for key in ["device-id", "token"] {
        credentials.extend(table.remove_entry(key));
    }
    let read = |error: toml::de::Error| facts(error.message());
    let credentials: Credentials = credentials.try_into().map_err(read)?;
    let rules: RuleSet = table.try_into().map_err(read)?;
    let token = credentials.token.map(|text| text.parse::<TokenHash>()).transpose();
    let token = token.map_err(|_| "token is not the hash that `agent-mesh token issue` writes")?;
    let is_id =
        |id: &String| id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if credentials.device_id.as_ref().is_some_and(|id| !is_id(id)) {
        return Err("device-id is not 64 lower-case hex digits".to_owned());
    }
    Ok(PeerEntry { rules, device_id: credentials.device_id, token })
}

/// What a parser says, without the value it complains about.
fn facts(message: &str) -> String {
    let flat = message.trim().replace('\n', " ");
    if let Some(allowed) = flat.strip_prefix("unknown variant").and_then(|rest| rest.split_once("expected")) {
        return format!("unknown value, expected{}", allowed.1);
    }
    match (flat.find('"'), flat.rfind('"')) {
        (Some(start), Some(end)) if start < end => format!("{}…{}", &flat[..start], &flat[end + 1..]),
        _ => flat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Policy::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = refused("[default]\nmode = \"deny\"\nrunz-per-day = 1");
        assert!(error.starts_with("line 3: unknown field `runz-per-day`"), "{error}");
        let error = refused("[peers.alice]\nmessage_bytes = 1");
        assert!(error.starts_with("line 1: peers.alice: unknown field `message_bytes`"), "{error}");
        assert!(refused("[strangers]\n").contains("unknown field `strangers`"));
        assert!(refused("mode = 1").contains("unknown field `mode`"));
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_and_not_repeated() {
        let token = "a-token-that-does-not-belong-here";
        for text in [
            format!("[peers.alice]\ntoken = \"{token}\""),
            format!("[peers]\nalice = \"{token}\""),
            format!("[peers.alice]\nmode = \"{token}\""),
            format!("[peers.alice]\nruns-per-day = \"{token}\""),
            format!("[default]\nstream = \"{token}\""),
            format!("[peers.alice]\ndevice-id = \"{token}\""),
            format!("[peers.alice]\ntoken = {token}"),
        ] {
            let error = refused(&text);
            assert!(!error.contains(token), "{error}");
        }
        assert!(refused("[default]\nruns-per-day = -1").starts_with("line 2: "));
        assert!(refused("[peers.alice]\n[peers.Alice]\n").contains("other letters"));
    }

    #[test]
    fn an_empty_file_denies_everybody_nobody_named() {
        assert_eq!(Policy::parse("").unwrap().rules(&crate::Member::default()).mode, Mode::Deny);
    }
}
