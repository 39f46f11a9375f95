//! Repeated wrong credentials lock an address out for a while.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// So many failures within [`WINDOW`] lock.
const MAX_FAILURES: usize = 10;
/// See [`MAX_FAILURES`].
const WINDOW: Duration = Duration::from_secs(60);
/// How long a lock lasts; trying again does not extend it.
const LOCK: Duration = Duration::from_secs(300);
/// Addresses that are remembered, so that an attacker with many of them cannot fill the memory.
const MAX_ENTRIES: usize = 10_000;

/// What was presented. Each kind is counted alone, as the real gateway does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `auth.token` or `auth.password`.
    Shared,
    /// `auth.deviceToken`.
    Device,
    /// `auth.bootstrapToken`.
    Bootstrap,
}

/// Who failed how often.
#[derive(Debug, Default)]
pub(crate) struct Lockout {
    entries: HashMap<(IpAddr, Kind), Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    failures: VecDeque<Instant>,
    until: Option<Instant>,
}

impl Lockout {
    /// How long this address stays locked; none if it is not.
    pub(crate) fn locked(&self, ip: IpAddr, kind: Kind, now: Instant) -> Option<Duration> {
        let until = self.entries.get(&(network(ip), kind))?.until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Counts a failure.
    pub(crate) fn failure(&mut self, ip: IpAddr, kind: Kind, now: Instant) {
        let key = (network(ip), kind);
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| entry.is_alive(now));
            if self.entries.len() >= MAX_ENTRIES {
                return;
            }
        }
        let entry = self.entries.entry(key).or_default();
        entry.failures.retain(|&at| now.duration_since(at) < WINDOW);
        entry.failures.push_back(now);
        if entry.failures.len() >= MAX_FAILURES {
            entry.failures.clear();
            entry.until = Some(now + LOCK);
        }
    }
}

impl Entry {
    fn is_alive(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
            || self.failures.back().is_some_and(|&at| now.duration_since(at) < WINDOW)
    }
}

/// One host commonly has a whole IPv6 /64: it is counted as one address.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_failures_lock_one_address_and_kind_for_five_minutes() {
        let (mut lockout, start, bob) = (Lockout::default(), Instant::now(), ip("10.0.0.2"));
        for i in 0..10 {
            assert_eq!(lockout.locked(bob, Kind::Shared, start), None, "after {i} failures");
            lockout.failure(bob, Kind::Shared, start);
        }
        assert_eq!(lockout.locked(bob, Kind::Shared, start), Some(LOCK));
        assert_eq!(lockout.locked(bob, Kind::Device, start), None, "kinds are counted alone");
        assert_eq!(lockout.locked(ip("10.0.0.3"), Kind::Shared, start), None, "others are not locked");
        assert_eq!(lockout.locked(bob, Kind::Shared, start + LOCK), None);
    }

    #[test]
    fn slow_failures_do_not_lock() {
        let (mut lockout, start, bob) = (Lockout::default(), Instant::now(), ip("10.0.0.2"));
        for i in 0..40 {
            lockout.failure(bob, Kind::Device, start + Duration::from_secs(7) * i);
        }
        assert_eq!(lockout.locked(bob, Kind::Device, start + Duration::from_secs(280)), None);
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one() {
        let (mut lockout, start) = (Lockout::default(), Instant::now());
        for i in 0..10 {
            lockout.failure(ip(&format!("2001:db8::{i}")), Kind::Shared, start);
        }
        assert!(lockout.locked(ip("2001:db8::ffff"), Kind::Shared, start).is_some());
        assert!(lockout.locked(ip("2001:db8:0:1::1"), Kind::Shared, start).is_none());
    }
}
