//! `agent-mesh invite`

use std::ops::ControlFlow;
use std::time::Duration;

use agent_mesh_gateway::{Member, Mode};
use agent_team_mesh::client::Endpoint;
use agent_team_mesh::ops::approving::{Decision, Doorkeeper, Report, Rules, Verdict};
use agent_team_mesh::ops::invite::{self, InviteOptions, LONGEST, Sent};
use agent_team_mesh::record::To;
use agent_team_mesh::{Mesh, MeshError};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::pair::approving::{line, shown};
use super::serve::access::policy;
use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// How long our own gateway may take.
const OWN_TIMEOUT: Duration = Duration::from_secs(15);
/// Who redeemed the invite in its last moment is still let in.
const GRACE: Duration = Duration::from_secs(5);

/// Invite somebody to talk to our agent, without giving away our gateway's token
///
/// Makes a one-time code at our own gateway, over loopback, and prints an invite: one line that holds all they need. Give
/// it to them by a private way, and they run `agent-mesh join -`. It is a secret: whoever redeems it first can read and
/// write here. It is good for one device and for ten minutes at most. With --wait this stays until they came in, and lets
/// in exactly the device that redeemed it; otherwise `agent-mesh pair approve --invited --watch` does.
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// Whom: a teammate, or somebody who is none yet
    #[arg(value_name = "NAME")]
    name: String,
    /// How long it is good for, 10m at most
    #[arg(long, value_parser = duration, default_value = "10m", value_name = "TIME")]
    expires: Duration,
    /// Where they reach our gateway, if it is not our own address in the registry
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Stay until they came in, and let them in. With --json, the line goes to stderr, and the document comes at the end
    #[arg(long)]
    wait: bool,
}

pub async fn run(args: &InviteArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    if args.expires > LONGEST {
        return Err(CliError::usage("--expires: an invite is good for ten minutes at most, as its code is"));
    }
    let url = args.url.as_deref().map(|url| {
        // The text is not repeated: it may hold a password.
        url.parse::<Endpoint>().map_err(|why| CliError::usage(format!("--url: {why}")))
    });
    let options = InviteOptions { url: url.transpose()?, expires: args.expires };
    let mesh = super::open(settings, false, ui)?;
    let sent = invite::invite(&mesh, &args.name, &options, Instant::now() + OWN_TIMEOUT).await?;
    print(&sent, args.wait, ui);
    if is_denied(&mesh, settings, &sent.to) {
        let (name, key) = (&sent.to.name, sent.to.email_prefix.to_lowercase());
        let file = settings.policy.value.display();
        ui.warn(format!(
            "the policy of our serve denies {name}: add [peers.{key}] with mode = \"allow\" to {file}"
        ));
    }
    if args.wait {
        return wait(&mesh, &sent, ui).await;
    }
    ui.document("invite", Exit::Done, with_line(&sent, "sent"));
    Ok(Exit::Done)
}

fn print(sent: &Sent, waits: bool, ui: &Ui) {
    let line = sent.invite.to_line();
    if waits && ui.is_json() {
        // The one document tells how it ended; the line is needed before.
        ui.announce(line.expose());
    }
    ui.out(line.expose());
    let name = &sent.to.name;
    if !sent.is_known {
        ui.note(format!("{name} is not in the registry"));
    }
    let until = sent.expires_at.strftime("%H:%M:%S UTC");
    ui.note(format!(
        "give this line to {name} by a private way, before {until}: who redeems it first can talk to your agent"
    ));
    ui.note(format!("on {name}'s host: agent-mesh join -"));
    if waits {
        ui.note(format!("waiting for {name}; Ctrl-C ends it"));
    } else {
        ui.note("then here: agent-mesh pair approve --invited");
    }
}

/// The one document that shows a secret: it is what was asked for.
fn with_line(sent: &Sent, status: &str) -> Value {
    let mut fields = fields(sent, status);
    fields["invite"] = sent.invite.to_line().expose().into();
    fields
}

/// Whether the policy of this host would turn them away, invite or not. One that cannot be read is told of by `serve`.
fn is_denied(mesh: &Mesh, settings: &Settings, to: &To) -> bool {
    let Ok(Some(policy)) = policy(&settings.policy.value) else { return false };
    let known = mesh.registry().ok().and_then(|registry| registry.by_prefix(&to.email_prefix));
    let guest = Member {
        key: to.email_prefix.to_lowercase(),
        name: to.name.clone(),
        tags: known.map(|agent| agent.tags.clone()).unwrap_or_default(),
        ..Member::default()
    };
    policy.rules(&guest).mode == Mode::Deny
}

fn fields(sent: &Sent, status: &str) -> Value {
    json!({ "to": sent.to, "status": status, "url": sent.invite.url.to_string(),
        "expiresAt": sent.expires_at, "commands": ["agent-mesh join -"] })
}

async fn wait(mesh: &Mesh, sent: &Sent, ui: &Ui) -> Result<Exit, CliError> {
    let rules = Rules { invited: true, only: Some(sent.to.email_prefix.clone()), ..Rules::default() };
    let mut doorkeeper = Doorkeeper::new(mesh, rules)?;
    let mut came = None;
    let mut report = |report| match report {
        Report::Decided(decision) => {
            ui.note(line(&decision));
            if decision.decision == Verdict::Approved {
                came = Some(decision);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
        Report::Trouble(error) => {
            ui.warn(CliError::from(error).message);
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Continue(()),
    };
    let left = Duration::try_from(sent.expires_at - Timestamp::now()).unwrap_or_default();
    let watched = timeout(left + GRACE, doorkeeper.watch(&mut report)).await;
    match (watched, came) {
        (Ok(Err(error)), _) => Err(later(error, sent)),
        (_, Some(decision)) => Ok(done(sent, &decision, ui)),
        (_, None) => {
            let error =
                CliError::new(Exit::NoReply, "not-joined-in-time", format!("{} did not join", sent.to.name))
                    .hint(format!(
                        "the invite has ended; agent-mesh invite {} makes a new one",
                        sent.to.email_prefix
                    ));
            Ok(ui.document_with_error("invite", fields(sent, "expired"), error))
        }
    }
}

fn later(error: MeshError, sent: &Sent) -> CliError {
    let error = CliError::from(error).with_fields(with_line(sent, "sent"));
    error.hint("the invite is good all the same: agent-mesh pair approve --invited lets them in")
}

fn done(sent: &Sent, decision: &Decision, ui: &Ui) -> Exit {
    // The line with the invite is all of standard output: a pipe gets nothing else.
    ui.note(
        Line::styled(style::GOOD, format!("{} is in", sent.to.name)).text(format!(": {}", shown(decision))),
    );
    let mut fields = with_line(sent, "approved");
    fields["requestId"] = decision.request_id.clone().into();
    fields["device"] = json!({ "deviceId": decision.device_id, "displayName": decision.display_name });
    ui.document("invite", Exit::Done, fields);
    Exit::Done
}
