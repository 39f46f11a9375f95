//! What peers may do. No IO: the text of `policy.toml` goes in, the [`Rules`] of a member come out.
//!
//! What is said of a peer by name goes before what is said of its tags, and that before what is said of everybody; each
//! key for itself. Where two tags of a peer disagree, the stricter one holds.

use std::collections::BTreeMap;

use crate::principal::Member;
use crate::secret::TokenHash;

mod file;
mod rules;

pub use file::PolicyError;
pub use rules::{Mode, Names, Rules};

use rules::RuleSet;

/// Who may do what.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    default: RuleSet,
    tags: BTreeMap<Tag, RuleSet>,
    peers: BTreeMap<String, PeerEntry>,
}

/// A label of the registry: `team=infra`, or `team` whatever its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tag {
    name: String,
    value: Option<String>,
}

/// What is said of one peer.
#[derive(Debug, Clone, Default)]
struct PeerEntry {
    rules: RuleSet,
    device_id: Option<String>,
    token: Option<TokenHash>,
}

impl Policy {
    /// The policy where there is no file: whoever was let in may talk, within the default limits.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// What a member may do.
    #[must_use]
    pub fn rules(&self, member: &Member) -> Rules {
        let named = self.peers.get(&member.key).map(|entry| entry.rules.clone());
        let tagged = self.tags.iter().filter(|(tag, _)| tag.fits(member)).map(|(_, rules)| rules.clone());
        let tagged = tagged.reduce(RuleSet::stricter);
        let is_stranger = named.is_none() && tagged.is_none();
        let mut rules = named.unwrap_or_default().or(tagged.unwrap_or_default());
        if !is_stranger && self.default.mode == Some(Mode::Deny) {
            // That denies strangers.
            rules.mode.get_or_insert(Mode::Allow);
        }
        rules.or(self.default.clone()).complete()
    }

    /// Whose token this is. Every hash is looked at, so that the time tells nothing.
    pub(crate) fn holder(&self, token: &str) -> Option<(&str, TokenHash)> {
        let shown = TokenHash::of(token);
        let held = self.peers.iter().filter_map(|(key, entry)| Some((key.as_str(), entry.token?)));
        held.fold(None, |found, (key, hash)| if hash.is(&shown) { Some((key, hash)) } else { found })
    }

    /// Whose token had this hash.
    pub(crate) fn holder_of(&self, hash: TokenHash) -> Option<&str> {
        let mut held = self.peers.iter();
        held.find(|(_, entry)| entry.token == Some(hash)).map(|(key, _)| key.as_str())
    }

    /// Who was named as the holder of a device.
    pub(crate) fn named(&self, device_id: &str) -> Option<&str> {
        let mut peers = self.peers.iter();
        peers.find(|(_, entry)| entry.device_id.as_deref() == Some(device_id)).map(|(key, _)| key.as_str())
    }

    /// Whether something is said of this peer by name.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.peers.contains_key(key)
    }

    /// The peers that hold a token of ours, and those that only have rules.
    pub fn peers(&self) -> impl Iterator<Item = (&str, bool)> {
        self.peers.iter().map(|(key, entry)| (key.as_str(), entry.token.is_some()))
    }
}

impl Tag {
    fn fits(&self, member: &Member) -> bool {
        let held = member.tags.get(&self.name);
        held.is_some_and(|held| self.value.as_ref().is_none_or(|value| value == held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [default]
        mode = "deny"
        message-bytes = 1000

        [tags."team=infra"]
        mode = "approve"
        runs-per-day = 10
        sessions = ["main", "deploy:*"]

        [tags.team]
        mode = "allow"
        runs-per-day = 20

        [peers.Alice]
        mode = "allow"
        permission-mode = "full"
    "#;

    fn member(key: &str, tags: &[(&str, &str)]) -> Member {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Member { key: key.into(), tags, ..Member::default() }
    }

    #[test]
    fn a_name_goes_before_a_tag_and_that_before_the_default() {
        let policy = Policy::parse(POLICY).unwrap();
        let stranger = policy.rules(&member("mallory", &[]));
        assert_eq!((stranger.mode, stranger.message_bytes), (Mode::Deny, 1000));
        let alice = policy.rules(&member("alice", &[("team", "infra")]));
        assert_eq!((alice.mode, alice.runs_per_day, alice.message_bytes), (Mode::Allow, 10, 1000));
        assert_eq!(alice.permission_mode, "full");
    }

    #[test]
    fn of_two_tags_the_stricter_holds_key_by_key() {
        let policy = Policy::parse(POLICY).unwrap();
        let bob = policy.rules(&member("bob", &[("team", "infra")]));
        assert_eq!((bob.mode, bob.runs_per_day), (Mode::Approve, 10));
        assert!(bob.sessions.allow("deploy:prod") && !bob.sessions.allow("other"));
        let carol = policy.rules(&member("carol", &[("team", "web")]));
        assert_eq!((carol.mode, carol.runs_per_day), (Mode::Allow, 20));
        assert!(carol.sessions.allow("other"));
    }

    #[test]
    fn a_file_that_says_nothing_of_strangers_denies_them() {
        let policy = Policy::parse("[peers.alice]\nruns-per-day = 5").unwrap();
        assert_eq!(policy.rules(&member("mallory", &[])).mode, Mode::Deny);
        assert_eq!(policy.rules(&member("alice", &[])).mode, Mode::Allow, "who is named may talk");
        assert_eq!(Policy::open().rules(&member("mallory", &[])).mode, Mode::Allow);
    }

    #[test]
    fn to_be_named_is_not_to_be_waved_through() {
        let policy = Policy::parse("[default]\nmode = \"approve\"\n[peers.alice]\nruns-per-day = 5").unwrap();
        assert_eq!(policy.rules(&member("alice", &[])).mode, Mode::Approve);
        let policy =
            Policy::parse("[tags.guest]\nmode = \"approve\"\n[peers.alice]\nstream = false").unwrap();
        assert_eq!(policy.rules(&member("alice", &[("guest", "")])).mode, Mode::Approve);
        assert_eq!(policy.rules(&member("alice", &[])).mode, Mode::Allow);
    }

    #[test]
    fn a_token_is_found_by_its_hash() {
        let text = format!("[peers.alice]\ntoken = \"{}\"", TokenHash::of("alices-own-token"));
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.holder("alices-own-token").map(|(key, _)| key), Some("alice"));
        assert!(policy.holder("another").is_none() && policy.holder("").is_none());
    }
}
