//! `agent-mesh join`

use std::io::{IsTerminal, Read};
use std::time::Duration;

use agent_team_mesh::client::Secret;
use agent_team_mesh::invite::Invite;
use agent_team_mesh::ops::join::{self, Enrolled, JoinOptions, JoinStatus, Joined};
use agent_team_mesh::ops::pair::approve_commands;
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::{Mesh, MeshError};
use clap::Args;
use jiff::Timestamp;

use crate::args::duration;
use crate::error::{CliError, Exit, ask_for_an_invite};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// An invite is short; what is longer is the wrong file.
const MAX_INVITE: u64 = 16 * 1024;

/// Redeem an invite: from then on a teammate's agent can be talked to
///
/// Our device shows the one-time code in it, waits until the other side lets it in, and keeps a token of its own; the
/// teammate is added to the registry. A setup code of OpenClaw's (`openclaw qr --json --limited`) is taken, too.
/// Interrupted, or out of time, the same invite can be given again.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The invite. Without one, or with -, it is read from standard input, where no other user of this machine sees it
    #[arg(value_name = "INVITE")]
    invite: Option<String>,
    /// Who sent it: for a setup code of OpenClaw's, which does not say
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// How long to wait for the approval [default: as long as the invite is good]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Believe the invite where the registry has another address or certificate
    #[arg(long)]
    replace: bool,
    /// Also call a gateway that would be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: JoinArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let text = read(args.invite, ui)?;
    let invite = Invite::parse(text.expose()).map_err(MeshError::from)?;
    let mesh = super::open(settings, args.insecure, ui)?;
    let options = JoinOptions { from: args.from, timeout: args.timeout, replace: args.replace };
    let invited = invite.from.is_some();
    let mut announce = Announce { ui, invited };
    let joined = tokio::select! {
        joined = Box::pin(join::join(&mesh, &invite, &options, &mut announce)) => joined?,
        () = interrupted() => {
            return Err(CliError::interrupted().hint("the same invite goes on from here, as long as it is good"));
        }
    };
    Ok(told(&mesh, &joined, &invite, ui))
}

fn read(argument: Option<String>, ui: &Ui) -> Result<Secret, CliError> {
    if let Some(invite) = argument.filter(|text| text != "-") {
        ui.note(
            "an invite is a secret, and others may see our arguments: agent-mesh join - reads it instead",
        );
        return Ok(Secret::new(invite));
    }
    let failed = |error| CliError::io("cannot read the invite", &error);
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let invite = crate::prompt::without_echo("invite: ").map_err(failed)?;
        return invite.ok_or_else(CliError::interrupted);
    }
    let mut text = String::new();
    stdin.lock().take(MAX_INVITE + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(Secret::new(text))
}

fn told(mesh: &Mesh, joined: &Joined, invite: &Invite, ui: &Ui) -> Exit {
    let invited = invite.from.is_some();
    let fields = serde_json::to_value(joined).unwrap_or_default();
    let Joined { peer, registry, .. } = joined;
    if joined.status == JoinStatus::Pending {
        let message = format!("{} has not let us in yet", peer.name);
        let error = CliError::new(Exit::NoReply, "not-approved-in-time", message);
        let theirs = joined.request_id.as_deref().map(|id| commands(id, invited)).unwrap_or_default();
        let hint = if invite.expires_at.is_some_and(|end| end <= Timestamp::now()) {
            format!("the invite has ended: {}", ask_for_an_invite(peer))
        } else {
            let theirs = theirs.join("  or  ");
            format!("on their host: {theirs}; then here the same invite again: agent-mesh join -")
        };
        return ui.document_with_error("join", fields, error.hint(hint));
    }
    ui.out(match joined.status {
        JoinStatus::AlreadyIn => Line::styled(style::GOOD, "already in")
            .text(format!(": {} had let us in before; the invite was not used", peer.name)),
        _ => Line::styled(style::GOOD, "joined ").text(&peer.name),
    });
    let path = mesh.config().registry.display();
    match registry {
        Some(Enrolled::Added) => ui.note(format!("{} is in the registry now: {path}", peer.name)),
        Some(Enrolled::Changed { fields }) => {
            ui.note(format!("set {} of {} in the registry: {path}", fields.join(" and "), peer.name));
        }
        _ => {}
    }
    ui.note(format!("try: agent-mesh send --to {} --message hello", peer.email_prefix));
    ui.document("join", Exit::Done, fields);
    Exit::Done
}

/// What the other side runs: any one of these.
fn commands(request_id: &str, invited: bool) -> Vec<String> {
    let known = invited.then(|| "agent-mesh pair approve --invited".to_owned());
    known.into_iter().chain(approve_commands(request_id)).collect()
}

/// Tells what is waited for.
struct Announce<'a> {
    ui: &'a Ui,
    /// Whether the other side can know us by the invite.
    invited: bool,
}

impl Observer for Announce<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        let Progress::PairingPending { to, request_id } = step else { return };
        let commands = commands(request_id, self.invited);
        let waits = if self.invited { "for their agent-mesh invite --wait, or " } else { "" };
        self.ui.note(format!(
            "asked {}; waiting {waits}for them to run: {}",
            to.name,
            commands.join("  or  ")
        ));
    }
}
