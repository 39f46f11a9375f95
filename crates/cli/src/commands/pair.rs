//! `agent-mesh pair`

use std::time::Duration;

use agent_team_mesh::ops::approving::Rules;
use agent_team_mesh::ops::pair::{self, PairStatus, Pairing};
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::{Mesh, MeshError};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::Instant;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

pub mod approving;
mod list;

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
    ///
    /// Or, with --from-registry or --invited, exactly those devices that are known: their owners need not ask again. Each
    /// decision is told, also which requests were left alone and why.
    Approve {
        /// A request id, 16 digits or more of a device id, or a teammate whose device id is in the registry
        #[arg(value_name = "REQUEST", required_unless_present_any = ["from_registry", "invited"])]
        wanted: Option<String>,
        /// Those whose device id the registry has for a teammate, if they ask to read and write and no more
        #[arg(long, conflicts_with = "wanted")]
        from_registry: bool,
        /// Those that redeemed an invite made on this host
        #[arg(long, conflicts_with = "wanted")]
        invited: bool,
        /// Also those who come later, until Ctrl-C. With --json each decision is one line
        #[arg(long, conflicts_with = "wanted")]
        watch: bool,
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

impl PairArgs {
    /// Whether it goes on until somebody stops it.
    pub fn follows(&self) -> bool {
        matches!(self.action, Some(Action::Approve { watch: true, .. }))
    }
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
        (Some(Action::List), _) => list::list(&mesh, settings, deadline, ui).await,
        (Some(Action::Approve { wanted: Some(wanted), .. }), _) => approve(&mesh, wanted, deadline, ui).await,
        (Some(Action::Approve { from_registry, invited, watch, .. }), _) => {
            let rules = Rules { from_registry: *from_registry, invited: *invited, only: None };
            if *watch {
                approving::watch(&mesh, rules, ui).await
            } else {
                approving::once(&mesh, rules, deadline, ui).await
            }
        }
        (Some(Action::Reject { wanted }), _) => {
            let rejected = pair::reject(&mesh, wanted, deadline).await?;
            ui.out(format!("rejected {}", shown(rejected.display_name.as_deref(), &rejected.device_id)));
            let fields = json!({ "requestId": rejected.request_id, "status": "rejected",
                "device": device(&rejected.device_id, rejected.display_name.as_deref()) });
            ui.document("pair", Exit::Done, fields);
            Ok(Exit::Done)
        }
        (Some(Action::Revoke { wanted }), _) => revoke(&mesh, wanted, deadline, ui).await,
    }
}

async fn approve(mesh: &Mesh, wanted: &str, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let approved = pair::approve(mesh, wanted, deadline).await?;
    let name = shown(approved.device.display_name.as_deref(), &approved.device.device_id);
    ui.out(Line::styled(style::GOOD, "approved ").text(name));
    let fields = json!({ "requestId": approved.request_id, "status": "approved",
        "device": device(&approved.device.device_id, approved.device.display_name.as_deref()) });
    ui.document("pair", Exit::Done, fields);
    Ok(Exit::Done)
}

async fn revoke(mesh: &Mesh, wanted: &str, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let revoked = pair::revoke(mesh, wanted, deadline).await?;
    ui.out(format!("revoked {}", shown(revoked.display_name.as_deref(), &revoked.device_id)));
    if let Some(to) = pair::listed(mesh, &revoked.device_id) {
        ui.warn(format!(
            "the registry still has this device id for {}: pair approve --from-registry would let it in again",
            to.name
        ));
    }
    let fields = json!({ "status": "revoked",
        "device": device(&revoked.device_id, revoked.display_name.as_deref()) });
    ui.document("pair", Exit::Done, fields);
    Ok(Exit::Done)
}

fn device(id: &str, name: Option<&str>) -> serde_json::Value {
    json!({ "deviceId": id, "displayName": name.map(pair::readable_name) })
}

fn shown(name: Option<&str>, device_id: &str) -> String {
    format!("{} {}", name.map_or("(no name)", pair::readable_name), device_id.get(..12).unwrap_or(device_id))
}

async fn ask(mesh: &Mesh, to: &str, args: &PairArgs, ui: &Ui) -> Result<Exit, CliError> {
    let agent = mesh.teammate(to)?;
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
        if pairing.old_token_refused && !is_new(mesh, &pairing.to.email_prefix)? {
            let prefix = &pairing.to.email_prefix;
            ui.warn(format!(
                "{}'s gateway refused the device token that we have, and gave no new one: send shows the old one still",
                pairing.to.name
            ));
            ui.hint(format!("agent-mesh token rm {prefix}, and then agent-mesh token set {prefix} < FILE"));
        }
    } else {
        // On its own host a gateway asks for no approval and issues no token.
        ui.out(format!("not needed: {}'s gateway is on this host, and its token opens it", pairing.to.name));
    }
    Ok(())
}

/// Whether the device token that is kept is another one than at the start of this run.
fn is_new(mesh: &Mesh, prefix: &str) -> Result<bool, CliError> {
    let reread = mesh.reread();
    let now = reread.device_token(prefix)?.map(|token| token.token.clone());
    Ok(now != mesh.device_token(prefix)?.map(|token| token.token.clone()))
}

fn instructions(pairing: &Pairing, ui: &Ui) {
    let id = pairing.request_id.as_deref().unwrap_or_default();
    ui.out(Line::new("request ").with(style::STRONG, id).text(" is waiting for approval"));
    ui.out(format!("on {}'s host, run one of:", pairing.to.name));
    for command in &pairing.commands {
        ui.out(format!("  {command}"));
    }
    if pairing.old_token_refused {
        let name = &pairing.to.name;
        ui.note(format!(
            "the gateway there refused the token that we have of {name}'s; it is kept until {name}'s gateway gives us \
             another. If {name} knows of no request, somebody else's gateway has this address now"
        ));
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
