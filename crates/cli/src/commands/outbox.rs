//! `agent-mesh outbox`

use std::collections::BTreeMap;
use std::time::Duration;

use agent_team_mesh::archive::Stored;
use agent_team_mesh::ops::outbox::{self, Carried, DEFAULT_EXPIRY, Report};
use agent_team_mesh::record::State;
use agent_team_mesh::{Mesh, MeshError};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

/// Look after messages that wait for a teammate who is away
///
/// `send --queue` keeps a message while its teammate cannot be reached. `flush` or `run` delivers it later: each
/// teammate's messages in their order, each exactly once, whichever and however many of these are at work. What
/// cannot pass by itself (a wrong token, a teammate who left, a refusal) is given up at once: `list` shows it with the
/// reason, `retry` puts it back.
#[derive(Debug, Args)]
pub struct OutboxArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What waits, and what was given up before it arrived
    List,
    /// Try everything that waits, now and once
    ///
    /// What its teammate's owner has to let run is looked at and not waited for. Exits 0 also if something still waits; with
    /// the code of the first failure if something was given up.
    Flush {
        /// Only for this teammate
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Take out a message that has not left
    Rm {
        /// Its id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Put back a message that was given up, or make one that waits due now
    Retry {
        /// Its id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
        /// Give up when it is not delivered by then: 30m, 2h, 7d [default: 24h]
        #[arg(long, value_parser = duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// Deliver what becomes due, until Ctrl-C or SIGTERM
    ///
    /// Several may be at work at once. With --json each message that was tried is one line.
    Run {
        #[command(flatten)]
        how: HowArgs,
    },
}

/// How messages are delivered.
#[derive(Debug, Args)]
struct HowArgs {
    /// How long to wait for each reply; a later one is fetched later [default: 60] [env: MESH_TIMEOUT]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Also send where it could be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: &OutboxArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let insecure = match &args.action {
        Action::Flush { how, .. } | Action::Run { how } => how.insecure,
        _ => false,
    };
    let mesh = settings.mesh(insecure)?;
    let timeout = |how: &HowArgs| how.timeout.unwrap_or(settings.timeout.value);
    match &args.action {
        Action::List => list(&mesh, ui).await,
        Action::Flush { to, how } => flush(&mesh, to.as_deref(), timeout(how), ui).await,
        Action::Rm { id } => {
            let stored = outbox::remove(&mesh, id).await?;
            Ok(one("cancelled", &stored, ui))
        }
        Action::Retry { id, expires } => {
            let stored = outbox::retry(&mesh, id, expires.unwrap_or(DEFAULT_EXPIRY)).await?;
            Ok(one("queued", &stored, ui))
        }
        Action::Run { how } => work(&mesh.keeping_connections(), timeout(how), ui).await,
    }
}

fn one(done: &str, stored: &Stored, ui: &Ui) -> Exit {
    ui.out(format!("{done} {}", stored.record.id));
    ui.document("outbox", Exit::Done, json!(stored));
    Exit::Done
}

async fn list(mesh: &Mesh, ui: &Ui) -> Result<Exit, CliError> {
    let (messages, now) = (outbox::list(mesh).await?, jiff::Timestamp::now());
    let time = |at: Option<jiff::Timestamp>| {
        at.map_or_else(|| "-".to_owned(), |at| at.strftime("%m-%d %H:%M:%SZ").to_string())
    };
    let rows = messages.iter().map(|message| {
        vec![
            message.record.id.clone(),
            message.record.to.name.clone(),
            message.record.state.name().to_owned(),
            message.tries.to_string(),
            match message.next_try_at {
                Some(at) if at <= now => "due".to_owned(),
                at => time(at),
            },
            time(message.expires_at),
            text::shortened(&message.message, 40),
            message.failure.as_deref().map_or_else(|| "-".to_owned(), text::one_line),
        ]
    });
    if messages.is_empty() {
        ui.note("the outbox is empty");
    } else {
        ui.table(&["ID", "TO", "STATE", "TRIES", "NEXT TRY", "EXPIRES", "MESSAGE", "WHY"], rows.collect());
    }
    let waiting = messages.iter().filter(|message| message.next_try_at.is_some()).count();
    let counts = json!({ "waiting": waiting, "givenUp": messages.len() - waiting });
    ui.document("outbox", Exit::Done, json!({ "messages": messages, "counts": counts }));
    Ok(Exit::Done)
}

/// What a flush came to.
#[derive(Default)]
struct Flushed {
    results: Vec<Value>,
    counts: BTreeMap<&'static str, usize>,
    failed: Option<CliError>,
}

async fn flush(mesh: &Mesh, to: Option<&str>, timeout: Duration, ui: &Ui) -> Result<Exit, CliError> {
    let only = to.map(|name| Ok::<_, MeshError>(mesh.registry()?.find(name)?)).transpose()?;
    let mut flushed = Flushed::default();
    let mut report = |report| match report {
        Report::Carried(carried) => {
            show(&carried, ui);
            *flushed.counts.entry(carried.record.state.name()).or_default() += 1;
            let error = carried.record.error.as_ref().map(CliError::from);
            flushed.results.push(line(&carried));
            // The first that was given up gives the exit code: it is the one to look at first.
            if carried.next_try_at.is_none() && flushed.failed.is_none() {
                flushed.failed = error;
            }
        }
        Report::Trouble(error) => flushed.failed = flushed.failed.take().or(Some(error.into())),
        _ => {}
    };
    let signals = Signals::listen()?;
    let done = until_stopped(mesh, signals, outbox::flush(mesh, only, timeout, &mut report)).await?;
    let fields = json!({ "results": flushed.results, "counts": flushed.counts });
    match (done, flushed.failed) {
        (Until::Interrupted | Until::Terminated, _) => {
            let hint = "what was not delivered is still kept: agent-mesh outbox flush goes on";
            Err(CliError::interrupted().hint(hint).with_fields(fields))
        }
        (Until::Done(()), Some(error)) => Ok(ui.document_with_error("outbox", fields, error)),
        (Until::Done(()), None) => {
            if flushed.results.is_empty() {
                ui.note("nothing waits");
            }
            ui.document("outbox", Exit::Done, fields);
            Ok(Exit::Done)
        }
    }
}

async fn work(mesh: &Mesh, timeout: Duration, ui: &Ui) -> Result<Exit, CliError> {
    let signals = Signals::listen()?;
    ui.note("delivering what waits; Ctrl-C ends it");
    let mut report = |report| match report {
        Report::Carried(carried) => {
            show(&carried, ui);
            ui.document("outbox", Exit::Done, line(&carried));
        }
        Report::Trouble(error) => ui.warn(CliError::from(error).message),
        _ => {}
    };
    let stopped = until_stopped(mesh, signals, outbox::work(mesh, timeout, &mut report)).await;
    mesh.close_connections().await;
    match stopped? {
        Until::Interrupted => Ok(Exit::Interrupted),
        Until::Done(_) | Until::Terminated => Ok(Exit::Done),
    }
}

/// What stops us. It is listened for before we say that we are at work.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|e| CliError::io("cannot listen for signals", &e));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }
}

