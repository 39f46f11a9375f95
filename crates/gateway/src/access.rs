//! Who is who and may do what, as the owner's files say: the team's members and the policy. Replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::policy::{Policy, Rules};
use crate::principal::Member;
use crate::secret::TokenHash;

/// Keys that are nobody's: they stand for others.
const RESERVED: [&str; 2] = ["owner", "nobody"];

/// The members of the team, by the key and the device that the registry has for them.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    by_key: BTreeMap<String, Arc<Member>>,
    /// None for a device that two members claim: it is nobody's then.
    by_device: HashMap<String, Option<String>>,
}

impl Roster {
    /// A roster of these. Keys count in lower case. A key that could be taken for somebody else's is left out, and a
    /// device that two members claim names neither.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let mut roster = Self::default();
        for mut member in members {
            member.key = member.key.to_lowercase();
            if RESERVED.contains(&member.key.as_str()) || member.key.starts_with("dev-") {
                tracing::warn!(key = member.key, "a member of the team has a key that stands for others");
                continue;
            }
            if let Some(device) = &member.device_id {
                let one = roster.by_device.entry(device.clone());
                one.and_modify(|claimed| *claimed = None).or_insert_with(|| Some(member.key.clone()));
            }
            roster.by_key.insert(member.key.clone(), Arc::new(member));
        }
        roster
    }

    /// Whose device this is.
    fn of_device(&self, device_id: &str) -> Option<&Arc<Member>> {
        self.by_key.get(self.by_device.get(device_id)?.as_ref()?)
    }
}

/// The roster and the policy.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// What peers may do.
    pub policy: Policy,
    /// Who is in the team.
    pub roster: Roster,
}

impl Access {
    /// The member whose device this is: the policy's word goes before the registry's.
    pub(crate) fn of_device(&self, device_id: &str) -> Option<Arc<Member>> {
        match self.policy.named(device_id) {
            Some(key) => Some(self.member(key, Some(device_id))),
            None => self.roster.of_device(device_id).cloned(),
        }
    }

    /// The member whose token this is.
    pub(crate) fn of_token(&self, token: &str, device_id: Option<&str>) -> Option<(Arc<Member>, TokenHash)> {
        let (key, hash) = self.policy.holder(token)?;
        Some((self.member(key, device_id), hash))
    }

    /// The member who still holds the token of this hash.
    pub(crate) fn of_hash(&self, hash: TokenHash, device_id: Option<&str>) -> Option<Arc<Member>> {
        self.policy.holder_of(hash).map(|key| self.member(key, device_id))
    }

    /// The member of a key, in the team or not, with the device that has proven itself.
    fn member(&self, key: &str, device_id: Option<&str>) -> Arc<Member> {
        let known = self.roster.by_key.get(key).map(|member| Member::clone(member));
        let nameless = || Member { key: key.to_owned(), name: key.to_owned(), ..Member::default() };
        let member = known.unwrap_or_else(nameless);
        Arc::new(Member { device_id: device_id.map(str::to_owned), ..member })
    }

    /// What a member may do.
    pub(crate) fn rules(&self, member: &Member) -> Arc<Rules> {
        Arc::new(self.policy.rules(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(key: &str, device: &str) -> Member {
        let device_id = Some(device.to_owned());
        Member { key: key.into(), name: key.to_uppercase(), device_id, ..Member::default() }
    }

    #[test]
    fn a_device_that_two_claim_is_nobodys() {
        let roster = Roster::new([member("Alice", "d1"), member("bob", "d2"), member("carol", "d2")]);
        assert_eq!(roster.of_device("d1").unwrap().key, "alice");
        assert!(roster.of_device("d2").is_none() && roster.of_device("d3").is_none());
    }

    #[test]
    fn nobody_is_called_as_others_are() {
        let roster = Roster::new([member("owner", "d1"), member("nobody", "d2"), member("dev-0123", "d3")]);
        assert!(roster.by_key.is_empty() && roster.of_device("d1").is_none());
    }

    #[test]
    fn the_policys_word_on_a_device_goes_before_the_registrys() {
        let device = "ab".repeat(32);
        let policy = format!("[peers.alice]\ndevice-id = \"{device}\"");
        let policy = Policy::parse(&policy).unwrap();
        let access =
            Access { policy, roster: Roster::new([member("mallory", &device), member("alice", "d1")]) };
        let alice = access.of_device(&device).unwrap();
        assert_eq!(
            (&*alice.key, &*alice.name, alice.device_id.as_deref()),
            ("alice", "ALICE", Some(&*device))
        );
    }
}
