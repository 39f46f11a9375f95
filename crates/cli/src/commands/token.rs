//! `agent-mesh token`

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use agent_team_mesh::client::Secret;
use agent_team_mesh::{Mesh, MeshError, a2a_token_key};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

mod issue;

/// A token is short; what is longer is the wrong file.
const MAX_TOKEN: u64 = 16 * 1024;

/// Keep the tokens that teammates gave us, and issue tokens to them
///
/// set, check and rm are about tokens of other gateways: they enter by standard input or a prompt, never by the command
/// line, and are never shown again. issue, revoke and issued are about tokens of our own gateway: each is for one peer,
/// and only its hash is kept, in policy.toml.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Keep the token for a teammate, read from standard input: agent-mesh token set bob < FILE
    Set {
        /// The teammate
        name: String,
        /// The token is for their A2A endpoint, not for their gateway
        #[arg(long)]
        a2a: bool,
    },
    /// Check the tokens file, and say for whom we hold a token
    Check {
        /// Only for this teammate
        name: Option<String>,
    },
    /// Forget the token for a teammate, and the one their gateway issued to our device
    Rm {
        /// The teammate
        name: String,
    },
    /// Make a token with which a teammate comes in at our own gateway; the one they had before ends
    Issue {
        /// The teammate
        name: String,
        /// Where to write it, 0600; - is standard output, if that is no terminal [default: ./PREFIX.token]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End a token that we issued
    Revoke {
        /// The teammate
        name: String,
    },
    /// Who holds a token of ours
    Issued,
}

pub fn run(args: &TokenArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, false, ui)?;
    match &args.action {
        Action::Set { name, a2a } => set(&mesh, name, *a2a, ui),
        Action::Check { name } => check(&mesh, name.as_deref(), ui),
        Action::Rm { name } => remove(&mesh, name, ui),
        Action::Issue { name, out } => issue::issue(&mesh, settings, name, out.as_deref(), ui),
        Action::Revoke { name } => issue::revoke(&mesh, settings, name, ui),
        Action::Issued => issue::issued(settings, ui),
    }
}

/// The prefix a name stands for. Without a registry the name is taken for the prefix itself.
fn prefix(mesh: &Mesh, name: &str) -> Result<String, CliError> {
    if !mesh.config().registry.exists() {
        return Ok(name.to_lowercase());
    }
    let agent = mesh.registry()?.find(name).map_err(MeshError::from)?;
    Ok(agent.email_prefix.to_lowercase())
}

fn set(mesh: &Mesh, name: &str, a2a: bool, ui: &Ui) -> Result<Exit, CliError> {
    let prefix = prefix(mesh, name)?;
    let prefix = if a2a { a2a_token_key(&prefix) } else { prefix };
    let token = read_token(&prefix)?;
    mesh.token_store().set(&prefix, &token).map_err(MeshError::from)?;
    let path = mesh.config().tokens.display().to_string();
    ui.out(format!("kept the token for {prefix} in {path}"));
    ui.document("token", Exit::Done, json!({ "emailPrefix": prefix, "path": path }));
    Ok(Exit::Done)
}

fn read_token(prefix: &str) -> Result<Secret, CliError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let token = crate::prompt::without_echo(&format!("token for {prefix}: "))
            .map_err(|e| CliError::io("cannot read the token", &e))?;
        return token.ok_or_else(CliError::interrupted);
    }
    let mut text = String::new();
    stdin
        .lock()
        .take(MAX_TOKEN + 1)
        .read_to_string(&mut text)
        .map_err(|e| CliError::io("cannot read the token", &e))?;
    if text.len() as u64 > MAX_TOKEN {
        return Err(CliError::usage("this is no token: it has more than 16 KiB"));
    }
    Ok(Secret::new(text))
}

fn check(mesh: &Mesh, name: Option<&str>, ui: &Ui) -> Result<Exit, CliError> {
    let wanted = name.map(|name| prefix(mesh, name)).transpose()?;
    let shared = mesh.token_store().prefixes().map_err(MeshError::from)?;
    let device = mesh.device_token_store().prefixes().map_err(MeshError::from)?;
    let mut all: Vec<&String> = shared.iter().chain(&device).collect();
    all.sort();
    all.dedup();
    if let Some(wanted) = &wanted {
        all.retain(|prefix| *prefix == wanted);
        if all.is_empty() {
            return Err(CliError::new(Exit::Auth, "no-credential", format!("no token for {wanted}"))
                .hint(format!("agent-mesh token set {wanted} < FILE")));
        }
    }
    let rows: Vec<_> = all
        .iter()
        .map(|prefix| json!({ "emailPrefix": prefix, "shared": shared.contains(prefix), "device": device.contains(prefix) }))
        .collect();
    let yes = |yes: bool| if yes { "yes" } else { "-" }.to_owned();
    ui.table(
        &["PREFIX", "SHARED", "DEVICE"],
        all.iter().map(|p| vec![(*p).clone(), yes(shared.contains(p)), yes(device.contains(p))]).collect(),
    );
    ui.document("token", Exit::Done, json!({ "path": mesh.config().tokens, "tokens": rows }));
    Ok(Exit::Done)
}

fn remove(mesh: &Mesh, name: &str, ui: &Ui) -> Result<Exit, CliError> {
    let prefix = prefix(mesh, name).unwrap_or_else(|_| name.to_lowercase());
    let a2a = mesh.token_store().remove(&a2a_token_key(&prefix)).map_err(MeshError::from)?;
    let shared = mesh.token_store().remove(&prefix).map_err(MeshError::from)? || a2a;
    let device = mesh.device_token_store().remove(&prefix).map_err(MeshError::from)?;
    if !shared && !device {
        return Err(CliError::new(Exit::Auth, "no-credential", format!("no token for {prefix}"))
            .hint("agent-mesh token check says for whom there is one"));
    }
    ui.out(format!("forgot the token for {prefix}"));
    ui.document("token", Exit::Done, json!({ "emailPrefix": prefix, "shared": shared, "device": device }));
    Ok(Exit::Done)
}