/// How what was at work ended.
enum Until<T> {
    /// By itself.
    Done(T),
    /// By SIGTERM.
    Terminated,
    /// By Ctrl-C.
    Interrupted,
}

/// Runs until it is done, or somebody stops it: what is on its way then is left for the next worker, which the archive
/// knows when this returns.
async fn until_stopped<T>(
    mesh: &Mesh,
    mut signals: Signals,
    running: impl Future<Output = Result<T, MeshError>>,
) -> Result<Until<T>, CliError> {
    let done = tokio::select! {
        done = Box::pin(running) => Until::Done(done?),
        _ = signals.terminate.recv() => Until::Terminated,
        _ = signals.interrupt.recv() => Until::Interrupted,
    };
    mesh.archive()?.settle().await.map_err(MeshError::from)?;
    Ok(done)
}

/// A message that was tried, as JSON.
pub fn line(carried: &Carried) -> Value {
    let mut fields = serde_json::to_value(&carried.record).unwrap_or_default();
    fields["nextTryAt"] = json!(carried.next_try_at);
    if let Some(error) = &carried.record.error {
        fields["error"] = CliError::from(error).to_json();
    }
    fields
}

fn show(carried: &Carried, ui: &Ui) {
    let record = &carried.record;
    let colour = match record.state {
        State::Replied => style::GOOD,
        state if state.is_open() => style::STRONG,
        _ => style::BAD,
    };
    let mut line = Line::styled(style::FAINT, &record.id)
        .text(format!(" → {} ", text::one_line(&record.to.name)))
        .with(colour, record.state.name());
    if let Some(error) = &record.error {
        line = line.text(format!("  {}", text::one_line(&CliError::from(error).message)));
    }
    ui.out(line);
    if let Some(reply) = &record.reply {
        ui.quoted(&reply.text);
    }
}
