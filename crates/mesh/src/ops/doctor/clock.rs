//! Our clock beside those of the gateways, which send theirs with the challenge.

use super::{Finding, Fix};
use crate::record::To;

/// From here on a difference is worth a word: log lines of two hosts no longer line up.
const NOTICED_MS: u64 = 2_000;
/// How far `signedAt` may be from a gateway's clock before it refuses a client that signs its own time.
const REFUSED_MS: u64 = 120_000;

/// What one gateway's clock said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub to: To,
    /// By how much ours is ahead, in milliseconds.
    pub ahead_ms: i64,
}

/// Our clock. It is right if any peer agrees with it; our own gateway is asked only where no peer answered, since it
/// mostly runs on this host and agrees with any clock.
pub(super) fn ours(peers: &[Reading], own_gateway: Option<i64>) -> Finding {
    let nearest = peers.iter().min_by_key(|reading| reading.ahead_ms.unsigned_abs());
    match (nearest, own_gateway) {
        (Some(reading), _) => judged(reading.ahead_ms, &format!("{}'s gateway", reading.to.name)),
        (None, Some(ahead_ms)) => judged(ahead_ms, "our own gateway"),
        (None, None) => Finding::ok("not compared: no gateway answered"),
    }
}

/// A peer's clock: only worth a word when it differs from ours and ours is right.
pub(super) fn theirs(reading: &Reading, peers: &[Reading]) -> Option<Finding> {
    let off = |reading: &Reading| reading.ahead_ms.unsigned_abs() > NOTICED_MS;
    let ours_is_right = peers.iter().any(|other| !off(other));
    (off(reading) && ours_is_right).then(|| {
        let detail = format!("it is {} ours, and other peers agree with us", side(-reading.ahead_ms));
        Finding::warn(detail, Fix::theirs(SET_CLOCK))
    })
}

const SET_CLOCK: &str =
    if cfg!(target_os = "macos") { "sudo sntp -sS time.apple.com" } else { "sudo timedatectl set-ntp true" };

fn judged(ahead_ms: i64, whose: &str) -> Finding {
    let off = ahead_ms.unsigned_abs();
    if off <= NOTICED_MS {
        return Finding::ok(format!("within 2 s of {whose}"));
    }
    let harmless = "agent-mesh signs with the gateway's own time, so this does not lock it out";
    let detail = format!("ours is {} that of {whose}; {harmless}", side(ahead_ms));
    if off <= REFUSED_MS {
        Finding::warn(detail, Fix::ours(SET_CLOCK))
    } else {
        Finding::fail(format!("{detail}, but other clients are refused"), Fix::ours(SET_CLOCK))
    }
}

/// "3.2 s ahead of".
fn side(ahead_ms: i64) -> String {
    let tenths = (ahead_ms.unsigned_abs() + 50) / 100;
    let direction = if ahead_ms < 0 { "behind" } else { "ahead of" };
    format!("{}.{} s {direction}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn reading(name: &str, ahead_ms: i64) -> Reading {
        Reading { to: To { name: name.into(), email_prefix: name.to_lowercase() }, ahead_ms }
    }

    #[test]
    fn our_clock_is_right_if_any_peer_agrees() {
        let cases: [(&[Reading], Option<i64>, Status, &str); 6] = [
            (&[], None, Status::Ok, "not compared"),
            (&[], Some(100), Status::Ok, "within 2 s of our own gateway"),
            (&[reading("Bob", 90_000), reading("Carol", -1_900)], None, Status::Ok, "Carol's gateway"),
            (&[reading("Bob", 3_240)], Some(0), Status::Warn, "ours is 3.2 s ahead of that of Bob's gateway"),
            (&[reading("Bob", -120_000)], None, Status::Warn, "ours is 120.0 s behind that of"),
            (&[reading("Bob", -120_001)], None, Status::Fail, "other clients are refused"),
        ];
        for (peers, own, expected, words) in cases {
            let Finding(status, detail, fix) = ours(peers, own);
            assert_eq!((status, fix.is_some()), (expected, expected != Status::Ok), "{detail}");
            assert!(detail.contains(words), "{detail}");
        }
    }

    #[test]
    fn a_peer_is_blamed_only_when_others_agree_with_us() {
        let (bob, carol) = (reading("Bob", -9_000), reading("Carol", 0));
        assert!(theirs(&bob, std::slice::from_ref(&bob)).is_none());
        let all = [bob.clone(), carol.clone()];
        assert!(theirs(&carol, &all).is_none());
        let Finding(status, detail, _) = theirs(&bob, &all).unwrap();
        assert_eq!(status, Status::Warn);
        assert!(detail.starts_with("it is 9.0 s ahead of ours"), "{detail}");
    }
}
