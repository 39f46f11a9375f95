//! `agent-mesh send`

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_team_mesh::ops::chain;
use agent_team_mesh::ops::outbox::{DEFAULT_EXPIRY, send_or_keep};
use agent_team_mesh::ops::send::{MAX_ROUNDS, SendRequest, plan, send, send_rounds};
use agent_team_mesh::quoted::{Attachment, with_attachments};
use agent_team_mesh::record::{Record, State};
use agent_team_mesh::registry::{Agent, Via};
use agent_team_mesh::{Mesh, MeshError, SessionChoice};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::args::duration;
use crate::commands::watch::Watch;
use crate::error::{CliError, Exit};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// Largest message read from a file or standard input: far above any limit that makes sense, far below memory.
const MAX_INPUT: u64 = 25 * 1024 * 1024;

/// Send a message to a teammate's agent and await its reply
///
/// The reply goes to stdout, talk to stderr. One deadline covers everything; when it passes after the message was
/// accepted, the id is printed and the exit code is 3: their agent has it, do not send it again.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The teammate: e-mail prefix, name, nickname, or the beginning of one
    #[arg(long, value_name = "NAME")]
    to: String,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    how: HowArgs,
    /// Send each reply back as the next message, for so many rounds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: Option<u32>,
    /// The message's id, a UUID
    #[arg(long, value_name = "UUID", conflicts_with = "rounds")]
    id: Option<Uuid>,
    /// Return when the message was accepted
    #[arg(long, conflicts_with = "rounds")]
    no_wait: bool,
    /// Keep the message in the outbox while the teammate cannot be reached [env: MESH_QUEUE]
    #[arg(long, conflicts_with = "rounds")]
    queue: bool,
    /// With --queue: give up when it is not delivered by then: 30m, 2h, 7d [default: 24h]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    expires: Option<Duration>,
    /// Show what would be sent, and touch no network
    #[arg(long)]
    dry_run: bool,
}

/// Where the message comes from.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct MessageArgs {
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// Read the message from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    message_file: Option<PathBuf>,
}

/// How a message travels.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// The session on their side; one for each sender unless given
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    session: Option<String>,
    /// A topic with a session of its own
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    thread: Option<String>,
    /// Which agent behind their gateway
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    agent: Option<String>,
    /// How long everything may take: 60, 90s, 2m [default: 60] [env: MESH_TIMEOUT]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// The route
    #[arg(long, value_enum)]
    via: Option<Route>,
    /// Put a text file behind the message, marked as data; may be given several times
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Leave out the header that says who speaks: for people
    #[arg(long)]
    no_header: bool,
    /// The message that this one is sent because of: its id, or the whole first line of its header
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    in_reply_to: Option<String>,
    /// Also send where it could be overheard
    #[arg(long)]
    pub insecure: bool,
}

/// How a message reaches a gateway.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Route {
    /// Each message is a run of its own, with its own reply
    Agent,
    /// As the bash skill did
    Chat,
    /// The A2A protocol, at the teammate's a2aUrl
    A2a,
}

impl MessageArgs {
    /// The message: argument, file, or standard input when something is piped in.
    pub fn read(&self) -> Result<String, CliError> {
        match (&self.message, &self.message_file) {
            (Some(message), _) => Ok(message.clone()),
            (None, Some(path)) if path == Path::new("-") => {
                read_text(std::io::stdin().lock(), "standard input")
            }
            (None, Some(path)) => {
                let name = path.display().to_string();
                let file = std::fs::File::open(path).map_err(|e| CliError::unreadable(&name, &e))?;
                read_text(file, &name)
            }
            (None, None) if !std::io::stdin().is_terminal() => {
                read_text(std::io::stdin().lock(), "standard input")
            }
            (None, None) => {
                Err(CliError::usage("no message")
                    .hint("give --message TEXT, --message-file FILE, or pipe it in"))
            }
        }
    }
}

fn attachment(path: &Path) -> Result<Attachment, CliError> {
    let shown = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|e| CliError::unreadable(&shown, &e))?;
    let text = read_whole(file, &shown)?;
    let name = path.file_name().map_or_else(|| shown.clone(), |name| name.to_string_lossy().into_owned());
    Ok(Attachment { name, text })
}

