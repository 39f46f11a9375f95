//! How long a message waits before it is tried again.

use std::time::Duration;

use crate::route::gateway::jittered;

/// The pause after the first try, and the longest.
const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(5 * 60);

/// The pause after so many tries: twice as long each time, and half to all of that, so that many who lost one peer do
/// not come back at one moment.
pub(super) fn pause(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    jittered((FIRST * 2_u32.pow(doublings)).min(LAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_five_minutes_and_are_never_nothing() {
        for (tries, longest) in [(0, 2), (1, 2), (2, 4), (5, 32), (8, 256), (9, 300), (u32::MAX, 300)] {
            let longest = Duration::from_secs(longest);
            for _ in 0..50 {
                let pause = pause(tries);
                assert!(pause >= longest / 2 && pause <= longest, "{tries}: {pause:?}");
            }
        }
    }
}
