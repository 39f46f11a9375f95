//! `agent-mesh`: argv in; text or JSON and an exit code out.

mod args;
mod commands;
mod error;
mod interrupt;
mod prompt;
mod settings;
mod text;
mod ui;

use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::error::{ContextKind, ContextValue};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::{Cli, Command};
use crate::error::{CliError, Exit};
use crate::interrupt::interrupted;
use crate::settings::{Env, Settings};
use crate::ui::Ui;

fn main() -> ExitCode {
    // Every file we create holds secrets or private talk.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_descriptor_limit();
    let env = Env::of_process();
    let argv: Vec<_> = env.args().collect();
    let cli = match args::parse(&argv) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &argv, &env),
    };
    let mut ui = Ui::new(&cli.global, &env);
    let name = cli.command.name();
    match run(cli, env, &mut ui) {
        Ok(exit) => exit.into(),
        Err(error) => ui.failure(name, error).into(),
    }
}

/// Lets us have as many connections as we may: usually 1,024 are given, and far more are allowed.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // More than there are ports are of no use, and a child of ours that closes all it could have would take long. macOS
    // grants 10,240, whatever it says.
    for wanted in [65_536, 10_240] {
        let wanted = limit.maximum.map_or(wanted, |most| most.min(wanted));
        if limit.current.is_none_or(|current| current >= wanted) {
            return;
        }
        if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).is_ok() {
            return;
        }
    }
}

fn run(cli: Cli, env: Env, ui: &mut Ui) -> Result<Exit, CliError> {
    ui.start_log(cli.global.verbose, cli.command.log_format());
    // TLS of every kind finds its one provider here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let needs_threads = matches!(cli.command, Command::Serve(_) | Command::Demo(_));
    let mut builder = if needs_threads {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(workers());
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build().map_err(|e| CliError::io("cannot start", &e))?;
    let settings = Settings::load(&cli.global, env)?;
    error::introduce(settings.identity_sources());
    let follows = cli.command.follows();
    let outcome = runtime.block_on(async {
        if cli.command.minds_interrupts() {
            return commands::run(cli.command, &settings, ui).await;
        }
        tokio::select! {
            // Who catches Ctrl-C itself has something to say about it.
            biased;
            outcome = commands::run(cli.command, &settings, ui) => outcome,
            () = interrupted() => if follows { Ok(Exit::Interrupted) } else { Err(CliError::interrupted()) },
        }
    });
    // A name server that never answers, or a terminal nobody types at, holds a thread that is not worth waiting for.
    runtime.shutdown_background();
    outcome
}

/// One less than there are cores: the archive's thread has as much to do as all of them, and each change of hands on a core that
/// two want is a wait for somebody.
fn workers() -> usize {
    available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// `--help`, `--version`, and what cannot be parsed. Under `--json` a mistake is one document, too.
fn usage(error: &clap::Error, argv: &[std::ffi::OsString], env: &Env) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let json =
        argv.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json") || env.json().unwrap_or(false);
    if !json {
        let _ = error.print();
        return Exit::Usage.into();
    }
    // What was taken for a command and is none has no command behind it: `sned send` is not a `send`.
    let no_command = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let words = argv.iter().skip(1).filter_map(|arg| arg.to_str());
    let name = words.take_while(|word| Some(*word) != no_command).find(|word| args::is_command(word));
    Ui::json_only().failure(name.unwrap_or("agent-mesh"), CliError::from_clap(error)).into()
}
