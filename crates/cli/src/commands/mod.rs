//! One small file a command: an argument struct whose doc comment is the help, and one `run`.

pub mod broadcast;
pub mod completions;
pub mod config;
pub mod demo;
pub mod dialogue;
pub mod doctor;
pub mod inbox;
pub mod init;
pub mod invite;
pub mod join;
pub mod limits;
pub mod list;
pub mod log;
pub mod man;
pub mod mcp;
pub mod outbox;
pub mod pair;
pub mod ping;
pub mod send;
pub mod serve;
pub mod skill;
pub mod sync;
pub mod token;
pub mod trust;
pub mod wait;
mod watch;
pub mod whoami;

use std::pin::Pin;

use agent_team_mesh::descriptors::{self, Room};
use agent_team_mesh::message::SizeNote;
use agent_team_mesh::{Mesh, private_file};

use crate::args::Command;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

/// A command at work.
type Running<'a> = Pin<Box<dyn Future<Output = Result<Exit, CliError>> + 'a>>;

/// Runs a command. Each is in a box of its own, made before anything runs: what the largest one needs would else lie on the
/// stack of all, below everything, and be touched by each.
pub fn run<'a>(command: Command, settings: &'a Settings, ui: &'a mut Ui) -> Running<'a> {
    match command {
        Command::Whoami(args) => Box::pin(async move { whoami::run(&args, settings, ui) }),
        Command::List(args) => Box::pin(async move { list::run(&args, settings, ui).await }),
        Command::Ping(args) => Box::pin(async move { ping::run(&args, settings, ui).await }),
        Command::Send(args) => Box::pin(send::run(args, settings, ui)),
        Command::Broadcast(args) => Box::pin(broadcast::run(args, settings, ui)),
        Command::Dialogue(args) => Box::pin(dialogue::run(args, settings, ui)),
        Command::Pair(args) => Box::pin(async move { pair::run(&args, settings, ui).await }),
        Command::Invite(args) => Box::pin(async move { invite::run(&args, settings, ui).await }),
        Command::Join(args) => Box::pin(join::run(args, settings, ui)),
        Command::Sync(args) => Box::pin(async move { sync::run(&args, settings, ui).await }),
        Command::Token(args) => Box::pin(async move { token::run(&args, settings, ui) }),
        Command::Trust(args) => Box::pin(async move { trust::run(&args, settings, ui).await }),
        Command::Init(args) => Box::pin(async move { init::run(&args, settings, ui) }),
        Command::Wait(args) => Box::pin(async move { wait::run(&args, settings, ui).await }),
        Command::Log(args) => Box::pin(async move { log::run(&args, settings, ui).await }),
        Command::Outbox(args) => Box::pin(async move { outbox::run(&args, settings, ui).await }),
        Command::Limits(args) => Box::pin(async move { limits::run(&args, settings, ui).await }),
        Command::Inbox(args) => Box::pin(async move { inbox::run(&args, settings, ui).await }),
        Command::Serve(args) => Box::pin(serve::run(args, settings, ui)),
        Command::Mcp(args) => Box::pin(async move { mcp::run(&args, settings, ui).await }),
        Command::Skill(args) => Box::pin(async move { skill::run(&args, settings, ui) }),
        Command::Demo(args) => Box::pin(async move { demo::run(&args, settings, ui).await }),
        Command::Doctor(args) => Box::pin(async move { doctor::run(&args, settings, ui).await }),
        Command::Config(args) => Box::pin(async move { config::run(&args, settings, ui) }),
        Command::Completions(args) => Box::pin(async move { completions::run(&args, ui) }),
        Command::Man(args) => Box::pin(async move { man::run(&args, ui) }),
    }
}

/// The mesh of these settings, and what a user should know of its files before it bites.
fn open(settings: &Settings, insecure: bool, ui: &Ui) -> Result<Mesh, CliError> {
    let mesh = settings.mesh(insecure)?;
    for file in [&mesh.config().tokens, &mesh.device_key_path()] {
        if let (true, Some(wide)) = (file.exists(), private_file::wide_folder(file)) {
            ui.warn(format!("others may look into {}: {}", wide.path.display(), wide.fix));
        }
    }
    Ok(mesh)
}

/// The same for what speaks in an agent's stead: whoever calls, the limits for agents hold.
fn open_for_agent(settings: &Settings, insecure: bool) -> Result<Mesh, CliError> {
    let mut config = settings.mesh(insecure)?.config().clone();
    config.caller.agent = true;
    Ok(Mesh::new(config))
}

/// The same, with a registry that is needed.
fn open_with_registry(settings: &Settings, insecure: bool, ui: &Ui) -> Result<Mesh, CliError> {
    let mesh = open(settings, insecure, ui)?;
    warn_of_inline_tokens(&mesh, ui)?;
    Ok(mesh)
}

fn warn_of_size(note: SizeNote, ui: &Ui) {
    if let SizeNote::OverSoft { bytes, soft } = note {
        ui.warn(format!(
            "the message has {bytes} bytes, more than {soft}: long messages cost the peer's agent context"
        ));
    }
}

fn warn_of_inline_tokens(mesh: &Mesh, ui: &Ui) -> Result<(), CliError> {
    for agent in mesh.registry()?.agents.iter().filter(|agent| agent.has_inline_token()) {
        ui.warn(format!(
            "{} has a token in the registry, where it is not used: move it with agent-mesh token set {}",
            agent.name, agent.email_prefix
        ));
    }
    Ok(())
}

/// Says so where not all of so many teammates can be called at once: then those that do not answer are waited for in
/// groups, and not all together.
fn mind_descriptors(teammates: usize, ui: &Ui) {
    let Room { connections, limit } = descriptors::room();
    if teammates > connections {
        ui.note(format!(
            "{connections} of {teammates} teammates are called at once, since no more than {limit} files may be open: \
             those that do not answer take longer; raise it with ulimit -n {}",
            teammates.saturating_add(limit - connections).next_multiple_of(1024)
        ));
    }
}
