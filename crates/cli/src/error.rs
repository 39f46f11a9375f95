//! From a failure to what the user reads: a code, a sentence, a hint, and the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use agent_team_mesh::MeshError;
pub use agent_team_mesh::error::chain;
use agent_team_mesh::identity::{self, IdentitySources};
use agent_team_mesh::private_file::shell_word;
use serde_json::{Map, Value};

mod explain;

pub use explain::{ask_for_an_invite, policy_malformed, relay_hint, token_too_short};

/// What helps whoever has written something that cannot be understood.
const SEE_HELP: &str = "agent-mesh --help lists commands and options, agent-mesh COMMAND --help those of one";

/// Where it stands under which name others let us in.
static OURSELVES: OnceLock<IdentitySources> = OnceLock::new();

/// Lets hints say who we are, where others have to name us: it is looked up for the first that does.
pub fn introduce(sources: IdentitySources) {
    OURSELVES.get_or_init(|| sources);
}

/// Ourselves, in a command that others run.
pub fn our_name() -> &'static str {
    const UNKNOWN: &str = "NAME";
    static OUR_NAME: OnceLock<Option<String>> = OnceLock::new();
    let Some(sources) = OURSELVES.get() else { return UNKNOWN };
    let name = OUR_NAME.get_or_init(|| {
        let me = identity::resolve(sources).ok().flatten()?;
        Some(shell_word(Path::new(&me.email_prefix)))
    });
    name.as_deref().unwrap_or(UNKNOWN)
}

/// The exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage, or a file that is needed and malformed.
    Usage = 2,
    /// No reply in time, or delivery unknown.
    NoReply = 3,
    /// An unknown teammate, or no address.
    Unknown = 4,
    /// Authentication, pairing, scope, identity.
    Auth = 5,
    /// Unreachable.
    Unreachable = 6,
    /// Refused by local policy.
    Policy = 7,
    /// A broadcast reached only some.
    Partial = 8,
    /// Busy, try again.
    Busy = 75,
    /// Interrupted.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure, ready to be shown.
#[derive(Debug)]
pub struct CliError {
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    pub exit: Exit,
    /// What is known all the same, for the JSON document.
    pub fields: Map<String, Value>,
}

impl CliError {
    pub fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, exit, fields: Map::new() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message).hint(SEE_HELP)
    }

    /// A file that was named and is not there.
    pub fn no_file(path: &Path, what_it_is: &str) -> Self {
        let hint = format!("look at how its name is spelled: {what_it_is}");
        Self::usage(format!("{}: no such file", path.display())).hint(hint)
    }

    /// A file that was named and cannot be read.
    pub fn unreadable(name: &str, error: &io::Error) -> Self {
        Self::usage(format!("{name}: {error}")).hint(explain::machine(error.kind(), Some(Path::new(name))))
    }

    /// By the user, who knows what to do: no hint.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted", "interrupted")
    }

    /// A failure of this machine: disk full, no permission.
    pub fn io(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Failed, "io", format!("{what}: {error}")).hint(explain::machine(error.kind(), None))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, beside what is known.
    pub fn with_fields(mut self, fields: Value) -> Self {
        if let Value::Object(fields) = fields {
            self.fields.extend(fields);
        }
        self
    }

    /// What clap says, in one sentence: all up to the empty line, which names what is missing or allowed.
    pub fn from_clap(error: &clap::Error) -> Self {
        let text = error.to_string();
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let message = lines.collect::<Vec<_>>().join(" ");
        Self::usage(message.trim_start_matches("error: "))
    }

    /// The document's `error` object.
    pub fn to_json(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), self.message.clone().into());
        error.insert("hint".to_owned(), self.hint.clone().into());
        Value::Object(error)
    }
}

impl From<MeshError> for CliError {
    fn from(error: MeshError) -> Self {
        explain::explain(&error)
    }
}

impl From<&MeshError> for CliError {
    fn from(error: &MeshError) -> Self {
        explain::explain(error)
    }
}
