//! How many of something each address, or each device, has open at a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::shared::lock;

/// Counts what is open, by key.
#[derive(Debug)]
pub(crate) struct Seats<K> {
    taken: Mutex<HashMap<K, usize>>,
    max: usize,
}

impl<K> Seats<K> {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), max })
    }
}

impl<K> Seats<K> {
    /// How many are taken, by all keys together.
    pub(crate) fn total(&self) -> usize {
        lock(&self.taken).values().sum()
    }
}

/// One of them; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Seat<K: Eq + Hash> {
    all: Arc<Seats<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Seat<K> {
    /// None when this key has as many as it may have.
    pub(crate) fn take(all: &Arc<Seats<K>>, key: K) -> Option<Self> {
        let mut taken = lock(&all.taken);
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= all.max {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Self { all: Arc::clone(all), key })
    }

    /// How many this key has, this one among them.
    pub(crate) fn crowd(&self) -> usize {
        lock(&self.all.taken).get(&self.key).copied().unwrap_or(0)
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.all.taken);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// The address by which a caller is counted. One host commonly has a whole IPv6 /64: that is one address.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_key_and_leave_no_trace() {
        let all = Seats::new(1);
        let first = Seat::take(&all, "a").unwrap();
        assert!(Seat::take(&all, "a").is_none() && first.crowd() == 1);
        assert!(Seat::take(&all, "b").is_some());
        drop(first);
        assert!(Seat::take(&all, "a").is_some());
        assert!(lock(&all.taken).is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_is_one_address() {
        let ip = |text: &str| network(text.parse().unwrap());
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }
}
