//! `agent-mesh log`

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use agent_team_mesh::archive::{Archive, Direction, Filter, Stored};
use agent_team_mesh::record::State;
use agent_team_mesh::registry::LookupError;
use agent_team_mesh::{Mesh, MeshError};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

/// How often `--follow` looks for something new.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How many messages are shown, unless somebody says.
const SHOWN: u32 = 50;

/// Show the messages we sent and received, newest last
#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    which: Which,
    /// Go on with what comes
    #[arg(long)]
    follow: bool,
}

/// Which messages.
#[derive(Debug, Clone, Default, PartialEq, Args)]
struct Which {
    /// With this teammate
    #[arg(long, value_name = "NAME")]
    with: Option<String>,
    /// Not older than this: 30m, 2h, 7d
    #[arg(long, value_parser = duration, value_name = "TIME")]
    since: Option<Duration>,
    /// In this state: accepted, replied, failed, unknown, …
    #[arg(long, value_parser = state, value_name = "STATE")]
    state: Option<State>,
    /// On this topic
    #[arg(long, value_name = "NAME")]
    thread: Option<String>,
    /// With these words in message or reply, in any script
    #[arg(long, value_name = "WORDS")]
    search: Option<String>,
    /// At most so many, the newest [default: 50; all for export]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One message, with every step of its life
    Show {
        /// Its id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print messages in full
    Export {
        /// How
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        #[command(flatten)]
        which: Which,
    },
    /// Forget messages whose life is over
    Prune {
        /// Those older than this: 12h, 90d
        #[arg(long, value_parser = duration, value_name = "TIME")]
        older_than: Duration,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON document a line
    Jsonl,
    /// For people
    Md,
}

fn state(text: &str) -> Result<State, String> {
    State::from_name(text).ok_or_else(|| format!("one of {}", State::ALL.map(State::name).join(", ")))
}

impl LogArgs {
    /// Whether it goes on until somebody stops it.
    pub fn follows(&self) -> bool {
        self.follow
    }
}

pub async fn run(args: &LogArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = settings.mesh(false)?;
    let archive = mesh.archive()?;
    // Not left to clap, whose rule would take the global options for a conflict, too.
    if args.action.is_some() && (args.follow || args.which != Which::default()) {
        return Err(CliError::usage(
            "options that choose messages go behind export, and not with show or prune",
        ));
    }
    match &args.action {
        Some(Action::Show { id }) => show(archive, id, ui).await,
        Some(Action::Export { format, which }) => {
            export(archive, filter(&mesh, which, None).await?, *format, ui).await
        }
        Some(Action::Prune { older_than }) => {
            let pruned = archive.prune(ago(*older_than)).await.map_err(MeshError::from)?;
            ui.out(format!("forgot {pruned} messages"));
            ui.document("log", Exit::Done, json!({ "pruned": pruned }));
            Ok(Exit::Done)
        }
        None if args.follow => follow(archive, filter(&mesh, &args.which, Some(SHOWN)).await?, ui).await,
        None => {
            let filter = filter(&mesh, &args.which, Some(SHOWN)).await?;
            let messages = archive.list(filter).await.map_err(MeshError::from)?;
            messages.iter().for_each(|message| line(message, ui));
            ui.document("log", Exit::Done, json!({ "messages": messages }));
            Ok(Exit::Done)
        }
    }
}

fn ago(duration: Duration) -> Timestamp {
    let back = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_sub(back).unwrap_or(Timestamp::MIN)
}

async fn filter(mesh: &Mesh, which: &Which, at_most: Option<u32>) -> Result<Filter, CliError> {
    let peer = match &which.with {
        Some(name) => Some(prefix(mesh, name).await?),
        None => None,
    };
    Ok(Filter {
        peer,
        since: which.since.map(ago),
        state: which.state,
        thread: which.thread.clone(),
        search: which.search.clone(),
        changed_since: None,
        limit: which.limit.or(at_most),
    })
}

/// Whom a name means. A peer that left the registry is still found by the prefix it had.
async fn prefix(mesh: &Mesh, name: &str) -> Result<String, MeshError> {
    let unknown = match mesh.registry().map(|registry| registry.find(name)) {
        Ok(Ok(agent)) => return Ok(agent.email_prefix.clone()),
        Ok(Err(error @ LookupError::Ambiguous { .. })) => return Err(error.into()),
        Ok(Err(error)) => error.into(),
        Err(error) => error,
    };
    let theirs = Filter { peer: Some(name.to_owned()), limit: Some(1), ..Filter::default() };
    if mesh.archive()?.list(theirs).await?.is_empty() { Err(unknown) } else { Ok(name.to_owned()) }
}

/// One message on one line, its reply on the next.
fn line(message: &Stored, ui: &Ui) {
    let arrow = if message.direction == Direction::Out { "→" } else { "←" };
    let (state, colour) = match message.record.state {
        state @ (State::Replied | State::Fallback) => (state, style::GOOD),
        state if state.is_open() => (state, style::STRONG),
        state => (state, style::BAD),
    };
    let time = message.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    ui.out(
        Line::styled(style::FAINT, format!("{time} {} ", &message.record.id))
            .text(format!("{arrow} {} ", message.record.to.name))
            .with(colour, state.name())
            .text(format!("  {}", text::shortened(&message.message, 100))),
    );
    if let Some(reply) = &message.record.reply {
        ui.out(Line::new(format!("    {}", text::shortened(&reply.text, 100))));
    }
}

async fn show(archive: &Archive, id: &str, ui: &Ui) -> Result<Exit, CliError> {
    let found = archive.find(id).await.map_err(MeshError::from)?;
    let message = found.ok_or_else(|| MeshError::NoSuchMessage { id: id.to_owned() })?;
    let events = archive.events(&message.record.id).await.map_err(MeshError::from)?;
    line(&message, ui);
    ui.out(format!(
        "session {}  run {}  {} bytes",
        message.record.session, message.run_id, message.record.bytes
    ));
    for event in &events {
        let detail = text::one_line(event.detail.as_deref().unwrap_or_default());
        ui.out(format!("  {}  {:<12} {detail}", event.at.strftime("%H:%M:%S%.3fZ"), event.step));
    }
    ui.out(format!("\n{}", message.message));
    if let Some(reply) = &message.record.reply {
        ui.out(Line::styled(style::STRONG, "\nreply"));
        ui.peer_text(&reply.text);
    }
    let mut fields = json!({ "messages": [message] });
    fields["messages"][0]["events"] = json!(events);
    ui.document("log", Exit::Done, fields);
    Ok(Exit::Done)
}

async fn export(archive: &Archive, filter: Filter, format: Format, ui: &Ui) -> Result<Exit, CliError> {
    let messages = archive.list(filter).await.map_err(MeshError::from)?;
    if !ui.is_json() {
        for message in &messages {
            match format {
                Format::Jsonl => ui.json_line(&json!(message)),
                Format::Md => ui.peer_text(&markdown(message)),
            }
        }
        return Ok(Exit::Done);
    }
    let fields = match format {
        Format::Jsonl => json!({ "messages": messages }),
        Format::Md => json!({ "markdown": messages.iter().map(markdown).collect::<String>() }),
    };
    ui.document("log", Exit::Done, fields);
    Ok(Exit::Done)
}

fn markdown(message: &Stored) -> String {
    let who = if message.direction == Direction::Out { "to" } else { "from" };
    let quoted = |text: &str| text.lines().map(|line| format!("> {line}\n")).collect::<String>();
    let reply = message.record.reply.as_ref().map(|reply| format!("\n{}\n", reply.text)).unwrap_or_default();
    format!(
        "## {} {who} {} ({})\n\n{}{reply}\n",
        message.created_at,
        message.record.to.name,
        message.record.state.name(),
        quoted(&message.message)
    )
}

/// Prints what is there, then what comes, and each message again when its state is another, until Ctrl-C. JSON readers
/// get one document a line.
async fn follow(archive: &Archive, mut filter: Filter, ui: &Ui) -> Result<Exit, CliError> {
    let mut shown: HashMap<i64, State> = HashMap::new();
    loop {
        // Asked before the messages: what happens in between is seen twice rather than never.
        let last = archive.last_event().await.map_err(MeshError::from)?;
        let messages = archive.list(filter.clone()).await.map_err(MeshError::from)?;
        for message in &messages {
            let state = message.record.state;
            if shown.insert(message.seq(), state) == Some(state) {
                continue;
            }
            line(message, ui);
            ui.document("log", Exit::Done, json!(message));
        }
        // What is over and was not touched this time is not remembered: somebody may follow for months.
        let touched: HashSet<i64> = messages.iter().map(Stored::seq).collect();
        shown.retain(|seq, state| state.is_open() || touched.contains(seq));
        filter.changed_since = Some(last);
        filter.limit = None;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
