//! `agent-mesh pair approve --from-registry --invited --watch`

use std::ops::ControlFlow;

use agent_team_mesh::Mesh;
use agent_team_mesh::ops::approving::{Decision, Doorkeeper, Reason, Report, Rules, Verdict};
use serde_json::json;
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::ui::{Line, Ui, style};

/// Decides on those who wait now.
pub async fn once(mesh: &Mesh, rules: Rules, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let decisions = Doorkeeper::new(mesh, rules)?.look(deadline).await?;
    for decision in &decisions {
        ui.out(line(decision));
    }
    if decisions.is_empty() {
        ui.out("nobody waits for approval");
    }
    ui.document("pair", Exit::Done, json!({ "decisions": decisions }));
    Ok(Exit::Done)
}

/// Decides on everybody who comes, until Ctrl-C. Each decision is a line on stderr, and with --json one on stdout, too.
pub async fn watch(mesh: &Mesh, rules: Rules, ui: &Ui) -> Result<Exit, CliError> {
    let mut doorkeeper = Doorkeeper::new(mesh, rules)?;
    ui.note("letting in who may come in; Ctrl-C ends it");
    let mut report = |report| {
        match report {
            Report::Decided(decision) => {
                let at = format!("{:.0}  ", decision.at);
                ui.note(Line::styled(style::FAINT, at).append(line(&decision)));
                ui.document("pair", Exit::Done, serde_json::to_value(&decision).unwrap_or_default());
            }
            Report::Trouble(error) => ui.warn(CliError::from(error).message),
            Report::Back => ui.note("our own gateway is there again"),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    doorkeeper.watch(&mut report).await?;
    Ok(Exit::Done)
}

/// A decision and its reason.
pub fn line(decision: &Decision) -> Line {
    let whose = decision.to.as_ref().map_or_else(String::new, |to| format!("{}'s ", to.name));
    let (colour, word) = match decision.decision {
        Verdict::Approved => (style::GOOD, "approved "),
        Verdict::Left => (style::STRONG, "left alone "),
    };
    Line::styled(colour, word).text(format!("{whose}{}: {}", shown(decision), why(decision)))
}

/// The device, as `pair list` shows it.
pub fn shown(decision: &Decision) -> String {
    super::shown(decision.display_name.as_deref(), &decision.device_id)
}

fn why(decision: &Decision) -> String {
    match decision.reason {
        Reason::Registry => "its id is in the registry".to_owned(),
        Reason::Invite => "it redeemed an invite".to_owned(),
        Reason::NotKnown => "nothing says whose it is".to_owned(),
        Reason::Ambiguous => "the registry has its id more than once".to_owned(),
        Reason::AsksForMore => format!("it asks for {}", decision.scopes.join(" ")),
        Reason::InviteUsed => "its invite let somebody in before".to_owned(),
        Reason::InviteEnded => "its invite has ended".to_owned(),
        _ => "it waits no more".to_owned(),
    }
}
