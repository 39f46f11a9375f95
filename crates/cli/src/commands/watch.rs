//! Somebody watches a message on its way: progress on stderr, the reply on stdout as it grows.

use agent_team_mesh::Mesh;
use agent_team_mesh::ops::let_go::let_go;
use agent_team_mesh::ops::send::Plan;
use agent_team_mesh::progress::{Observer, Progress};
use agent_team_mesh::record::{Record, State};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::text;
use crate::ui::{Line, Ui, style};

/// Shows what happens, and remembers what was said.
pub struct Watch<'a> {
    ui: &'a Ui,
    name: String,
    spinner: ProgressBar,
    shown: String,
    several: bool,
    rounds: Vec<Value>,
    asked: String,
    under_way: Option<(String, State)>,
    /// The record of the message as it was planned, or of the last round.
    told: Value,
}

impl<'a> Watch<'a> {
    pub fn new(ui: &'a Ui, name: &str) -> Self {
        let spinner = if ui.shows_progress() {
            let spinner = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
            spinner.set_message(format!("calling {}", text::one_line(name)));
            spinner.enable_steady_tick(std::time::Duration::from_millis(100));
            spinner
        } else {
            ProgressBar::hidden()
        };
        let name = text::one_line(name);
        Self {
            ui,
            name,
            spinner,
            shown: String::new(),
            several: false,
            rounds: Vec::new(),
            asked: String::new(),
            under_way: None,
            told: json!({}),
        }
    }

    /// What is to be sent, for an interruption before anything of it is known.
    pub fn sending(mut self, plan: &Plan) -> Self {
        self.told = record(&Record { state: State::Cancelled, ..plan.untold() });
        self
    }

    /// Takes the spinner away, and gives the reply as it was shown, if any of it was.
    pub fn finish(self) -> Option<String> {
        self.spinner.finish_and_clear();
        if self.shown.is_empty() {
            return None;
        }
        if !self.shown.ends_with('\n') {
            self.ui.peer_text_piece("\n");
        }
        Some(self.shown)
    }

    /// What to say when somebody stops the watching. What has not left does not leave any more; the rest may go on.
    pub async fn interrupted(self, mesh: &Mesh) -> CliError {
        let (rounds, under_way, mut fields) =
            (self.rounds.clone(), self.under_way.clone(), self.told.clone());
        let name = self.name.clone();
        self.finish();
        if !rounds.is_empty() {
            fields["rounds"] = rounds.into();
        }
        let Some((id, seen)) = under_way else {
            // One that was just being written down is taken back, which is written down, too.
            mesh.settle_archive().await;
            return CliError::interrupted().with_fields(fields);
        };
        let mut state = seen;
        fields["id"] = id.clone().into();
        // Without the archive, what was seen is all we know.
        if let Ok(Some(stored)) = let_go(mesh, &id, State::Cancelled).await {
            state = stored.record.state;
            extend(&mut fields, record(&stored.record));
        }
        fields["state"] = state.name().into();
        let message = format!("interrupted: the message to {name} is {} ({id})", state.name());
        let hint = match state {
            State::Cancelled => "it did not leave, and will not".to_owned(),
            State::Queued => {
                format!("agent-mesh outbox flush sends it; agent-mesh outbox rm {id} takes it out")
            }
            _ => format!("agent-mesh wait {id} tells what becomes of it; do not send it again"),
        };
        CliError::new(Exit::Interrupted, "interrupted", message).hint(hint).with_fields(fields)
    }

    fn say(&self, what: String) {
        self.spinner.set_message(what);
    }
}

/// A record as documents have it.
fn record(record: &Record) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

fn extend(fields: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (fields, more) {
        fields.extend(more);
    }
}

impl Observer for Watch<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        match step {
            Progress::Begun { id } => self.under_way = Some((id.to_owned(), State::Sending)),
            Progress::Reached => self.say(format!("reached {}", self.name)),
            Progress::Accepted => {
                if let Some((_, state)) = &mut self.under_way {
                    *state = State::Accepted;
                }
                self.say(format!("{} accepted it", self.name));
            }
            Progress::Held => {
                if let Some((_, state)) = &mut self.under_way {
                    *state = State::Held;
                }
                self.say(format!("{} has to let it run", self.name));
            }
            Progress::Phase(phase) => self.say(format!("{}: {}", self.name, text::one_line(phase))),
            // A route may hear more than was asked for.
            Progress::Text(_) | Progress::Rewrite(_) if !self.wants_text() => {}
            Progress::Text(piece) => {
                self.spinner.finish_and_clear();
                self.shown.push_str(piece);
                self.ui.peer_text_piece(piece);
            }
            Progress::Rewrite(whole) => {
                self.spinner.finish_and_clear();
                self.ui.note(Line::styled(style::FAINT, "\n(rewritten)"));
                self.shown = whole.to_owned();
                self.ui.peer_text_piece(whole);
            }
            Progress::Round { number, message } => {
                self.several = true;
                self.asked = message.to_owned();
                self.say(format!("round {number} with {}", self.name));
            }
            Progress::RoundDone(record) => {
                self.under_way = None;
                self.told = self::record(record);
                let reply = record.reply.as_ref().map(|reply| reply.text.clone());
                if let Some(reply) = &reply {
                    self.spinner.suspend(|| {
                        let number = self.rounds.len() + 1;
                        self.ui.note(Line::styled(style::FAINT, format!("round {number}")));
                        self.ui.peer_text(reply);
                    });
                }
                self.rounds.push(json!({ "message": self.asked, "reply": reply }));
            }
            _ => {}
        }
    }

    fn wants_text(&self) -> bool {
        // Rounds are printed whole, one after the other.
        self.ui.streams() && !self.several
    }
}
