//! The command line: global options, and which command.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands;

/// Reach a teammate's agent directly: no broker, no server.
#[derive(Debug, Parser)]
#[command(name = "agent-mesh", version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done · 1 failed · 2 usage · 3 no reply in time · 4 unknown teammate · \
5 authentication or pairing · 6 unreachable · 7 refused by local policy · 8 broadcast reached only some · 75 busy · \
130 interrupted"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The team's registry [env: MESH_REGISTRY]
    #[arg(long, global = true, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Our tokens for other peers' gateways [env: MESH_TOKENS_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// What peers of our own gateway may do [env: MESH_POLICY]
    #[arg(long, global = true, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The settings file [env: MESH_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The folder of our device key and device tokens [env: MESH_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Our own gateway [env: MESH_GATEWAY_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub gateway: Option<String>,
    /// Who I am: an e-mail address or its prefix [env: MESH_MY_EMAIL]
    #[arg(long, global = true, value_name = "EMAIL")]
    pub me: Option<String>,
    /// Print exactly one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only the reply's text
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Leave control characters in a peer's text as they are, if the output is no terminal
    #[arg(long, global = true)]
    pub raw: bool,
    /// No colours [env: NO_COLOR]
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Say more on stderr; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The arguments of a command are put together when it is named: those of all take longer than the rest of reading argv.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    Whoami(commands::whoami::WhoamiArgs),
    List(commands::list::ListArgs),
    Ping(commands::ping::PingArgs),
    Send(commands::send::SendArgs),
    Broadcast(commands::broadcast::BroadcastArgs),
    Dialogue(commands::dialogue::DialogueArgs),
    Invite(commands::invite::InviteArgs),
    Join(commands::join::JoinArgs),
    Pair(commands::pair::PairArgs),
    Token(commands::token::TokenArgs),
    Trust(commands::trust::TrustArgs),
    Sync(commands::sync::SyncArgs),
    Init(commands::init::InitArgs),
    Wait(commands::wait::WaitArgs),
    Log(commands::log::LogArgs),
    Outbox(commands::outbox::OutboxArgs),
    Limits(commands::limits::LimitsArgs),
    Serve(commands::serve::ServeArgs),
    Inbox(commands::inbox::InboxArgs),
    Mcp(commands::mcp::McpArgs),
    Skill(commands::skill::SkillArgs),
    Demo(commands::demo::DemoArgs),
    Doctor(commands::doctor::DoctorArgs),
    Config(commands::config::ConfigArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}

impl Command {
    /// How the log is to be written, where that can be said.
    pub fn log_format(&self) -> Option<crate::ui::LogFormat> {
        match self {
            Self::Serve(args) => args.log,
            _ => None,
        }
    }

    /// Whether it catches Ctrl-C and SIGTERM itself: to say what became of a message, or to let runs end.
    pub fn minds_interrupts(&self) -> bool {
        matches!(
            self,
            Self::Send(_)
                | Self::Broadcast(_)
                | Self::Wait(_)
                | Self::Outbox(_)
                | Self::Serve(_)
                | Self::Token(_)
                | Self::Join(_)
                | Self::Mcp(_)
        )
    }

    /// Whether it goes on until somebody stops it: Ctrl-C is its end then, and no failure.
    pub fn follows(&self) -> bool {
        match self {
            Self::List(args) => args.follows(),
            Self::Log(args) => args.follows(),
            Self::Pair(args) => args.follows(),
            Self::Sync(args) => args.follows(),
            _ => false,
        }
    }

    /// Its name, as documents give it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Whoami(_) => "whoami",
            Self::List(_) => "list",
            Self::Ping(_) => "ping",
            Self::Send(_) => "send",
            Self::Broadcast(_) => "broadcast",
            Self::Dialogue(_) => "dialogue",
            Self::Invite(_) => "invite",
            Self::Join(_) => "join",
            Self::Pair(_) => "pair",
            Self::Token(_) => "token",
            Self::Trust(_) => "trust",
            Self::Sync(_) => "sync",
            Self::Init(_) => "init",
            Self::Wait(_) => "wait",
            Self::Log(_) => "log",
            Self::Outbox(_) => "outbox",
            Self::Limits(_) => "limits",
            Self::Serve(_) => "serve",
            Self::Inbox(_) => "inbox",
            Self::Mcp(_) => "mcp",
            Self::Skill(_) => "skill",
            Self::Demo(_) => "demo",
            Self::Doctor(_) => "doctor",
            Self::Config(_) => "config",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}

/// Reads argv.
///
/// # Errors
/// When it is wrong, or asks for the help or the version.
pub fn parse(argv: &[OsString]) -> Result<Cli, clap::Error> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand};
    if let Some(cli) = parse_named(argv) {
        return Ok(cli);
    }
    let helped = help_first(argv);
    let argv = helped.as_deref().unwrap_or(argv);
    Cli::try_parse_from(argv).map_err(|error| match error.kind() {
        // The help tells of all commands.
        DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand => {
            whole().try_get_matches_from(argv).err().unwrap_or(error)
        }
        _ => error,
    })
}

/// `help send` is `send --help`.
fn help_first(argv: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = argv.split_first()?;
    let (help, rest) = rest.split_first()?;
    let rest = rest.iter().cloned().chain(["--help".into()]);
    (help == "help").then(|| [program.clone()].into_iter().chain(rest).collect())
}

/// Reads argv as if there were no command but the one that it names: clap hands the global options down to each. What
/// can be read so means the same among the others; what cannot is for them.
fn parse_named(argv: &[OsString]) -> Option<Cli> {
    let all = Cli::command();
    let named = argv.iter().skip(1).find_map(|word| all.find_subcommand(word))?;
    let alone = clap::Command::new("agent-mesh").args(all.get_arguments()).subcommand(named);
    Cli::from_arg_matches(&alone.try_get_matches_from(argv).ok()?).ok()
}

/// The command line with the arguments of all commands.
pub fn whole() -> clap::Command {
    let mut whole = Cli::command();
    whole.build();
    whole
}

/// Whether a word is the name of a command.
pub fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

/// How long something may take: `60`, `90s`, `2m`, `500ms`, `1h`, `90d`. A bare number counts seconds.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if unit.starts_with(['.', ',']) {
        return Err("no fractions: 500ms rather than 0.5, 90s rather than 1.5m".to_owned());
    }
    let number: u64 = number.parse().map_err(|_| "expected a duration such as 60, 90s or 2m".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return Err(format!("`{unit}` is no unit: use ms, s, m, h or d")),
    };
    match millis {
        Some(0) => Err("it must be longer than nothing".to_owned()),
        // A year: beyond it, sums with the clock could overflow.
        Some(millis) if millis <= 31_536_000_000 => Ok(std::time::Duration::from_millis(millis)),
        _ => Err("it is longer than a year".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_and_without_units() {
        let cases = [
            ("60", 60_000),
            ("90s", 90_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1.5s", "2w", "0", "99999999999999999999", "9999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
