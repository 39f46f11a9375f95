//! `agent-mesh config`

use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

/// Show every setting, and where its value comes from
///
/// A flag wins over a variable, a variable over the settings file, the file over the default. Secrets are shown as
/// `set` or `unset`, never as what they are. Reads nothing but the settings file, and touches no network.
#[derive(Debug, Args)]
pub struct ConfigArgs {}

pub fn run(_: &ConfigArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let settings = settings.effective()?;
    let rows = settings.iter().map(|setting| {
        let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
        vec![setting.about.name.to_owned(), value, setting.source.clone()]
    });
    ui.table(&["SETTING", "VALUE", "SOURCE"], rows.collect());
    ui.document("config", Exit::Done, json!({ "settings": settings }));
    Ok(Exit::Done)
}
