//! How much of something each device has, and all of them together.

use std::collections::HashMap;

/// Who starts runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// A device of the owner, or the owner without one.
    Owner(Option<String>),
    /// A peer, by his key.
    Peer(String),
}

impl Who {
    /// The key of the peer, if it is one.
    pub(crate) fn peer(&self) -> Option<&str> {
        match self {
            Self::Owner(_) => None,
            Self::Peer(key) => Some(key),
        }
    }

    /// The peer or the device.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Owner(device) => device.as_deref(),
            Self::Peer(key) => Some(key),
        }
    }
}

/// Runs and their bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) runs: usize,
    pub(crate) bytes: usize,
}

/// The shares of all.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    by_device: HashMap<Who, Share>,
    total: Share,
}

impl Shares {
    pub(crate) fn add(&mut self, who: &Who, bytes: usize) {
        for share in [self.by_device.entry(who.clone()).or_default(), &mut self.total] {
            share.runs += 1;
            share.bytes += bytes;
        }
    }

    pub(crate) fn remove(&mut self, who: &Who, bytes: usize) {
        let Some(mine) = self.by_device.get_mut(who) else { return };
        for share in [&mut *mine, &mut self.total] {
            share.runs -= 1;
            share.bytes -= bytes;
        }
        if mine.runs == 0 {
            self.by_device.remove(who);
        }
    }

    pub(crate) fn of(&self, who: &Who) -> Share {
        self.by_device.get(who).copied().unwrap_or_default()
    }

    pub(crate) fn total(&self) -> Share {
        self.total
    }

    /// Who has the most of something.
    pub(crate) fn largest(&self, of: impl Fn(&Share) -> usize) -> Option<&Who> {
        self.by_device.iter().max_by_key(|(_, share)| of(share)).map(|(who, _)| who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_can_be_removed_without_a_trace() {
        let (mut shares, alice) = (Shares::default(), Who::Peer("alice".to_owned()));
        shares.add(&alice, 7);
        shares.add(&alice, 1);
        let owner = Who::Owner(None);
        shares.add(&owner, 9);
        assert_eq!((shares.of(&alice).runs, shares.total().bytes), (2, 17));
        assert_eq!(shares.largest(|share| share.runs), Some(&alice));
        assert_eq!(shares.largest(|share| share.bytes), Some(&owner));
        for (who, bytes) in [(&alice, 7), (&owner, 9), (&alice, 1)] {
            shares.remove(who, bytes);
        }
        assert!(shares.by_device.is_empty() && shares.total() == Share::default());
    }
}
