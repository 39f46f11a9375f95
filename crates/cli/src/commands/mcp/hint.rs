//! Our hints, for a model that has tools and no shell.

/// Commands that have a tool of the same meaning. What follows is left as it is: an id, or whom it is about.
const TOOLS: [(&str, &str); 4] = [
    ("agent-mesh wait", "mesh_wait"),
    ("agent-mesh list", "mesh_list"),
    ("agent-mesh ping --to", "mesh_ping with to ="),
    ("agent-mesh log has", "mesh_log has"),
];

/// What runs a command that only a person can.
const FOR_PEOPLE: [&str; 2] = ["agent-mesh ", "openclaw "];

/// A hint in which commands are tools where there is one; what is left of them, somebody else has to run.
pub fn for_model(hint: &str) -> String {
    let hint = TOOLS.iter().fold(hint.to_owned(), |hint, (command, tool)| hint.replace(command, tool));
    if FOR_PEOPLE.iter().any(|program| hint.contains(program)) {
        format!("no tool of yours does this, so tell your owner: {hint}")
    } else {
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_tool_or_the_owners() {
        let cases = [
            ("shorten it", "shorten it"),
            ("agent-mesh wait 1f; do not send it again", "mesh_wait 1f; do not send it again"),
            ("agent-mesh list shows the team", "mesh_list shows the team"),
            (
                "agent-mesh trust reset bob",
                "no tool of yours does this, so tell your owner: agent-mesh trust reset bob",
            ),
            (
                "on Bob's host: openclaw devices approve r1; then send again",
                "no tool of yours does this, so tell your owner: on Bob's host: openclaw devices approve r1; then send again",
            ),
        ];
        for (hint, expected) in cases {
            assert_eq!(for_model(hint), expected);
        }
    }
}
