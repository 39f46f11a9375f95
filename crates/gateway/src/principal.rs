//! Who a connection is.

use std::collections::BTreeMap;
use std::sync::Arc;

/// So many digits of a device id name a device that nobody has named.
const SHORT_ID: usize = 12;

/// Who somebody is, as far as he has proven it. It stands on his connection, in each [`Turn`](crate::Turn) that he
/// starts, and for his sessions, his runs, his limits, and his rows in an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Principal {
    /// Whoever runs this gateway: he came over loopback with its own token, or with a device that did so once.
    #[default]
    Owner,
    /// Anybody else.
    Peer(Arc<Member>),
}

/// A peer that may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// His namespace: the e-mail prefix of a member of the team, in lower case, or `dev-` and the first 12 digits of a
    /// device id that was approved and that nobody has named.
    pub key: String,
    /// His name for people. A member's is the registry's, else the one he was invited by, else what his device said when it
    /// was approved.
    pub name: String,
    /// The device that proved itself; none if he came with a token alone.
    pub device_id: Option<String>,
    /// The registry's labels, by which a policy can select.
    pub tags: BTreeMap<String, String>,
}

impl Principal {
    /// The peer, if it is one.
    #[must_use]
    pub fn peer(&self) -> Option<&Arc<Member>> {
        match self {
            Self::Owner => None,
            Self::Peer(member) => Some(member),
        }
    }

    /// `owner`, or the key of the peer. No peer's key is `owner`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.peer().map_or("owner", |member| &member.key)
    }
}

impl Member {
    /// A device that was approved and that nobody has named.
    pub(crate) fn unnamed(device_id: &str, claimed_name: Option<&str>) -> Self {
        let short = device_id.get(..SHORT_ID).unwrap_or(device_id);
        let key = format!("dev-{short}");
        let name = claimed_name.unwrap_or(&key).to_owned();
        Self { key, name, device_id: Some(device_id.to_owned()), tags: BTreeMap::new() }
    }

    /// The key that his device had before anybody had named it: what he said then stands under that.
    pub(crate) fn earlier_key(&self) -> Option<String> {
        let unnamed = Self::unnamed(self.device_id.as_deref()?, None);
        (unnamed.key != self.key).then_some(unnamed.key)
    }

    /// Somebody who has proven nothing that makes him anybody. He has no scopes, so he names no session and starts no
    /// run.
    pub(crate) fn nobody() -> Self {
        Self { key: "nobody".to_owned(), name: "nobody".to_owned(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_device_is_called_by_its_id() {
        let id = "0123456789abcdef".repeat(4);
        let member = Member::unnamed(&id, None);
        assert_eq!((&*member.key, &*member.name), ("dev-0123456789ab", "dev-0123456789ab"));
        assert_eq!(Member::unnamed(&id, Some("alice")).name, "alice");
        assert_eq!(Member::unnamed(&id, Some("alice")).key, "dev-0123456789ab", "a claim names nobody");
    }

    #[test]
    fn who_was_named_is_still_known_by_his_device() {
        let unnamed = Member::unnamed(&"ab".repeat(32), None);
        assert_eq!(unnamed.earlier_key(), None);
        let alice = Member { key: "alice".into(), ..unnamed };
        assert_eq!(alice.earlier_key().as_deref(), Some("dev-abababababab"));
        assert_eq!(Member { device_id: None, ..alice }.earlier_key(), None, "a token alone is no device");
    }

    #[test]
    fn the_owner_has_a_key_too() {
        let peer = Principal::Peer(Arc::new(Member::unnamed(&"ab".repeat(32), None)));
        assert_eq!((Principal::Owner.key(), peer.key()), ("owner", "dev-abababababab"));
    }
}
