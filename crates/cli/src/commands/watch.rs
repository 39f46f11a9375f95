//! Somebody watches a message on its way: progress on stderr, the reply on stdout as it grows.

use agent_team_mesh::progress::{Observer, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

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
        }
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

    /// The rounds that ended.
    pub fn rounds(&self) -> &[Value] {
        &self.rounds
    }

    fn say(&self, what: String) {
        self.spinner.set_message(what);
    }
}

impl Observer for Watch<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        match step {
            Progress::Reached => self.say(format!("reached {}", self.name)),
            Progress::Accepted => self.say(format!("{} accepted it", self.name)),
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
