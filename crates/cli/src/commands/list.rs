//! `agent-mesh list`

use std::time::Duration;

use agent_team_mesh::ops::list::{Listed, Status, last_sync, list};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// For so many of the first teammates it is said why they are not online; the JSON document says it for all.
const REASONS: usize = 50;

/// List the team, and whose gateway answers
///
/// Asks every gateway for its challenge, all at once, and shows no credential. `paired` means that the gateway issued
/// a token to our device. An address with a star is older than the last sync: it stood in the registry already, and no
/// source named it. With --watch it looks again and again until Ctrl-C; under --json each look is one line.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Look again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// With --watch: how long to rest between two looks
    #[arg(long, value_parser = duration, default_value = "5", value_name = "TIME", requires = "watch")]
    interval: Duration,
    /// Also call gateways that would be overheard
    #[arg(long)]
    insecure: bool,
}

impl ListArgs {
    /// Whether it goes on until somebody stops it.
    pub fn follows(&self) -> bool {
        self.watch
    }
}

pub async fn run(args: &ListArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    loop {
        look(args, settings, ui).await?;
        if !args.watch {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(args.interval).await;
        ui.out("");
    }
}

/// One look, with the files as they are now.
async fn look(args: &ListArgs, settings: &Settings, ui: &Ui) -> Result<(), CliError> {
    let mesh = super::open_with_registry(settings, args.insecure, ui)?;
    super::mind_descriptors(mesh.registry()?.agents.len(), ui);
    let agents = list(&mesh).await?;
    let online = agents.iter().filter(|agent| agent.status == Status::Online).count();
    let now = args.watch.then(Timestamp::now);
    if let Some(now) = now {
        ui.out(Line::styled(style::FAINT, format!("{now:.0}")));
    }
    ui.table(
        &["NAME", "NICKNAME", "PREFIX", "STATUS", "LATENCY", "TOKEN", "PAIRED", "ADDRESS"],
        agents.iter().map(row).collect(),
    );
    ui.out(format!("{online} of {} online", agents.len()));
    for agent in agents.iter().take(REASONS) {
        if let Some(reason) = &agent.reason {
            ui.note(Line::styled(style::FAINT, format!("{}: {reason}", agent.name)));
        }
    }
    let last_sync = last_sync(&mesh).map(|last| last.at);
    if let (Some(at), true) = (last_sync, agents.iter().any(|agent| agent.older_than_sync)) {
        ui.note(Line::styled(
            style::FAINT,
            format!("* no source named this address in the last sync, {at:.0}"),
        ));
    }
    let summary = json!({ "total": agents.len(), "online": online });
    let last_sync = last_sync.map(|at| at.to_string());
    let mut fields = json!({ "agents": agents, "summary": summary, "lastSync": last_sync });
    if let Some(now) = now {
        fields["at"] = now.to_string().into();
    }
    ui.document("list", Exit::Done, fields);
    Ok(())
}

fn row(agent: &Listed) -> Vec<String> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let own = if agent.is_self { " (me)" } else { "" };
    vec![
        format!("{}{own}", agent.name),
        dash(agent.nickname.clone()),
        agent.email_prefix.clone(),
        agent.status.name().to_owned(),
        dash(agent.latency_ms.map(|ms| format!("{ms:.1} ms"))),
        agent.token.to_owned(),
        if agent.paired { "yes" } else { "no" }.to_owned(),
        dash(
            agent
                .address
                .as_ref()
                .map(|address| format!("{address}{}", if agent.older_than_sync { " *" } else { "" })),
        ),
    ]
}
