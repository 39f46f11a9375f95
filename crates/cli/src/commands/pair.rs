//! `agent-mesh pair`

use std::time::Duration;

use agent_team_mesh::ops::pair::{self, PairStatus, Pairing};
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::{Mesh, MeshError};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// How long our own gateway may take.
const OWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Get our device approved by a teammate, or approve theirs
///
/// With --to: files a request at the teammate's gateway and prints what they run. The subcommands talk to our own
/// gateway over loopback, with the token that OpenClaw (or agent-mesh serve) keeps on this host. Only operator.read
/// and operator.write are ever asked for.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct PairArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// The teammate
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Wait until they approved it
    #[arg(long)]
    wait: bool,
    /// How long to wait; requests vanish after five minutes
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Also call a gateway that would be overheard
    #[arg(long)]
    insecure: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show who waits for approval at our gateway, and who is in
    List,
    /// Let a device in
    Approve {
        /// A request id, 16 digits or more of a device id, or a teammate whose device id is in the registry
        #[arg(value_name = "REQUEST")]
        wanted: String,
    },
    /// Turn a request down
    Reject {
        /// A request id, 16 digits or more of a device id, or a teammate whose device id is in the registry
        #[arg(value_name = "REQUEST")]
        wanted: String,
    },
    /// End a device's access
    Revoke {
        /// A device id or its beginning, or a teammate
        #[arg(value_name = "DEVICE")]
        wanted: String,
    },
}

pub async fn run(args: &PairArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, args.insecure, ui)?;
    let deadline = Instant::now() + OWN_TIMEOUT;
    match (&args.action, &args.to) {
        (None, Some(to)) => ask(&mesh, to, args, ui).await,
        (None, None) => {
            Err(CliError::usage("say with whom: --to NAME, or one of list, approve, reject, revoke"))
        }
        // Not left to clap, whose rule would take the global options for a conflict, too.
        (Some(_), _) if args.to.is_some() || args.wait || args.timeout.is_some() => {
            Err(CliError::usage("--to, --wait and --timeout do not go with list, approve, reject or revoke"))
        }
        (Some(Action::List), _) => list(&mesh, deadline, ui).await,
        (Some(Action::Approve { wanted }), _) => {
            let approved = pair::approve(&mesh, wanted, deadline).await?;
            let name = shown(approved.device.display_name.as_deref(), &approved.device.device_id);
            ui.out(Line::styled(style::GOOD, "approved ").text(name));
            let fields = json!({ "requestId": approved.request_id, "status": "approved",
                "device": { "deviceId": approved.device.device_id, "displayName": approved.device.display_name } });
            ui.document("pair", Exit::Done, fields);
            Ok(Exit::Done)
        }
        (Some(Action::Reject { wanted }), _) => {
            let rejected = pair::reject(&mesh, wanted, deadline).await?;
            ui.out(format!("rejected {}", shown(rejected.display_name.as_deref(), &rejected.device_id)));
            let fields = json!({ "requestId": rejected.request_id, "status": "rejected",
                "device": { "deviceId": rejected.device_id, "displayName": rejected.display_name } });
            ui.document("pair", Exit::Done, fields);
            Ok(Exit::Done)
        }
        (Some(Action::Revoke { wanted }), _) => {
            let revoked = pair::revoke(&mesh, wanted, deadline).await?;
            ui.out(format!("revoked {}", shown(revoked.display_name.as_deref(), &revoked.device_id)));
            let fields = json!({ "status": "revoked",
                "device": { "deviceId": revoked.device_id, "displayName": revoked.display_name } });
            ui.document("pair", Exit::Done, fields);
            Ok(Exit::Done)
        }
    }
}

fn shown(name: Option<&str>, device_id: &str) -> String {
    format!("{} {}", name.unwrap_or("(no name)"), device_id.get(..12).unwrap_or(device_id))
}

