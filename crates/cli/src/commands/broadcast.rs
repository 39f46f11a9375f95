//! `agent-mesh broadcast`

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::future::ready;
use std::pin::pin;

use agent_team_mesh::MeshError;
use agent_team_mesh::message::check;
use agent_team_mesh::ops::broadcast::{BroadcastRequest, Selection, broadcast, dry_run};
use agent_team_mesh::ops::send::Plan;
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::record::{Record, State};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::send::{HowArgs, MessageArgs};
use crate::error::{CliError, Exit};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

const TIMEOUT: &str = "How long each teammate may take, from the moment his turn comes: 60, 90s, 2m [default: 60] [env: MESH_TIMEOUT]";
/// For so many teammates it is said what helps; the JSON document says it for all.
const HINTS: usize = 50;

/// Send one message to the whole team, and gather the replies
///
/// Everybody in the registry but me, all at once; who is done is shown as soon as he is. Exits 0 when all that could be asked
/// replied, 8 when only some did, 3 when all have it and nobody replied in time, 6 when nobody was reached; peers without
/// an address or a token are skipped and do not count.
#[derive(Debug, Args)]
#[command(mut_arg("timeout", |arg| arg.help(TIMEOUT)))]
pub struct BroadcastArgs {
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    how: HowArgs,
    /// Only these teammates
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Not these teammates
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    except: Vec<String>,
    /// Only teammates with this tag; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    to_tag: Vec<(String, String)>,
    /// How many teammates at once
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Be content with so many replies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    quorum: Option<u32>,
    /// Return with the first reply; the others keep what they have
    #[arg(long, conflicts_with_all = ["quorum", "no_wait"])]
    first: bool,
    /// Use the instant-message fallback for those who are unreachable
    #[arg(long)]
    fallback: bool,
    /// Return when the messages were accepted
    #[arg(long)]
    no_wait: bool,
    /// Show what would be sent, and touch no network
    #[arg(long)]
    dry_run: bool,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub async fn run(args: BroadcastArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mut interrupt = pin!(interrupted());
    // From now on it is heard: to read a large registry takes a moment, and no signal may end us without a word.
    tokio::select! {
        biased;
        () = &mut interrupt => return Err(CliError::interrupted()),
        () = ready(()) => {}
    }
    let mesh = super::open_with_registry(settings, args.how.insecure, ui)?;
    let mut send = args.how.request(&mesh, args.message.read()?, settings).await?;
    send.wait = !args.no_wait;
    send.fallback = args.fallback;
    let request = BroadcastRequest {
        send,
        selection: Selection { only: args.only, except: args.except, tags: args.to_tag },
        concurrency: usize::from(args.concurrency),
        enough: args.first.then_some(1),
    };
    let quorum = args.quorum.map(|quorum| usize::try_from(quorum).unwrap_or(usize::MAX));
    let asked = request.selection.of(&mesh)?.len();
    if quorum.is_some_and(|quorum| asked > 0 && quorum > asked) {
        let are = if asked == 1 { "is" } else { "are" };
        return Err(CliError::usage(format!("--quorum: only {asked} {are} asked"))
            .hint("without it, all who are asked are waited for"));
    }
    super::warn_of_size(check(&request.send.message, mesh.config().limits).map_err(MeshError::from)?, ui);
    if args.dry_run {
        return show_plans(&mesh, &request, ui);
    }
    super::mind_descriptors(asked, ui);
    let mut shown = Shown::new(ui);
    let was_interrupted = Cell::new(false);
    let stop = async {
        interrupt.await;
        was_interrupted.set(true);
    };
    let (id, records) = match broadcast(&mesh, &request, stop, &mut shown).await {
        Err(error @ MeshError::Nobody) => {
            let fields = json!({ "id": null, "counts": {}, "results": [] });
            return Ok(ui.document_with_error("broadcast", fields, error.into()));
        }
        outcome => outcome?,
    };
    shown.bar.finish_and_clear();
    let exit = match was_interrupted.get() {
        true => Exit::Interrupted,
        false => verdict(&records, quorum.or(args.first.then_some(1))),
    };
    let done = shown.ids.len();
    shown.all(&records);
    let fields = json!({
        "id": id,
        "counts": counts(&records),
        "results": records.iter().map(result).collect::<Vec<_>>(),
    });
    if exit == Exit::Done {
        ui.document("broadcast", exit, fields);
        return Ok(exit);
    }
    Ok(ui.document_with_error("broadcast", fields, failure(exit, &records, done)))
}

fn failure(exit: Exit, records: &[Record], done: usize) -> CliError {
    match (exit, refusal(records.iter().map(|record| record.error.as_ref()))) {
        (Exit::Interrupted, _) => halfway(done),
        (_, Some(refusal)) => refusal.into(),
        (Exit::NoReply, None) => CliError::new(exit, "no-reply-in-time", "everybody has it, and nobody replied in time")
            .hint("do not send it again: agent-mesh wait ID goes on with each, by the ids above"),
        (Exit::Unreachable, None) => CliError::new(exit, "reached-nobody", "the broadcast reached nobody")
            .hint("agent-mesh doctor shows at which step, and on whose side"),
        _ => CliError::new(exit, "reached-some", "not everybody replied")
            .hint(
                "each has its own reason above; --only sends again to those it did not reach, agent-mesh wait ID goes on with \
                 those who have it",
            ),
    }
}

fn show_plans(mesh: &agent_team_mesh::Mesh, request: &BroadcastRequest, ui: &Ui) -> Result<Exit, CliError> {
    let plans = dry_run(mesh, request)?;
    let would = |error: &Option<CliError>| if error.is_none() { "would-send" } else { "skipped" };
    let plans: Vec<_> = plans.into_iter().map(|plan| (why_not(&plan), plan)).collect();
    let results: Vec<Value> = plans
        .iter()
        .map(|(error, plan)| {
            json!({
                "to": plan.to, "address": plan.address, "session": plan.session, "bytes": plan.bytes,
                "token": plan.token, "state": would(error), "message": plan.message,
                "error": error.as_ref().map(CliError::to_json),
            })
        })
        .collect();
    let rows = plans.iter().map(|(error, plan)| {
        let address = plan.address.clone().unwrap_or_else(|| "-".to_owned());
        let why = error.as_ref().map_or_else(|| "-".to_owned(), |error| error.message.clone());
        vec![plan.to.name.clone(), would(error).to_owned(), address, plan.session.clone(), why]
    });
    ui.table(&["TO", "STATE", "ADDRESS", "SESSION", "WHY"], rows.collect());
    if let Some((_, plan)) = plans.first() {
        ui.out(format!(
            "\nto {}, and to the others with an id of their own:\n{}",
            plan.to.name, plan.message
        ));
    }
    let fields = json!({ "dryRun": true, "message": request.send.message, "results": results });
    if let Some(refusal) = refusal(plans.iter().map(|(_, plan)| plan.obstacle())) {
        return Ok(ui.document_with_error("broadcast", fields, refusal.into()));
    }
    ui.document("broadcast", Exit::Done, fields);
    Ok(Exit::Done)
}

/// Why a plan comes to nothing, if so.
fn why_not(plan: &Plan) -> Option<CliError> {
    let lacks = || MeshError::NoCredential { to: plan.to.clone() };
    match plan.obstacle() {
        Some(obstacle) => Some(obstacle.into()),
        None => (plan.token == "missing").then(|| lacks().into()),
    }
}

/// Whether a record says that the message arrived.
fn arrived(record: &Record) -> bool {
    matches!(record.state, State::Replied | State::Accepted | State::Held | State::Fallback)
}

/// All that count arrived (or as many as asked for), some did, or none; or all have it, and nobody replied in time. Who was
/// skipped does not count.
fn verdict(records: &[Record], quorum: Option<usize>) -> Exit {
    let counting: Vec<&Record> = records.iter().filter(|record| record.state != State::Skipped).collect();
    let good = counting.iter().filter(|record| arrived(record) && record.error.is_none()).count();
    let reached = counting.iter().any(|record| record.receipt.reached_at.is_some() || arrived(record));
    let is_open = |record: &&Record| matches!(record.state, State::Accepted | State::Held);
    let wanted = quorum.unwrap_or(counting.len());
    match (good >= wanted, reached) {
        (true, _) if !counting.is_empty() => Exit::Done,
        _ if !counting.is_empty() && counting.iter().all(is_open) => Exit::NoReply,
        (_, true) => Exit::Partial,
        _ => Exit::Unreachable,
    }
}

/// What our own side said, if it let it go to nobody: a guard, a file of ours, or a disk that takes no message.
fn refusal<'a>(mut errors: impl Iterator<Item = Option<&'a MeshError>>) -> Option<&'a MeshError> {
    let is_ours = |error: &&MeshError| {
        matches!(
            error,
            MeshError::Guard(_)
                | MeshError::Archive(_)
                | MeshError::Device(_)
                | MeshError::Pins(_)
                | MeshError::Secrets(_)
                | MeshError::File(_)
        )
    };
    let first = errors.next()?.filter(is_ours)?;
    errors.all(|error| error.as_ref().is_some_and(is_ours)).then_some(first)
}

