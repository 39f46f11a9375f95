//! `agent-mesh inbox`

use std::time::Duration;

use agent_team_mesh::Mesh;
use agent_team_mesh::client::protocol::attribution::Header;
use agent_team_mesh::client::protocol::methods::inbox::{Decided, HeldMessage};
use agent_team_mesh::ops::inbox;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::text;
use crate::ui::{Line, Ui, style};

/// How long our own gateway may take.
const OWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Decide about messages that our own gateway holds
///
/// A peer whose mode in policy.toml is `approve` waits until its message is let in here. This talks to the gateway of
/// `agent-mesh serve` on this host, over loopback and with its own token, and sees only what is held there.
#[derive(Debug, Args)]
pub struct InboxArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What is held, oldest first
    List,
    /// One held message as a whole
    Show {
        /// Its id, here or as its sender knows it, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Let a message run
    Approve {
        /// Its id, here or as its sender knows it, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Turn a message down: its sender is told that its owner rejected it
    Reject {
        /// Its id, here or as its sender knows it, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Let no new messages of peers in, until `resume`; they are told to come again later
    Pause,
    /// Let new messages in again
    Resume,
}

pub async fn run(args: &InboxArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, false, ui)?;
    let deadline = Instant::now() + OWN_TIMEOUT;
    match &args.action {
        Action::List => list(&mesh, deadline, ui).await,
        Action::Show { id } => {
            let held = inbox::show(&mesh, id, deadline).await?;
            ui.out(format!("{}  {} bytes  session {}", sender(&held), held.bytes, held.session));
            ui.peer_text(held.message.as_deref().unwrap_or(&held.preview));
            ui.document("inbox", Exit::Done, json!({ "messages": [row(&held)] }));
            Ok(Exit::Done)
        }
        Action::Approve { id } => {
            let decided = inbox::approve(&mesh, id, deadline).await?;
            Ok(done(Line::styled(style::GOOD, "approved"), &decided, ui))
        }
        Action::Reject { id } => {
            let decided = inbox::reject(&mesh, id, deadline).await?;
            Ok(done(Line::new("rejected"), &decided, ui))
        }
        Action::Pause => pause(&mesh, true, deadline, ui).await,
        Action::Resume => pause(&mesh, false, deadline, ui).await,
    }
}

async fn list(mesh: &Mesh, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let inbox = inbox::list(mesh, deadline).await?;
    if inbox.paused {
        ui.warn("the door is paused: new messages are refused until agent-mesh inbox resume");
    }
    if inbox.held.is_empty() {
        ui.note("nothing is held");
    } else {
        let cells = inbox.held.iter().map(|held| {
            let id = held.id.get(..8).unwrap_or(&held.id).to_owned();
            // What it says of its sender is not what was proven: that stands in front of it.
            let (_, words) = Header::split(&held.preview);
            vec![id, sender(held), since(held), held.bytes.to_string(), text::shortened(words, 60)]
        });
        ui.table(&["ID", "FROM", "SINCE", "BYTES", "MESSAGE"], cells.collect());
    }
    let messages: Vec<Value> = inbox.held.iter().map(row).collect();
    ui.document("inbox", Exit::Done, json!({ "paused": inbox.paused, "messages": messages }));
    Ok(Exit::Done)
}

async fn pause(mesh: &Mesh, paused: bool, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let now = inbox::pause(mesh, paused, deadline).await?;
    ui.out(if now.paused {
        "paused: new messages of peers are refused"
    } else {
        "new messages come in again"
    });
    ui.document("inbox", Exit::Done, json!({ "paused": now.paused }));
    Ok(Exit::Done)
}

fn done(what: Line, decided: &Decided, ui: &Ui) -> Exit {
    ui.out(what.text(format!(" {} from {}", decided.id, decided.from)));
    let fields =
        json!({ "id": decided.id, "runId": decided.run_id, "from": decided.from, "status": decided.status });
    ui.document("inbox", Exit::Done, fields);
    Exit::Done
}

fn sender(held: &HeldMessage) -> String {
    match &held.from.name {
        Some(name) if *name != held.from.key => format!("{name} ({})", held.from.key),
        _ => held.from.key.clone(),
    }
}

fn since(held: &HeldMessage) -> String {
    Timestamp::from_millisecond(held.since).map(|at| at.to_string()).unwrap_or_default()
}

fn row(held: &HeldMessage) -> Value {
    json!({
        "id": held.id, "runId": held.run_id, "session": held.session, "since": since(held), "bytes": held.bytes,
        "state": "held",
        "from": { "emailPrefix": held.from.key, "name": held.from.name, "deviceId": held.from.device_id },
        "message": held.message.as_ref().unwrap_or(&held.preview),
        "complete": held.message.is_some() || held.preview.len() == held.bytes,
    })
}
