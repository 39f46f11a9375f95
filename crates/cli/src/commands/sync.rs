//! `agent-mesh sync`

use std::time::Duration;

use agent_team_mesh::MeshError;
use agent_team_mesh::ops::sync::{SyncOptions, sync};
use agent_team_mesh::sync::{Changed, Changes, Signal, Source, Watcher, Who};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

/// How long one source may take to answer.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(60);
/// With --watch: the longest rest after failures, unless the one asked for is longer.
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

/// Bring the registry up to date with the team's list
///
/// A source is `file:PATH`, `https://…`, `git+https://…?path=registry.json&ref=main` (also git+ssh, git+file),
/// `exec:COMMAND`, `dns:NAME` or `k8s:NAMESPACE?selector=app=agent`, and answers with JSON (a registry, or a bare array)
/// or CSV. Without --from the sources of `[[sync]]` in config.toml are asked, in their order. Entries made by hand stay
/// as they are; entries from a source follow it and go with it. When a source is empty or broken, nothing changes.
/// All of it: docs/sync.md
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Ask this source, in place of those in config.toml; more than once for several [env: MESH_SYNC_FROM]
    #[arg(long, value_name = "URI")]
    from: Vec<String>,
    /// Show what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Let what the sources say win over entries made by hand, too
    #[arg(long)]
    prefer_source: bool,
    /// Believe a source that lists nobody
    #[arg(long)]
    allow_empty: bool,
    /// Sync again and again, with this rest in between, until Ctrl-C; 5m when no time is given
    #[arg(long, value_parser = duration, num_args = 0..=1, default_missing_value = "5m", value_name = "TIME")]
    watch: Option<Duration>,
}

impl SyncArgs {
    /// Whether it goes on until somebody stops it.
    pub fn follows(&self) -> bool {
        self.watch.is_some()
    }
}

pub async fn run(args: &SyncArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let options = SyncOptions {
        sources: settings.sync_sources(&args.from)?,
        prefer_source: args.prefer_source,
        allow_empty: args.allow_empty,
        dry_run: args.dry_run,
        timeout: SOURCE_TIMEOUT,
    };
    match args.watch {
        Some(rest) => watch(&options, rest, settings, ui).await,
        None => once(&options, settings, ui).await,
    }
}

async fn once(options: &SyncOptions, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let round = round(options, settings, |changes| show(changes, ui)).await.map_err(CliError::from);
    let round = round.map_err(|error| error.with_fields(fields(options, &Changes::default(), false)))?;
    let outcome = match (round.written, round.changes.any()) {
        (true, _) => format!("wrote {}", settings.registry.value.display()),
        (false, true) => "dry run: nothing was written".to_owned(),
        (false, false) => "nothing to change".to_owned(),
    };
    ui.out(format!("{}; {outcome}", counts(&round.changes)));
    if !round.changes.kept.is_empty() {
        let names: Vec<_> = round.changes.kept.iter().map(brief).collect();
        ui.note(Line::styled(style::FAINT, "made by hand, and kept: ").text(names.join(", ")));
        ui.hint("--prefer-source lets the sources win");
    }
    ui.document("sync", Exit::Done, fields(options, &round.changes, round.written));
    Ok(Exit::Done)
}

/// Round after round. A source in trouble is asked again after a longer rest; only a mistake in how we were called ends
/// it, and only at once.
async fn watch(
    options: &SyncOptions,
    rest: Duration,
    settings: &Settings,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let mut watcher = Watcher::start(&options.sources, settings.connect_timeout.value).await;
    let mut failures = 0;
    for number in 1_u64.. {
        let outcome = round(options, settings, |_| ()).await.map_err(CliError::from);
        let at = format!("{:.0}", Timestamp::now());
        match outcome {
            Ok(round) => {
                failures = 0;
                tell(&at, options, &round, ui);
            }
            Err(error) if number == 1 && error.exit == Exit::Usage => return Err(error),
            Err(error) => {
                failures += 1;
                tell_failure(at, options, error, ui);
            }
        }
        pause(longer(rest, failures), &mut watcher, ui).await;
    }
    Ok(Exit::Done)
}

/// Until it is time, or a watched source says that something changed.
async fn pause(rest: Duration, watcher: &mut Watcher, ui: &Ui) {
    let until = tokio::time::Instant::now() + rest;
    loop {
        match tokio::time::timeout_at(until, watcher.next()).await {
            Err(_) => return,
            Ok(Signal::Changed) => return watcher.settle().await,
            Ok(Signal::Trouble(text)) => {
                ui.warn(format!("a source cannot be watched: {}", text::one_line(&text)));
            }
        }
    }
}