/// A message; `echo hello | agent-mesh send` means "hello".
fn read_text(from: impl Read, name: &str) -> Result<String, CliError> {
    let mut text = read_whole(from, name)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn read_whole(from: impl Read, name: &str) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    from.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(|e| CliError::unreadable(name, &e))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(CliError::new(Exit::Policy, "message-too-large", format!("{name} has more than 25 MiB"))
            .hint("no gateway takes so much at once: shorten it"));
    }
    String::from_utf8(bytes).map_err(|e| {
        CliError::usage(format!("{name} is not UTF-8 text (byte {})", e.utf8_error().valid_up_to()))
            .hint("only text travels: iconv -f LATIN1 -t UTF-8 makes it of text in another encoding")
    })
}

impl HowArgs {
    /// The request these arguments describe.
    pub async fn request(
        self,
        mesh: &Mesh,
        message: String,
        settings: &Settings,
    ) -> Result<SendRequest, CliError> {
        let in_reply_to = match &self.in_reply_to {
            Some(named) => Some(chain::of_message(mesh, named).await?),
            None => None,
        };
        let files = self.attach.iter().map(|path| attachment(path)).collect::<Result<Vec<_>, _>>()?;
        let message = with_attachments(&message, &files);
        Ok(SendRequest {
            session: SessionChoice { session: self.session, thread: self.thread, agent: self.agent },
            via: self.via.map(|route| match route {
                Route::Agent => Via::Agent,
                Route::Chat => Via::Chat,
                Route::A2a => Via::A2a,
            }),
            timeout: self.timeout.unwrap_or(settings.timeout.value),
            header: !self.no_header,
            in_reply_to,
            ..SendRequest::new(message)
        })
    }
}

pub async fn run(args: SendArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, args.how.insecure, ui)?;
    if !args.dry_run {
        // It takes longer than all that follows until it is needed.
        mesh.open_archive_ahead();
    }
    let agent = mesh.teammate(&args.to)?;
    super::warn_of_inline_tokens(&mesh, ui)?;
    let mut request = args.how.request(&mesh, args.message.read()?, settings).await?;
    request.wait = !args.no_wait;
    request.id = Some(args.id.unwrap_or_else(Uuid::now_v7));
    let planned = plan(&mesh, agent, &request)?;
    super::warn_of_size(planned.size_note, ui);
    let keeps = args.rounds.is_none() && (args.queue || settings.queue.value);
    if args.expires.is_some() && !keeps {
        return Err(CliError::usage("--expires is for a message that may wait")
            .hint("add --queue; how long we wait for the reply is --timeout"));
    }
    if args.dry_run {
        return Ok(dry_run(&planned, ui));
    }
    let watch = Watch::new(ui, &agent.name).sending(&planned);
    match args.rounds {
        Some(rounds) if rounds > 1 => converse(&mesh, agent, &request, rounds, watch, ui).await,
        None if keeps => {
            keep(&mesh, agent, &request, args.expires.unwrap_or(DEFAULT_EXPIRY), watch, ui).await
        }
        _ => once(&mesh, agent, &request, args.rounds.is_some(), watch, ui).await,
    }
}

/// What would be sent. Our own guards say no here, too; what stands in the way on the other side is a warning.
fn dry_run(plan: &agent_team_mesh::ops::send::Plan, ui: &Ui) -> Exit {
    let refusal = plan.obstacle().filter(|obstacle| matches!(obstacle, MeshError::Guard(_)));
    if let (Some(obstacle), None) = (plan.obstacle(), refusal) {
        ui.warn(CliError::from(obstacle).message);
    }
    ui.out(format!("to       {} ({})", plan.to.name, plan.to.email_prefix));
    ui.out(format!("address  {}", plan.address.as_deref().unwrap_or("none")));
    ui.out(format!("session  {}", plan.session));
    ui.out(format!("token    {}", plan.token));
    ui.out(format!("bytes    {}", plan.bytes));
    ui.out("");
    ui.out(&plan.message);
    let mut fields = serde_json::to_value(plan).unwrap_or_default();
    fields["dryRun"] = true.into();
    if let Some(refusal) = refusal {
        return ui.document_with_error("send", fields, refusal.into());
    }
    ui.document("send", Exit::Done, fields);
    Exit::Done
}

