//! `agent-mesh init`

use std::path::{Path, PathBuf};

use agent_team_mesh::ops::init::{FileStatus, Imported, InitOptions, InitReport, init};
use clap::Args;
use serde::Serialize;

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
            ui.hint(fix);
        }
    }
    let next = next(&report);
    who(&report, &mesh.config().registry, ui);
    for Next { command, when } in &next {
        ui.out(
            Line::new("next       ").with(style::STRONG, format!("{command:<24}")).text(format!("  {when}")),
        );
    }
    let mut fields = serde_json::to_value(&report).unwrap_or_default();
    fields["next"] = serde_json::to_value(&next).unwrap_or_default();
    ui.document("init", Exit::Done, fields);
    Ok(Exit::Done)
}

/// A command that may come next.
#[derive(Debug, Serialize)]
struct Next {
    command: &'static str,
    when: &'static str,
}

/// Who we are, and whether the team's list says so.
fn who(report: &InitReport, registry: &Path, ui: &Ui) {
    let Some(me) = &report.identity else {
        ui.out(
            Line::new("you are    ").with(style::STRONG, "not known").text(" to your teammates by a name"),
        );
        ui.note(format!("looked at {}", report.searched.join(", ")));
        return;
    };
    let place = if report.in_registry { "in" } else { "not in" };
    ui.out(format!("you are    {} <{}>, {place} the registry", me.email_prefix, me.email));
    if !report.in_registry {
        let entry = serde_json::json!({ "name": me.email_prefix, "emailPrefix": me.email_prefix, "ip": "" });
        ui.note(format!("to be in it, add to agents in {}: {entry}", registry.display()));
    }
}

fn next(report: &InitReport) -> Vec<Next> {
    let name_us = Next {
        command: "export MESH_MY_EMAIL=you@example.com",
        when: "with your own address; then agent-mesh init once more",
    };
    let always = [
        Next { command: "agent-mesh join -", when: "if a teammate invited you" },
        Next {
            command: "agent-mesh serve",
            when: "if you have no OpenClaw gateway and teammates shall reach you",
        },
        Next { command: "agent-mesh invite NAME", when: "to let a teammate in, at your own gateway" },
        Next { command: "agent-mesh doctor", when: "says what is missing" },
    ];
    report.identity.is_none().then_some(name_us).into_iter().chain(always).collect()
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
