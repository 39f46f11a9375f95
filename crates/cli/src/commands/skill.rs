//! `agent-mesh skill`

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

/// What teaches an agent when to reach for us, and how.
const SKILL: &str = include_str!("../../../../skill/SKILL.md");

/// The files of the skill, and whether they are its user's as soon as they are there.
const FILES: [(&str, &str, Whose); 5] = [
    ("SKILL.md", SKILL, Whose::Ours),
    ("scripts/agent-mesh.sh", include_str!("../../../../skill/scripts/agent-mesh.sh"), Whose::Ours),
    ("references/registry.json", include_str!("../../../../skill/references/registry.json"), Whose::Users),
    (
        "references/tokens.example.json",
        include_str!("../../../../skill/references/tokens.example.json"),
        Whose::Ours,
    ),
    (".gitignore", include_str!("../../../../skill/.gitignore"), Whose::Users),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Replaced by the newer version.
    Ours,
    /// Never touched.
    Users,
}

/// Teach an OpenClaw agent to use agent-mesh
#[derive(Debug, Args)]
pub struct SkillArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the skill to where OpenClaw finds it, or bring it up to date; a registry that is there is kept
    Install {
        /// The skill's folder [default: ~/.openclaw/workspace/skills/agent-team-mesh]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print SKILL.md
    Show,
}

pub fn run(args: &SkillArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    match &args.action {
        Action::Install { dir } => install(dir.as_deref(), settings, ui),
        Action::Show => {
            ui.script(SKILL);
            ui.document("skill", Exit::Done, json!({ "skill": SKILL }));
            Ok(Exit::Done)
        }
    }
}

fn install(dir: Option<&Path>, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let dir = dir.map_or_else(|| settings.skill_dir(), Path::to_owned);
    let mut files = Vec::new();
    for (name, content, whose) in FILES {
        let path = dir.join(name);
        let status =
            write(&path, content, whose).map_err(|e| CliError::io(&path.display().to_string(), &e))?;
        ui.out(format!("{status:<8} {}", path.display()));
        files.push(json!({ "path": path, "status": status }));
    }
    ui.note("an OpenClaw session that is open sees it after /new");
    ui.document("skill", Exit::Done, json!({ "dir": dir, "files": files }));
    Ok(Exit::Done)
}

/// Nothing here is secret, and other users' agents may read it.
fn write(path: &Path, content: &str, whose: Whose) -> io::Result<&'static str> {
    let before = match fs::read(path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    match before {
        Some(_) if whose == Whose::Users => return Ok("kept"),
        Some(before) if before == content.as_bytes() => return Ok("kept"),
        _ => {}
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mode = if path.extension().is_some_and(|extension| extension == "sh") { 0o755 } else { 0o644 };
    let mut new = tempfile::NamedTempFile::new_in(parent)?;
    io::Write::write_all(&mut new, content.as_bytes())?;
    new.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(if before.is_some() { "updated" } else { "created" })
}