async fn once(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    as_rounds: bool,
    mut watch: Watch<'_>,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let sent = tokio::select! {
        record = send(mesh, agent, request, &mut watch) => record?,
        () = interrupted() => return Err(watch.interrupted(mesh).await),
    };
    let streamed = watch.finish();
    let rounds = as_rounds.then(|| rounds_json(&[(request.message.clone(), &sent)]));
    Ok(report(sent, rounds, streamed.as_deref(), ui))
}

/// Sends, or keeps the message in the outbox.
async fn keep(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    expires: Duration,
    mut watch: Watch<'_>,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let sent = tokio::select! {
        carried = Box::pin(send_or_keep(mesh, agent, request, expires, &mut watch)) => carried?,
        () = interrupted() => return Err(watch.interrupted(mesh).await),
    };
    let streamed = watch.finish();
    if sent.record.state != State::Queued {
        return Ok(report(sent.record, None, streamed.as_deref(), ui));
    }
    let why = match &sent.record.error {
        Some(error) => CliError::from(error).message,
        None => format!("earlier messages to {} wait", agent.name),
    };
    ui.note(format!("{why}: kept in the outbox, which agent-mesh outbox flush or run delivers"));
    if !ui.is_quiet() {
        ui.out(format!("queued {}", sent.record.id));
    }
    let mut fields = serde_json::to_value(&sent.record).unwrap_or_default();
    fields["nextTryAt"] = json!(sent.next_try_at);
    ui.document("send", Exit::Done, fields);
    Ok(Exit::Done)
}

async fn converse(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    rounds: u32,
    mut watch: Watch<'_>,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let said = tokio::select! {
        said = send_rounds(mesh, agent, request, rounds, &mut watch) => said,
        () = interrupted() => return Err(watch.interrupted(mesh).await),
    };
    let mut said = said?;
    watch.finish();
    let json =
        rounds_json(&said.iter().map(|(message, record)| (message.clone(), record)).collect::<Vec<_>>());
    // The last round speaks for all; its reply has been printed with the others.
    let Some((_, last)) = said.pop() else { return Err(CliError::usage("no rounds")) };
    let shown = last.reply.as_ref().map(|reply| reply.text.clone());
    Ok(report(last, Some(json), shown.as_deref(), ui))
}

fn rounds_json(said: &[(String, &Record)]) -> Value {
    let round = |(message, record): &(String, &Record)| json!({ "message": message, "reply": record.reply.as_ref().map(|reply| reply.text.clone()) });
    said.iter().map(round).collect()
}

/// Prints a record: the reply, unless it was already shown while it grew, or how far the message got.
fn report(mut record: Record, rounds: Option<Value>, shown: Option<&str>, ui: &Ui) -> Exit {
    let error = record.error.take();
    if let Some(warning) = &record.warning {
        ui.warn(warning);
    }
    let mut fields = serde_json::to_value(&record).unwrap_or_default();
    if let Some(rounds) = rounds {
        fields["rounds"] = rounds;
    }
    if let Some(reply) = &record.reply
        && shown != Some(reply.text.as_str())
    {
        ui.peer_text(&reply.text);
    }
    if let Some(error) = error {
        let error = CliError::from(error);
        if record.state.is_confirmed() {
            ui.note(Line::new("id ").with(style::STRONG, &record.id));
        }
        return ui.document_with_error("send", fields, error);
    }
    match record.state {
        State::Accepted if !ui.is_quiet() => ui.out(format!("accepted {}", record.id)),
        State::Held if !ui.is_quiet() => {
            ui.out(format!("held {}: {} has to let it run", record.id, record.to.name));
        }
        State::Fallback => {
            ui.note(format!("{} is unreachable: delivered by instant message", record.to.name));
        }
        _ => {}
    }
    ui.document("send", Exit::Done, fields);
    Exit::Done
}
