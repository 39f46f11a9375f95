//! Who is who and may do what, as the owner's files say: the team's members and the policy. Replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::pairing::Device;
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
    /// Whose devices are that were invited. A name for who was let in, and no way in.
    guests: HashMap<String, Option<Arc<Member>>>,
}

impl Roster {
    /// A roster of these. Keys count in lower case. A key that could be taken for somebody else's is left out, and a
    /// device that two members claim names neither.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let mut roster = Self::default();
        for mut member in members {
            member.key = member.key.to_lowercase();
            if is_reserved(&member.key) {
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

    /// The same roster, and those who were invited, each with the device that showed the invite. Such a device still has
    /// to be approved: what it gets here is a name. Of a device that the registry knows the registry's word holds, and a
    /// device that came with the invites of two is neither's.
    #[must_use]
    pub fn with_guests(mut self, guests: impl IntoIterator<Item = Member>) -> Self {
        for guest in guests {
            let key = guest.key.to_lowercase();
            let Some(device) = &guest.device_id else { continue };
            if is_reserved(&key) || self.by_device.contains_key(device) {
                continue;
            }
            let member = match self.by_key.get(&key) {
                Some(known) => Member { device_id: guest.device_id.clone(), ..Member::clone(known) },
                None => Member { key: key.clone(), ..guest.clone() },
            };
            let one = self.guests.entry(device.clone());
            one.and_modify(|other| {
                if other.as_ref().is_some_and(|other| other.key != key) {
                    *other = None;
                }
            })
            .or_insert_with(|| Some(Arc::new(member)));
        }
        self
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

    /// Whose a device is, as the owner is told: a member's, or that of who was invited with it.
    #[must_use]
    pub fn whose(&self, device_id: &str) -> Option<Arc<Member>> {
        self.of_device(device_id).or_else(|| self.guest(device_id))
    }

    /// Who a device is that was approved: who was invited with it, or nobody that has a name.
    pub(crate) fn approved(&self, device: &Device) -> Arc<Member> {
        let claim = &device.claim;
        let unnamed = || Arc::new(Member::unnamed(&claim.device_id, claim.display_name.as_deref()));
        self.guest(&claim.device_id).unwrap_or_else(unnamed)
    }

    /// Who was invited with this device. What the policy says of the device by its own name goes on holding for it: an
    /// invite takes nobody out of a rule.
    pub(crate) fn guest(&self, device_id: &str) -> Option<Arc<Member>> {
        let guest = self.roster.guests.get(device_id)?.as_ref()?;
        (!self.policy.has(&Member::unnamed(device_id, None).key)).then(|| Arc::clone(guest))
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
    pub(crate) fn member(&self, key: &str, device_id: Option<&str>) -> Arc<Member> {
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

/// Whether a key could be taken for somebody else's.
fn is_reserved(key: &str) -> bool {
    let reserved = RESERVED.contains(&key) || key.starts_with("dev-");
    if reserved {
        tracing::warn!(key, "a member of the team has a key that stands for others");
    }
    reserved
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

    fn invited(key: &str, device: &str) -> Member {
        Member { name: format!("{key} by invite"), ..member(key, device) }
    }

    fn guest(access: &Access, device: &str) -> Option<String> {
        access.guest(device).map(|member| member.key.clone())
    }

    #[test]
    fn an_invite_gives_a_name_and_no_way_in() {
        let tags = [("team".to_owned(), "infra".to_owned())].into();
        let roster = Roster::new([Member { tags, ..member("alice", "d1") }]);
        let roster = roster.with_guests([invited("Alice", "d2"), invited("zoe", "d3"), invited("zoe", "d4")]);
        let access = Access { roster, ..Access::default() };
        assert!(access.of_device("d2").is_none(), "it has to be approved");
        let alice = access.guest("d2").unwrap();
        assert_eq!((&*alice.key, &*alice.name, alice.device_id.as_deref()), ("alice", "ALICE", Some("d2")));
        assert_eq!(alice.tags["team"], "infra", "the policy finds her as the registry has her");
        assert_eq!(access.guest("d3").unwrap().name, "zoe by invite");
        assert_eq!(guest(&access, "d4").as_deref(), Some("zoe"), "two devices of one are both hers");
    }

    #[test]
    fn an_invite_takes_no_name_from_anybody() {
        let roster = Roster::new([member("alice", "d1"), member("bob", "d2"), member("carol", "d2")]);
        let roster = roster.with_guests([
            invited("mallory", "d1"),
            invited("alice", "d2"),
            invited("owner", "d3"),
            invited("dev-0123456789ab", "d4"),
            invited("alice", "d5"),
            invited("bob", "d5"),
            invited("alice", "d5"),
        ]);
        let access = Access { roster, ..Access::default() };
        assert_eq!(access.of_device("d1").unwrap().key, "alice", "the registry goes before an invite");
        for device in ["d1", "d2", "d3", "d4", "d5"] {
            assert_eq!(guest(&access, device), None, "{device}");
        }
    }

    #[test]
    fn an_invite_takes_no_device_out_of_a_rule_of_the_policy() {
        let device = "ab".repeat(32);
        let access = |policy: &str| Access {
            policy: Policy::parse(policy).unwrap(),
            roster: Roster::default().with_guests([invited("alice", &device)]),
        };
        assert_eq!(guest(&access(""), &device).as_deref(), Some("alice"));
        let denied = access("[peers.dev-abababababab]\nmode = \"deny\"");
        assert_eq!(guest(&denied, &device), None);
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
