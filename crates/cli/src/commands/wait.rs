//! `agent-mesh wait`

use std::time::Duration;

use agent_team_mesh::Mesh;
use agent_team_mesh::ops::wait::{find, wait};
use agent_team_mesh::record::Record;
use clap::Args;
use serde_json::{Value, json};

use super::watch::Watch;
use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// Come back for the reply to a message
///
/// From any shell, after a crash or a reboot. Looks at the teammate's session first and never makes their agent do the
/// work twice.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Message ids, as send printed them, or the beginning of one
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// How long to wait for each [default: 60] [env: MESH_TIMEOUT]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Also call a gateway that would be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: &WaitArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, args.insecure, ui)?;
    let timeout = args.timeout.unwrap_or(settings.timeout.value);
    tokio::select! {
        // It is listened for before anybody is called.
        biased;
        () = interrupted() => {
            let hint = "their agent goes on, and so does the same command";
            Err(CliError::interrupted().hint(hint).with_fields(so_far(&mesh, &args.ids).await))
        }
        outcome = all(args, &mesh, timeout, ui) => outcome,
    }
}

/// How far the messages are that nobody waits for any more.
async fn so_far(mesh: &Mesh, ids: &[String]) -> Value {
    let mut results = Vec::new();
    for id in ids {
        let record = find(mesh, id).await.ok().and_then(|stored| serde_json::to_value(stored.record).ok());
        results.push(record.unwrap_or_else(|| json!({ "id": id })));
    }
    if ids.len() > 1 { json!({ "results": results }) } else { results.pop().unwrap_or_default() }
}

async fn all(args: &WaitArgs, mesh: &Mesh, timeout: Duration, ui: &Ui) -> Result<Exit, CliError> {
    if let [id] = args.ids.as_slice() {
        let record = one(mesh, id, timeout, ui).await?;
        return Ok(finish(record, ui));
    }
    let mut results = Vec::new();
    let mut worst: Option<CliError> = None;
    for id in &args.ids {
        ui.out(Line::styled(style::STRONG, id));
        let (result, error) = match one(mesh, id, timeout, ui).await {
            Ok(record) => several(record, ui),
            Err(error) => (json!({ "id": id, "error": error.to_json() }), Some(error)),
        };
        results.push(result);
        // The first failure gives the exit code: it is the one to look at first.
        worst = worst.or(error);
    }
    let fields = json!({ "results": results });
    match worst {
        Some(error) => Ok(ui.document_with_error("wait", fields, error)),
        None => {
            ui.document("wait", Exit::Done, fields);
            Ok(Exit::Done)
        }
    }
}

async fn one(mesh: &Mesh, id: &str, timeout: Duration, ui: &Ui) -> Result<Record, CliError> {
    let mut watch = Watch::new(ui, id);
    let record = wait(mesh, id, timeout, &mut watch).await;
    watch.finish();
    Ok(record?)
}

fn finish(mut record: Record, ui: &Ui) -> Exit {
    let error = record.error.take();
    if let Some(reply) = &record.reply {
        ui.peer_text(&reply.text);
    }
    let fields = serde_json::to_value(&record).unwrap_or_default();
    match error {
        Some(error) => ui.document_with_error("wait", fields, error.into()),
        None => {
            ui.document("wait", Exit::Done, fields);
            Exit::Done
        }
    }
}

fn several(mut record: Record, ui: &Ui) -> (Value, Option<CliError>) {
    let error = record.error.take().map(CliError::from);
    if let Some(reply) = &record.reply {
        ui.peer_text(&reply.text);
    }
    let mut fields = serde_json::to_value(&record).unwrap_or_default();
    if let Some(error) = &error {
        ui.note(Line::new(&error.message));
        fields["error"] = error.to_json();
    }
    (fields, error)
}