/// What to say when Ctrl-C ends the watching: where the rest is found.
fn halfway(done: usize) -> CliError {
    let hint = "what was accepted goes on: agent-mesh log --since 10m shows it, agent-mesh wait ID its reply";
    CliError::new(Exit::Interrupted, "interrupted", format!("interrupted after {done} results")).hint(hint)
}

fn counts(records: &[Record]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.state.name()).or_default() += 1;
    }
    counts
}

fn result(record: &Record) -> Value {
    let reply = record.reply.as_ref();
    let error = record.error.as_ref().map(|error| CliError::from(error).to_json());
    let mut result =
        json!({ "to": record.to, "state": record.state, "id": record.id, "reply": reply, "error": error });
    if let Some(warning) = &record.warning {
        result["warning"] = json!(warning);
    }
    result
}

/// Shows each teammate's result when it comes.
struct Shown<'a> {
    ui: &'a Ui,
    bar: ProgressBar,
    /// Of the messages that are done.
    ids: HashSet<String>,
    hints: usize,
}

impl<'a> Shown<'a> {
    fn new(ui: &'a Ui) -> Self {
        let bar = if ui.shows_progress() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Self { ui, bar: bar.with_style(ProgressStyle::default_spinner()), ids: HashSet::new(), hints: 0 }
    }

