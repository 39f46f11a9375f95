//! Who answers behind `serve`, as the command line says it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::{Agent, ApiKey, EchoAgent, ExecAgent, Memory, Model, OpenAiAgent, Room};
use agent_team_mesh::MeshError;
use agent_team_mesh::ops::relay::Relay;
use agent_team_mesh::private_file::{self, shell_word};
use clap::{Args, ValueEnum};

use super::openclaw::OpenClawAgent;
use crate::args::duration;
use crate::error::{CliError, Exit, chain};
use crate::settings::{Program, Settings};

/// The owner's instructions to a model: more than this is the wrong file.
const MAX_SYSTEM: usize = 256 * 1024;
/// With each message a model is told so many bytes of the conversation at most.
const HISTORY_BYTES: usize = 64 * 1024;

/// Who answers.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// Who answers
    #[arg(long, value_enum, default_value_t = AgentKind::Echo)]
    agent: AgentKind,
    /// How long one run may take
    #[arg(long, visible_alias = "exec-timeout", value_parser = duration, default_value = "10m", value_name = "TIME")]
    pub run_timeout: Duration,
    /// How many bytes of output are a reply; more is a failure
    #[arg(long, visible_alias = "exec-max-output", default_value_t = 4 * 1024 * 1024, value_name = "BYTES")]
    pub max_reply: usize,
    /// With --agent openai: the base of the interface, such as http://127.0.0.1:11434/v1
    #[arg(long)]
    url: Option<String>,
    /// With --agent openai: the model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// With --agent openai: a file with the key, mode 0600. Else MESH_OPENAI_KEY or OPENAI_API_KEY
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// With --agent openai: a file with your instructions to the model
    #[arg(long, value_name = "FILE")]
    system: Option<PathBuf>,
    /// With --agent openai: how many turns of a session the model is told again, 64 KiB of them at most
    #[arg(long, value_name = "TURNS")]
    history: Option<usize>,
    /// With --agent exec: leave out the gateway's own lines before a peer's message
    #[arg(long)]
    no_frame: bool,
    /// With --agent exec: the command. The message is on its standard input, or in place of an argument {message}; the
    /// reply is what it prints
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AgentKind {
    /// Repeats what it hears
    Echo,
    /// Runs a command for each message
    Exec,
    /// Asks a model behind an OpenAI-compatible interface
    Openai,
    /// Passes each message on to the agent of your OpenClaw gateway, which --gateway names
    Openclaw,
}

impl BackendArgs {
    /// The agent. Nothing is started or asked yet.
    /// `own_id` is the gateway's that it will stand behind.
    pub fn agent(
        &self,
        settings: &Settings,
        memory: Arc<dyn Memory>,
        own_id: &str,
    ) -> Result<Arc<dyn Agent>, CliError> {
        self.check()?;
        match self.agent {
            AgentKind::Openclaw => {
                let relay = Relay::new(settings.upstream()?, own_id.to_owned());
                Ok(Arc::new(OpenClawAgent::new(Arc::new(relay), self.run_timeout)))
            }
            AgentKind::Echo => Ok(Arc::new(EchoAgent::new())),
            AgentKind::Exec => self.exec(settings),
            AgentKind::Openai => self.openai(settings, memory),
        }
    }

    /// The way to OpenClaw, for whoever wants to know at the start whether it is open.
    pub fn upstream(&self, settings: &Settings, own_id: &str) -> Result<Option<Relay>, CliError> {
        match self.agent {
            AgentKind::Openclaw => Ok(Some(Relay::new(settings.upstream()?, own_id.to_owned()))),
            _ => Ok(None),
        }
    }

    /// An option of another agent is a mistake: who gives it thinks that it does something.
    fn check(&self) -> Result<(), CliError> {
        let openai = [
            ("--url", self.url.is_some()),
            ("--model", self.model.is_some()),
            ("--api-key-file", self.api_key_file.is_some()),
            ("--system", self.system.is_some()),
            ("--history", self.history.is_some()),
        ];
        if let Some((option, _)) = openai.into_iter().find(|(_, given)| *given)
            && self.agent != AgentKind::Openai
        {
            return Err(CliError::usage(format!("{option} needs --agent openai")));
        }
        if self.no_frame && self.agent != AgentKind::Exec {
            return Err(CliError::usage("--no-frame needs --agent exec"));
        }
        if !self.command.is_empty() && self.agent != AgentKind::Exec {
            return Err(CliError::usage("a command after -- needs --agent exec"));
        }
        Ok(())
    }

    fn exec(&self, settings: &Settings) -> Result<Arc<dyn Agent>, CliError> {
        let Some((command, rest)) = self.command.split_first() else {
            return Err(CliError::usage("--agent exec needs a command: -- CMD ARGS…"));
        };
        match settings.program(command) {
            Program::Ready => {}
            Program::NotExecutable(file) => {
                let message = format!("{} may not be executed", file.display());
                return Err(CliError::new(Exit::Usage, "command-not-executable", message)
                    .hint(format!("chmod +x {}", shell_word(&file))));
            }
            Program::Missing => {
                let message = format!("there is no program {}", command.display());
                return Err(CliError::new(Exit::Usage, "command-missing", message).hint(
                    "name a file that may be executed, by its path or as it stands in PATH; a line for the shell goes behind: -- sh -c",
                ));
            }
        }
        let mut agent = ExecAgent::new(command, rest.iter().cloned());
        agent.timeout = self.run_timeout;
        agent.max_output = self.max_reply;
        agent.frame = !self.no_frame;
        Ok(Arc::new(agent))
    }

    fn openai(&self, settings: &Settings, memory: Arc<dyn Memory>) -> Result<Arc<dyn Agent>, CliError> {
        let (Some(url), Some(name)) = (&self.url, &self.model) else {
            return Err(CliError::usage("--agent openai needs --url and --model"));
        };
        let model = Model {
            url: url.clone(),
            name: name.clone(),
            key: self.key(settings)?,
            system: self.system.as_deref().map(instructions).transpose()?,
            timeout: self.run_timeout,
            max_reply: self.max_reply,
            history: Room { turns: self.history.unwrap_or(40), bytes: HISTORY_BYTES },
        };
        let agent =
            OpenAiAgent::new(model, memory).map_err(|e| CliError::usage(format!("--url: {}", chain(&e))))?;
        Ok(Arc::new(agent))
    }

    fn key(&self, settings: &Settings) -> Result<Option<ApiKey>, CliError> {
        let Some(path) = &self.api_key_file else {
            return Ok(settings.openai_key()?.map(|key| ApiKey::new(key.expose())));
        };
        let bytes = private_file::read(path).map_err(MeshError::from)?;
        let bytes = bytes.ok_or_else(|| CliError::no_file(path, "it has to hold the key, with mode 0600"))?;
        match std::str::from_utf8(&bytes).map(str::trim) {
            Ok(key) if !key.is_empty() => Ok(Some(ApiKey::new(key))),
            _ => Err(CliError::usage(format!("{}: it holds no key", path.display()))),
        }
    }
}

fn instructions(path: &Path) -> Result<String, CliError> {
    let unusable = |why: &str| CliError::usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error.to_string()))?;
    if text.len() > MAX_SYSTEM {
        return Err(unusable("it is larger than instructions are"));
    }
    Ok(text.trim().to_owned())
}
