//! Repeated wrong credentials lock an address out for a while.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::seats::network;

/// So many failures within [`WINDOW`] lock.
const MAX_FAILURES: usize = 10;
/// See [`MAX_FAILURES`].
const WINDOW: Duration = Duration::from_secs(60);
/// How long a lock lasts; trying again does not extend it.
const LOCK: Duration = Duration::from_secs(300);
/// Loopback is never locked out: the owner is there. Its failures are answered after this time, doubled by each ...
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// ... up to this.
const MAX_DELAY: Duration = Duration::from_secs(5);
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
    /// The last failure from loopback, whatever the address in 127.0.0.0/8, and the delay of its answer.
    local: Option<(Instant, Duration)>,
}

#[derive(Debug, Default)]
struct Entry {
    last: Option<Instant>,
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
            self.make_room(now);
        }
        let entry = self.entries.entry(key).or_default();
        entry.failures.retain(|&at| now.duration_since(at) < WINDOW);
        entry.failures.push_back(now);
        entry.last = Some(now);
        if entry.failures.len() >= MAX_FAILURES {
            entry.failures.clear();
            entry.until = Some(now + LOCK);
        }
    }

    /// Counts a failure from loopback; gives the delay of its answer.
    pub(crate) fn local_failure(&mut self, now: Instant) -> Duration {
        let recent = self.local.filter(|(at, delay)| now.duration_since(*at) < WINDOW + *delay);
        let delay = recent.map_or(FIRST_DELAY, |(_, delay)| (delay * 2).min(MAX_DELAY));
        self.local = Some((now, delay));
        delay
    }

    /// Who failed longest ago goes when all are alive: forgetting nobody would mean not to count the next.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.is_alive(now));
        if self.entries.len() < MAX_ENTRIES {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last);
        if let Some(key) = oldest.map(|(key, _)| *key) {
            self.entries.remove(&key);
        }
    }
}

impl Entry {
    fn is_alive(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
            || self.failures.back().is_some_and(|&at| now.duration_since(at) < WINDOW)
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
    fn a_full_memory_forgets_the_oldest_and_still_locks() {
        let (mut lockout, start) = (Lockout::default(), Instant::now());
        for i in 0..MAX_ENTRIES as u32 {
            lockout.failure(IpAddr::V4(i.into()), Kind::Shared, start + Duration::from_micros(i.into()));
        }
        let (late, bob) = (start + Duration::from_secs(1), ip("10.0.0.2"));
        for _ in 0..10 {
            lockout.failure(bob, Kind::Shared, late);
        }
        assert!(lockout.locked(bob, Kind::Shared, late).is_some());
        assert!(!lockout.entries.contains_key(&(ip("0.0.0.0"), Kind::Shared)));
        assert_eq!(lockout.entries.len(), MAX_ENTRIES);
    }

    #[test]
    fn loopback_waits_longer_and_longer() {
        let (mut lockout, start) = (Lockout::default(), Instant::now());
        let delays: Vec<_> = (0..7).map(|_| lockout.local_failure(start).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(lockout.local_failure(start + WINDOW * 2), FIRST_DELAY, "forgotten after a while");
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
