//! The table, on the terminal and in `docs/performance.md`.

use std::fmt::Write as _;

use agent_mesh_benches::Row;

use crate::recorded::Recorded;

const INTRODUCTION: &str = "\
# Performance

Written by `./bench`; `benches/README.md` says how. Every figure stands beside one of something else that was run in the same minutes, in turn with it: a
figure alone says more about the machine than about the program. Medians, unless it says something else; a ratio is the median over the pairs where there
were pairs. Release build, loopback; the agents are embedded gateways with an echo agent (`fleet`), which run on the same cores.
";

/// The table of these rows, as Markdown.
pub fn table<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut text =
        "| part | what | found | beside | ratio | must hold | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let beside = match (&row.beside, row.beside_value) {
            (Some(what), Some(value)) => format!("{} {}: {what}", figure(value), row.unit),
            (Some(what), None) => what.clone(),
            _ => String::new(),
        };
        let ratio = row.ratio.map(figure).unwrap_or_default();
        let found =
            row.value.map_or_else(|| "-".to_owned(), |value| format!("{} {}", figure(value), row.unit));
        let note = row.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
        let promise = row.must_hold.as_deref().unwrap_or_default();
        let verdict = match row.holds {
            Some(true) => "holds",
            Some(false) => "**OVER**",
            None => "",
        };
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {found}{note} | {beside} | {ratio} | {promise} | {verdict} |",
            row.part, row.what
        );
    }
    text
}

/// `docs/performance.md`.
pub fn document(recorded: &Recorded) -> String {
    let machine = &recorded.machine;
    let versions: Vec<_> =
        recorded.versions.iter().map(|(name, version)| bare_version(name, version)).collect();
    let mut text = format!(
        "{INTRODUCTION}\n{} cores of {}, {}, {}. {}.\n\n",
        machine.cores,
        machine.cpu,
        machine.memory,
        machine.kernel,
        versions.join(", ")
    );
    text += &table(recorded.in_order().flat_map(|(_, measured)| &measured.rows));
    text += "\n## When\n\n| part | date | commit | load of the host, before and after |\n|---|---|---|---|\n";
    for (part, measured) in recorded.in_order() {
        let (before, after) = measured.load;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {before}, {after} |",
            part.name(),
            measured.date,
            measured.commit
        );
    }
    text += "\n## With which command\n\n`./bench PART` measures a part again. One figure by hand:\n\n| part | what | command |\n|---|---|---|\n";
    for row in recorded.in_order().flat_map(|(_, measured)| &measured.rows) {
        let _ = writeln!(text, "| {} | {} | `{}` |", row.part, row.what, row.command);
    }
    text
}

/// `rustc 1.95.0`, whatever the program calls itself.
fn bare_version(name: &str, said: &str) -> String {
    let version =
        said.split(' ').find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
    format!("{name} {}", version.unwrap_or(said).trim_start_matches('v').trim_end_matches(','))
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        large if large >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_all_that_it_says() {
        let row = Row::new("list", "1000 online", "agent-mesh list", 0.312, "s")
            .beside("bare connects", 0.2)
            .must_hold("at most 0.4 s", true);
        let line = "| list | 1000 online | 0.312 s | 0.200 s: bare connects | 1.56 | at most 0.4 s | holds |";
        assert_eq!(table([&row]).lines().last(), Some(line));
        let missing = Row::missing("skill", "list", "BASH_SKILL=… ./bench skill", "not at hand");
        assert!(table([&missing]).contains("| skill | list | -; not at hand |  |  |  |  |"));
    }

    #[test]
    fn versions_are_shown_without_decoration() {
        assert_eq!(bare_version("rustc", "rustc 1.95.0 (59807616e 2026-04-14)"), "rustc 1.95.0");
        assert_eq!(bare_version("nats-server", "nats-server: v2.9.10"), "nats-server 2.9.10");
        assert_eq!(bare_version("Node", "v24.19.0"), "Node 24.19.0");
    }
}
