//! Whose host it is, by its name: where nothing else says so.

use crate::registry::Agent;

/// The entry of a host such as `agent-bob-0.agents.team.svc`: its first label without `prefix`, and without the number that
/// a StatefulSet puts at the end. None when the name does not begin with `prefix`.
pub(super) fn agent(host: &str, prefix: &str) -> Option<Agent> {
    let label = host.split('.').next().unwrap_or_default().to_lowercase();
    let rest = label.strip_prefix(&prefix.to_lowercase())?;
    let name = match rest.rsplit_once('-') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => rest,
    };
    (!name.is_empty()).then(|| Agent::new(name, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_says_whose_host_it_is() {
        for (host, prefix, expected) in [
            ("agent-bob-0.agents.team.svc.cluster.local.", "agent-", Some("bob")),
            ("Agent-Bob-12", "agent-", Some("bob")),
            ("bob", "", Some("bob")),
            ("jean-luc-0.x", "", Some("jean-luc")),
            ("bob-", "", Some("bob-")),
            ("db-0", "agent-", None),
            ("agent-", "agent-", None),
            ("", "", None),
        ] {
            assert_eq!(agent(host, prefix).map(|agent| agent.email_prefix).as_deref(), expected, "{host}");
        }
    }
}
