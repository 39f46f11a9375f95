//! `agent-mesh man`

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man;
use serde_json::json;

use crate::args::whole;
use crate::error::{CliError, Exit};
use crate::ui::Ui;

/// Print the manual page, or write one page a command into a folder
///
/// Read it with `agent-mesh man | man -l -`, or keep all of them: `agent-mesh man --dir ~/.local/share/man/man1`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write agent-mesh.1, agent-mesh-send.1 and so on into this folder, which is made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: &ManArgs, ui: &Ui) -> Result<Exit, CliError> {
    // Built, the pages below know the whole name: agent-mesh-pair-list.
    let command = whole();
    let Some(dir) = &args.dir else {
        let page = page(command).map_err(|e| CliError::io("cannot make the page", &e))?;
        ui.script(&page);
        ui.document("man", Exit::Done, json!({ "page": page }));
        return Ok(Exit::Done);
    };
    let mut files = Vec::new();
    fs::create_dir_all(dir)
        .and_then(|()| write_all(command, dir, &mut files))
        .map_err(|e| CliError::io(&format!("cannot write to {}", dir.display()), &e))?;
    for file in &files {
        ui.out(format!("wrote {}", file.display()));
    }
    ui.document("man", Exit::Done, json!({ "files": files }));
    Ok(Exit::Done)
}

fn page(command: clap::Command) -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// One page for the command, and one for each below it.
fn write_all(command: clap::Command, dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let below: Vec<_> = command.get_subcommands().filter(|below| !below.is_hide_set()).cloned().collect();
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(command)?)?;
    files.push(file);
    below.into_iter().try_for_each(|below| write_all(below, dir, files))
}
