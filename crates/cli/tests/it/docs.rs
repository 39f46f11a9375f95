//! `docs/cli.md`, `docs/config.md` and `docs/registry.schema.json` are what the binary says of itself, never written by hand:
//! `UPDATE_DOCS=1 cargo test -p agent-mesh docs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Host;

const WRITTEN: &str = "<!-- Written by `UPDATE_DOCS=1 cargo test -p agent-mesh docs`. Do not edit. -->";

#[tokio::test]
async fn docs_cli_md_is_what_help_says() {
    let host = Host::anonymous();
    let mut text = format!("# Commands\n\n{WRITTEN}\n");
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(command) = waiting.pop() {
        let help = host.run(&[&command[..], &["--help".to_owned()]].concat()).await.ok().stdout;
        let name = [&["agent-mesh".to_owned()], &command[..]].concat().join(" ");
        let _ = write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", trimmed(&help, command.is_empty()));
        // The last is taken first: this keeps the order of the help.
        let below = subcommands(&help).into_iter().rev();
        waiting.extend(below.map(|name| [&command[..], &[name]].concat()));
    }
    compare("cli.md", &text);
}

#[tokio::test]
async fn docs_config_md_is_what_config_says() {
    let document = Host::anonymous().run(&["config", "--json"]).await.ok().json();
    let mut text = format!(
        "# Settings\n\n{WRITTEN}\n\nA flag wins over a variable, a variable over `config.toml`, and that over the default. \
         A variable that is set to nothing counts as not set; a value that does not parse is an error that names the \
         variable.\n`agent-mesh config` shows every setting as it is now, and where its value comes from.\n\n\
         | setting | flag | variable | `config.toml` | default |\n|---|---|---|---|---|\n"
    );
    let rows = document["settings"].as_array().unwrap();
    let code = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), |text| format!("`{text}`"));
    for row in rows {
        let key = if row["inFile"] == true { code(&row["name"]) } else { "-".to_owned() };
        let (name, default) = (row["name"].as_str().unwrap(), row["default"].as_str().unwrap());
        let (flag, env) = (code(&row["flag"]), code(&row["env"]));
        // What a heading's anchor becomes on the web.
        let anchor = name.replace('.', "");
        let _ = writeln!(text, "| [{name}](#{anchor}) | {flag} | {env} | {key} | {default} |");
    }
    text.push_str("\n## What they mean\n");
    for row in rows {
        let (name, meaning) = (row["name"].as_str().unwrap(), row["meaning"].as_str().unwrap());
        let _ = write!(text, "\n### {name}\n\n{meaning}\n");
    }
    compare("config.md", &text);
}

#[tokio::test]
async fn docs_registry_schema_json_is_what_init_writes() {
    let host = Host::anonymous();
    host.run(&["init", "--me", "alice@example.com"]).await.ok();
    compare("registry.schema.json", &fs::read_to_string(host.config("registry.schema.json")).unwrap());
}

/// The table of codes in the guide, and what the source can produce, are the same. The codes stand in the source behind
/// the exit code, in `means(…)` and `CliError::new(…)`.
#[test]
fn the_guide_tells_every_error_code_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut produced = BTreeSet::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                produced.extend(codes(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    let guide = fs::read_to_string(root.join("../../docs/guide.md")).unwrap();
    let (_, table) =
        guide.split_once("\n| code | exit | cause, and what helps |\n").expect("the table of codes");
    let mut told = BTreeSet::new();
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let mut family = String::new();
        for code in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            // `registry-missing`, `-invalid`: the second is one of the first's family.
            let code = if code.starts_with('-') { format!("{family}{code}") } else { code.to_owned() };
            code.split('-').next().unwrap_or_default().clone_into(&mut family);
            assert!(told.insert(code), "twice in the guide: {row}");
        }
    }
    let only =
        |these: &BTreeSet<String>, those| these.difference(those).cloned().collect::<Vec<_>>().join(", ");
    let (untold, unheard) = (only(&produced, &told), only(&told, &produced));
    assert!(
        produced.len() > 50 && untold.is_empty() && unheard.is_empty(),
        "the guide lacks: {untold}; only there: {unheard}"
    );
}

/// The first text of each such call, if it looks like a code.
fn codes(source: &str) -> Vec<String> {
    let is_code =
        |text: &&str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let mut found = Vec::new();
    for call in ["means(", "CliError::new(", "Self::new("] {
        for after in source.split(call).skip(1) {
            let args = after.trim_start().split(',').nth(1).unwrap_or_default().trim();
            let code = args.strip_prefix('"').and_then(|rest| rest.split('"').next());
            found.extend(code.filter(is_code).map(str::to_owned));
        }
    }
    found
}

/// Without the options that every command has, except where they are explained.
fn trimmed(help: &str, whole: bool) -> String {
    let end = if whole { None } else { help.find("\nGlobal options:\n") };
    let kept = end.map_or(help, |end| &help[..end]);
    kept.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn subcommands(help: &str) -> Vec<String> {
    let below = help.split_once("\nCommands:\n").map_or("", |(_, below)| below);
    let rows = below.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    rows.filter(|row| !row.starts_with(' '))
        .filter_map(|row| row.split(' ').next().map(str::to_owned))
        .collect()
}

#[track_caller]
fn compare(name: &str, written: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    #[allow(clippy::disallowed_methods, reason = "a test asks its caller whether to write")]
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, written).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == written, "docs/{name} is out of date: run UPDATE_DOCS=1 cargo test -p agent-mesh docs");
}