async fn ask(mesh: &Mesh, to: &str, args: &PairArgs, ui: &Ui) -> Result<Exit, CliError> {
    let agent = mesh.registry()?.find(to).map_err(MeshError::from)?;
    let default = if args.wait { Duration::from_secs(300) } else { Duration::from_secs(15) };
    let timeout = args.timeout.unwrap_or(default);
    let pairing = pair::pair(mesh, agent, args.wait, timeout, &mut Announce { ui }).await?;
    let fields = serde_json::to_value(&pairing).unwrap_or_default();
    match pairing.status {
        PairStatus::Approved => {
            approved(mesh, &pairing, ui)?;
        }
        PairStatus::Pending if args.wait => {
            let error = CliError::new(
                Exit::NoReply,
                "not-approved-in-time",
                format!("{} has not approved it yet", pairing.to.name),
            );
            let hint = format!("on their host: {}", pairing.commands.join("  or  "));
            return Ok(ui.document_with_error("pair", fields, error.hint(hint)));
        }
        PairStatus::Pending => instructions(&pairing, ui),
    }
    ui.document("pair", Exit::Done, fields);
    Ok(Exit::Done)
}

fn approved(mesh: &Mesh, pairing: &Pairing, ui: &Ui) -> Result<(), CliError> {
    let kept = mesh.device_token_store().prefixes().map_err(MeshError::from)?;
    if kept.contains(&pairing.to.email_prefix.to_lowercase()) {
        ui.out(Line::styled(style::GOOD, "approved").text(format!(" by {}", pairing.to.name)));
    } else {
        // On its own host a gateway asks for no approval and issues no token.
        ui.out(format!("not needed: {}'s gateway is on this host, and its token opens it", pairing.to.name));
    }
    Ok(())
}

fn instructions(pairing: &Pairing, ui: &Ui) {
    let id = pairing.request_id.as_deref().unwrap_or_default();
    ui.out(Line::new("request ").with(style::STRONG, id).text(" is waiting for approval"));
    ui.out(format!("on {}'s host, run one of:", pairing.to.name));
    for command in &pairing.commands {
        ui.out(format!("  {command}"));
    }
}

/// Tells what is waited for.
struct Announce<'a> {
    ui: &'a Ui,
}

impl Observer for Announce<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        if let Progress::PairingPending { to, request_id } = step {
            self.ui.note(format!(
                "waiting for {} to run: {}",
                to.name,
                pair::approve_commands(request_id).join("  or  ")
            ));
        }
    }
}

async fn list(mesh: &Mesh, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let pairings = pair::pairings(mesh, deadline).await?;
    let time = |ms: i64| Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default();
    let pending: Vec<Value> = pairings
        .pending
        .iter()
        .map(|row| {
            json!({ "requestId": row.request_id, "deviceId": row.device_id, "displayName": row.display_name,
            "scopes": row.scopes, "remoteIp": row.remote_ip, "ts": time(row.ts) })
        })
        .collect();
    let paired: Vec<Value> = pairings
        .paired
        .iter()
        .map(|row| {
            json!({ "deviceId": row.device_id, "displayName": row.display_name, "scopes": row.scopes,
            "approvedVia": row.approved_via, "approvedAt": row.created_at_ms.map(time),
            "lastSeenAt": row.last_seen_at_ms.map(time), "connected": row.connected })
        })
        .collect();
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    if !pairings.pending.is_empty() {
        ui.out("waiting for approval:");
        ui.table(
            &["REQUEST", "DEVICE", "CALLS ITSELF", "SCOPES", "FROM"],
            pairings
                .pending
                .iter()
                .map(|row| {
                    vec![
                        row.request_id.clone(),
                        row.device_id.get(..16).unwrap_or(&row.device_id).to_owned(),
                        dash(row.display_name.clone()),
                        row.scopes.join(" "),
                        dash(row.remote_ip.clone()),
                    ]
                })
                .collect(),
        );
        ui.out("");
    }
    ui.out(if pairings.paired.is_empty() { "no device is approved" } else { "approved:" });
    if !pairings.paired.is_empty() {
        ui.table(
            &["DEVICE", "NAME", "SCOPES", "LAST SEEN"],
            pairings
                .paired
                .iter()
                .map(|row| {
                    let device = row.device_id.get(..12).unwrap_or(&row.device_id).to_owned();
                    vec![
                        device,
                        dash(row.display_name.clone()),
                        row.scopes.join(" "),
                        dash(row.last_seen_at_ms.map(time)),
                    ]
                })
                .collect(),
        );
    }
    ui.document("pair", Exit::Done, json!({ "pending": pending, "paired": paired }));
    Ok(Exit::Done)
}
