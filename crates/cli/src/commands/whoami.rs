//! `agent-mesh whoami`

use agent_team_mesh::MeshError;
use agent_team_mesh::ops::whoami::whoami;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// Show who I am to my team, and where that is known from
///
/// Looks at --me, MESH_MY_EMAIL, config.toml, USER.md and ~/sso.json, in this order. Needs no registry and no network; a registry or
/// tokens file that is broken is told as a problem.
#[derive(Debug, Args)]
pub struct WhoamiArgs {}

pub fn run(_: &WhoamiArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, false, ui)?;
    let me = whoami(&mesh)?;
    let is_broken = me.problems.iter().any(|problem| matches!(problem, MeshError::Registry(_)));
    let nowhere = if is_broken { "cannot be read" } else { "not in the registry" };
    let entry = me.registry.entry.as_ref().map_or(nowhere, |entry| entry.name.as_str());
    ui.out(Line::styled(style::STRONG, &me.identity.email_prefix).text(format!(" <{}>", me.identity.email)));
    let place = me.identity.path.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default();
    let source = serde_json::to_value(me.identity.source).unwrap_or_default();
    ui.out(format!("source    {}{place}", source.as_str().unwrap_or_default()));
    ui.out(format!("registry  {entry} ({})", me.registry.path.display()));
    let tokens = if me.token.configured { "configured" } else { "none yet" };
    ui.out(format!("tokens    {tokens} ({})", me.token.path.display()));
    ui.out(format!(
        "device    {}",
        me.device.id.as_deref().unwrap_or("none yet: made when it is first needed")
    ));
    let problems: Vec<CliError> = me.problems.iter().map(CliError::from).collect();
    for problem in &problems {
        ui.warn(&problem.message);
        if let Some(hint) = &problem.hint {
            ui.hint(hint);
        }
    }
    let mut fields = serde_json::to_value(&me).unwrap_or_default();
    fields["problems"] = problems.iter().map(CliError::to_json).collect();
    ui.document("whoami", Exit::Done, fields);
    Ok(Exit::Done)
}
