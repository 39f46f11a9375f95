//! What the policy of a peer says no with, in words.

use crate::record::To;

/// The rule, and what becomes of it: "Bob's policy: runs-per-day = 200; it passes in 33742 s".
#[must_use]
pub fn policy_of_peer(
    to: &To,
    rule: Option<&str>,
    limit: Option<u64>,
    retry_after_ms: Option<u64>,
) -> String {
    let name = &to.name;
    let rule = rule.unwrap_or("a rule");
    let limit = limit.map(|limit| format!(" = {limit}")).unwrap_or_default();
    let end = match retry_after_ms {
        Some(wait) => format!("it passes in {} s", wait / 1000 + 1),
        None => format!("only {name} can change that"),
    };
    format!("{name}'s policy: {rule}{limit}; {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_pass_is_left_to_the_peer() {
        let bob = To { name: "Bob".to_owned(), email_prefix: "bob".to_owned() };
        let for_good = policy_of_peer(&bob, Some("mode"), None, None);
        assert_eq!(for_good, "Bob's policy: mode; only Bob can change that");
        let for_now = policy_of_peer(&bob, Some("runs-per-day"), Some(200), Some(33_741_094));
        assert_eq!(for_now, "Bob's policy: runs-per-day = 200; it passes in 33742 s");
    }
}