    /// Those that nobody waited for to the end, and how many there are of each kind.
    fn all(&mut self, records: &[Record]) {
        for record in records.iter().filter(|record| !self.ids.contains(&record.id)).collect::<Vec<_>>() {
            self.one(record);
        }
        let summary: Vec<String> =
            counts(records).into_iter().map(|(state, count)| format!("{count} {state}")).collect();
        self.ui.note(summary.join(" · "));
    }

    fn one(&mut self, record: &Record) {
        let ui = self.ui;
        if let (Some(warning), true) = (&record.warning, self.hints < HINTS) {
            self.hints += 1;
            ui.warn(format!("{}: {warning}", record.to.name));
        }
        if ui.is_json() {
            return;
        }
        if ui.is_quiet() {
            record.reply.iter().for_each(|reply| ui.peer_text(&reply.text));
            return;
        }
        let colour = if arrived(record) { style::GOOD } else { style::BAD };
        ui.out(Line::styled(style::STRONG, &record.to.name).text("  ").with(colour, record.state.name()));
        match (&record.reply, &record.error) {
            (Some(reply), _) => ui.quoted(&reply.text),
            (None, Some(error)) => {
                let error = CliError::from(error);
                ui.quoted(&error.message);
                if let (Some(hint), true) = (error.hint, self.hints < HINTS) {
                    self.hints += 1;
                    ui.note(Line::styled(style::STRONG, format!("hint for {}: ", record.to.name)).text(hint));
                }
            }
            (None, None) => {}
        }
    }
}

impl Observer for Shown<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        if let Progress::PeerDone(record) = step {
            self.ids.insert(record.id.clone());
            let bar = self.bar.clone();
            bar.suspend(|| self.one(record));
            let done = self.ids.len();
            bar.set_message(format!("{done} done, last {}", text::one_line(&record.to.name)));
            bar.tick();
        }
    }
}
