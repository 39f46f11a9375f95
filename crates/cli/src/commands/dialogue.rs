//! `agent-mesh dialogue`

use std::time::Duration;

use agent_team_mesh::ops::dialogue::{DialogueRequest, End, MAX_TURNS, dialogue};
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::record::To;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use uuid::Uuid;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::{Line, Ui, style};

/// Who ends a message with this ends the dialogue.
pub const STOP_PHRASE: &str = "END OF DIALOGUE";

/// Let our own agent and a teammate's talk about something
///
/// Our agent speaks first, over our own gateway; its words go to the teammate's agent, whose answer comes back to it, and
/// so on. The limits for agents hold. Every message to the teammate is in the log.
#[derive(Debug, Args)]
pub struct DialogueArgs {
    /// The teammate: e-mail prefix, name, nickname, or the beginning of one
    #[arg(long, value_name = "NAME")]
    with: String,
    /// What to talk about
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
    /// How many messages both say together
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TURNS)))]
    turns: u32,
    /// Whoever says this ends it
    #[arg(long, value_name = "TEXT", default_value = STOP_PHRASE, value_parser = NonEmptyStringValueParser::new())]
    stop_phrase: String,
    /// The conversation to go on with; a new one unless given
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    thread: Option<String>,
    /// How long each answer may take: 60, 90s, 2m [default: 60] [env: MESH_TIMEOUT]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Also send where it could be overheard
    #[arg(long)]
    insecure: bool,
}

pub async fn run(args: DialogueArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open_for_agent(settings, args.insecure)?;
    let agent = mesh.teammate(&args.with)?;
    let request = DialogueRequest {
        topic: args.topic,
        turns: args.turns,
        stop_phrase: args.stop_phrase,
        thread: args.thread.unwrap_or_else(fresh_thread),
        timeout: args.timeout.unwrap_or(settings.timeout.value),
        by_agent: false,
    };
    let mut shown = Shown { ui, name: &agent.name };
    let held = dialogue(&mesh, agent, &request, &mut shown).await?;
    let mut fields = json!({ "with": To::from(agent), "thread": request.thread, "turns": held.turns });
    match held.end {
        Ok(end) => {
            let why = match end {
                End::Turns => "its turns are used up",
                End::StopPhrase => "the stop phrase was said",
            };
            ui.note(format!(
                "the dialogue is over: {why}; agent-mesh log --thread {} has it",
                request.thread
            ));
            fields["end"] = json!(end);
            ui.document("dialogue", Exit::Done, fields);
            Ok(Exit::Done)
        }
        Err(error) => Ok(ui.document_with_error("dialogue", fields, error.into())),
    }
}

/// A conversation of its own.
pub fn fresh_thread() -> String {
    format!("dialogue-{}", &Uuid::new_v4().simple().to_string()[..8])
}

/// Prints what is said as it is said.
struct Shown<'a> {
    ui: &'a Ui,
    name: &'a str,
}

impl Observer for Shown<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        if let Progress::Said { ours, text } = step {
            let who = if ours { "our agent" } else { self.name };
            self.ui.out(Line::styled(style::STRONG, who));
            self.ui.quoted(text);
        }
    }
}
