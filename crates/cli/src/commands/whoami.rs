//! `agent-mesh whoami`

use agent_team_mesh::ops::whoami::whoami;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Ui, style};

/// Show who I am to my team, and where that is known from
///
/// Looks at --me, MESH_MY_EMAIL, USER.md and ~/sso.json, in this order. Needs no registry and no network.
#[derive(Debug, Args)]
pub struct WhoamiArgs {}

pub fn run(_: &WhoamiArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, false, ui)?;
    let me = whoami(&mesh)?;
    let entry = me.registry.entry.as_ref().map_or("not in the registry", |entry| entry.name.as_str());
    ui.out(
        crate::ui::Line::styled(style::STRONG, &me.identity.email_prefix)
            .text(format!(" <{}>", me.identity.email)),
    );
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
    ui.document("whoami", Exit::Done, serde_json::to_value(&me).unwrap_or_default());
    Ok(Exit::Done)
}