/// The rest after so many failures in a row: twice as long each time.
fn longer(rest: Duration, failures: u32) -> Duration {
    let doubled = rest.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST_REST.max(rest))
}

struct Round {
    changes: Changes,
    written: bool,
}

async fn round(
    options: &SyncOptions,
    settings: &Settings,
    show: impl FnOnce(&Changes),
) -> Result<Round, MeshError> {
    // Anew each time: a mesh reads its files once.
    let mesh = settings.mesh(false).map_err(|error| MeshError::Usage(error.message))?;
    let plan = sync(&mesh, options).await?;
    let changes = plan.changes.clone();
    show(&changes);
    Ok(Round { written: plan.write()?, changes })
}

/// The difference, before it is written.
fn show(changes: &Changes, ui: &Ui) {
    for who in &changes.added {
        ui.out(Line::styled(style::GOOD, "+ ").text(format!("{}  from {}", named(who), who.source)));
    }
    for who in &changes.removed {
        ui.out(Line::styled(style::BAD, "- ").text(format!("{}  gone from {}", named(who), who.source)));
    }
    for changed in &changes.changed {
        let fields: Vec<_> = changed
            .fields
            .iter()
            .map(|(field, difference)| {
                format!("{field} {} -> {}", value(&difference.old), value(&difference.new))
            })
            .collect();
        let name = format!("{} ({})", text::one_line(&changed.name), changed.email_prefix);
        ui.out(Line::styled(style::STRONG, "~ ").text(format!("{name}  {}", fields.join(", "))));
    }
}

fn named(who: &Who) -> String {
    format!("{} ({})", text::one_line(&who.name), who.email_prefix)
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text::one_line(text),
        other => text::one_line(&other.to_string()),
    }
}

fn brief(changed: &Changed) -> String {
    let fields: Vec<_> = changed.fields.keys().map(String::as_str).collect();
    format!("{} ({})", changed.email_prefix, fields.join(", "))
}

fn counts(changes: &Changes) -> String {
    let [added, removed, changed] = [changes.added.len(), changes.removed.len(), changes.changed.len()];
    format!("{added} added, {removed} removed, {changed} changed")
}

/// A round on one line.
fn tell(at: &str, options: &SyncOptions, round: &Round, ui: &Ui) {
    let changes = &round.changes;
    let prefixes = |list: &[Who]| list.iter().map(|who| who.email_prefix.clone()).collect();
    let lists: [(&str, Vec<String>); 3] = [
        ("added", prefixes(&changes.added)),
        ("removed", prefixes(&changes.removed)),
        ("changed", changes.changed.iter().map(brief).collect()),
    ];
    let told = lists.iter().filter(|(_, names)| !names.is_empty());
    let told: Vec<_> = told.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
    let told = if told.is_empty() { "nothing to change".to_owned() } else { told.join("; ") };
    let dry = if changes.any() && !round.written { " (dry run)" } else { "" };
    ui.out(Line::styled(style::FAINT, at).text(format!("  {told}{dry}")));
    let mut document = fields(options, changes, round.written);
    document["at"] = at.into();
    ui.document("sync", Exit::Done, document);
}

fn tell_failure(at: String, options: &SyncOptions, error: CliError, ui: &Ui) {
    if !ui.is_json() {
        let line = Line::styled(style::FAINT, at).with(style::BAD, "  error: ");
        ui.out(line.text(text::one_line(&error.message)));
        return;
    }
    let mut document = fields(options, &Changes::default(), false);
    document["at"] = at.into();
    ui.failure("sync", error.with_fields(document));
}

fn fields(options: &SyncOptions, changes: &Changes, written: bool) -> Value {
    let mut document = json!({
        "source": marks(&options.sources),
        "added": changes.added,
        "removed": changes.removed,
        "changed": changes.changed,
        "kept": changes.kept,
        "written": written,
    });
    if options.dry_run {
        document["dryRun"] = true.into();
    }
    document
}

/// One source by its name, several as a list.
fn marks(sources: &[Source]) -> Value {
    let marks: Vec<Value> = sources.iter().map(|source| source.uri.mark().into()).collect();
    match marks.as_slice() {
        [one] => one.clone(),
        _ => marks.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_rest_longer_up_to_a_limit() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (rest, failures, expected) in
            [(1, 0, 1), (1, 1, 1), (1, 2, 2), (1, 4, 8), (1, 40, 15), (60, 40, 60)]
        {
            assert_eq!(longer(minutes(rest), failures), minutes(expected), "{rest} {failures}");
        }
    }
}
