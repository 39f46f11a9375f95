//! `agent-mesh init`

use std::path::PathBuf;

use agent_team_mesh::ops::init::{FileStatus, Imported, InitOptions, init};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// Make the files you need: a registry, a tokens file and a device key
///
/// What is there already is kept. With --from, the registry and the tokens of a bash skill are taken over: new
/// teammates are added, and of two entries with one e-mail prefix yours stays, unless --overwrite is given.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder of a bash skill, whose registry and tokens are taken over
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Let the entries of the bash skill win over yours
    #[arg(long, requires = "from")]
    overwrite: bool,
}

pub fn run(args: &InitArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = settings.mesh(false)?;
    let report = init(&mesh, &InitOptions { from: args.from.clone(), overwrite: args.overwrite })?;
    for file in &report.files {
        let (word, style) = match file.status {
            FileStatus::Created => ("created", style::GOOD),
            FileStatus::Kept => ("kept   ", style::FAINT),
            FileStatus::Updated => ("updated", style::GOOD),
        };
        ui.out(Line::styled(style, word).text(format!("  {:<10}  {}", file.file, file.path.display())));
    }
    if let Some(imported) = &report.imported {
        show(imported, ui);
    }
    ui.out(format!("device id  {}", report.device_id));
    for warning in &report.warnings {
        ui.warn(&warning.message);
        if let Some(fix) = &warning.fix {
            ui.note(Line::styled(style::STRONG, "hint: ").text(fix));
        }
    }
    ui.document("init", Exit::Done, serde_json::to_value(&report).unwrap_or_default());
    Ok(Exit::Done)
}

fn show(imported: &Imported, ui: &Ui) {
    for (what, merged) in [("teammates", &imported.agents), ("tokens", &imported.tokens)] {
        for (how, names) in
            [("added", &merged.added), ("replaced", &merged.replaced), ("kept ours of", &merged.kept)]
        {
            if !names.is_empty() {
                ui.out(format!("{what}: {how} {}", names.join(", ")));
            }
        }
    }
}
