//! `agent-mesh completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::error::{CliError, Exit};
use crate::ui::Ui;

/// Print the completion script of a shell
///
/// Bash: `agent-mesh completions bash > ~/.local/share/bash-completion/completions/agent-mesh`. Zsh: the same into
/// `_agent-mesh` in a folder of your `fpath`. Fish: into `~/.config/fish/completions/agent-mesh.fish`. PowerShell and
/// Elvish: load the output from your profile.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, ui: &Ui) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agent-mesh", &mut script);
    // clap_complete 4.6 takes the hyphen of our name for a subcommand in bash's labels, but not in its cases: without
    // this, nothing is completed after the command.
    let script = String::from_utf8_lossy(&script).replace("agent__subcmd__mesh", "agent__mesh");
    ui.script(&script);
    ui.document("completions", Exit::Done, json!({ "shell": args.shell.to_string(), "script": script }));
    Ok(Exit::Done)
}
