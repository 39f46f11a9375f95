//! What each peer has used up: its requests of the last minute, its runs of the day. The day is that of UTC.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The meters of all peers; there are as many as there are members and approved devices.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    requests: HashMap<String, Bucket>,
    runs: HashMap<String, u32>,
    /// The day that the runs are of.
    day: i64,
}

/// Requests that may still be made: full after a minute of silence.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Meters {
    /// With the runs of the day that are known from before a restart.
    pub(crate) fn new(runs: HashMap<String, u32>, now_ms: i64) -> Self {
        Self { requests: HashMap::new(), runs, day: day(now_ms) }
    }

    /// Takes a request; or says how long until there is room for one.
    pub(crate) fn request(&mut self, peer: &str, per_minute: u32, now: Instant) -> Result<(), u64> {
        let full = f64::from(per_minute);
        if !self.requests.contains_key(peer) {
            self.requests.insert(peer.to_owned(), Bucket { left: full, at: now });
        }
        let Some(bucket) = self.requests.get_mut(peer) else { return Ok(()) };
        let rate = full / MINUTE.as_secs_f64();
        bucket.left = now.duration_since(bucket.at).as_secs_f64().mul_add(rate, bucket.left).min(full);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let wait = if per_minute == 0 { MINUTE } else { MINUTE.mul_f64((1.0 - bucket.left) / full) };
        Err(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1))
    }

    /// Whether a peer may start another run today; or how long today lasts.
    pub(crate) fn may_run(&mut self, peer: &str, per_day: u32, now_ms: i64) -> Result<(), u64> {
        self.turn_the_page(now_ms);
        if self.runs.get(peer).copied().unwrap_or(0) < per_day {
            return Ok(());
        }
        Err(u64::try_from(DAY_MS - now_ms.rem_euclid(DAY_MS)).unwrap_or(1))
    }

    /// Counts a run.
    pub(crate) fn ran(&mut self, peer: &str, now_ms: i64) {
        self.turn_the_page(now_ms);
        *self.runs.entry(peer.to_owned()).or_default() += 1;
    }

    fn turn_the_page(&mut self, now_ms: i64) {
        if self.day != day(now_ms) {
            self.day = day(now_ms);
            self.runs.clear();
        }
    }
}

/// The beginning of this day, milliseconds since the epoch.
pub(crate) fn midnight(now_ms: i64) -> i64 {
    now_ms - now_ms.rem_euclid(DAY_MS)
}

fn day(now_ms: i64) -> i64 {
    now_ms.div_euclid(DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_requests_however_they_come() {
        let (mut meters, start) = (Meters::default(), Instant::now());
        for _ in 0..60 {
            assert_eq!(meters.request("alice", 60, start), Ok(()));
        }
        assert_eq!(meters.request("alice", 60, start), Err(1000));
        assert_eq!(meters.request("bob", 60, start), Ok(()), "each has his own");
        assert_eq!(meters.request("alice", 60, start + Duration::from_secs(1)), Ok(()));
        assert!(meters.request("alice", 60, start + Duration::from_secs(1)).is_err());
        assert_eq!(meters.request("carol", 0, start), Err(60_000), "none is none");
        // A tighter rule holds at once.
        assert_eq!(meters.request("bob", 1, start), Ok(()));
        assert!(meters.request("bob", 1, start).is_err());
    }

    #[test]
    fn runs_are_counted_by_the_day_and_what_was_before_a_restart_counts() {
        let noon = DAY_MS * 20_000 + DAY_MS / 2;
        let mut meters = Meters::new(HashMap::from([("alice".to_owned(), 1)]), noon);
        assert_eq!(meters.may_run("alice", 2, noon), Ok(()));
        meters.ran("alice", noon);
        assert_eq!(meters.may_run("alice", 2, noon), Err((DAY_MS / 2) as u64));
        assert_eq!(meters.may_run("bob", 0, noon), Err((DAY_MS / 2) as u64));
        assert_eq!(meters.may_run("alice", 2, noon + DAY_MS / 2), Ok(()), "tomorrow");
        assert_eq!(midnight(noon), DAY_MS * 20_000);
    }
}
