//! How a run ended, in the shapes of the wire.

use openclaw_protocol::ErrorShape;
use openclaw_protocol::frame::encode_response;
use openclaw_protocol::methods::agent::{AgentWaited, TerminalReply};
use serde_json::{Value, json};

/// `agent.wait` shows so much of a reply, in characters.
const TERMINAL_CHARS: usize = 4096;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The agent said something.
    Reply(String),
    /// It ended without a word.
    Silence,
    /// It failed; its words.
    Failed(String),
    /// It took too long.
    TimedOut,
    /// Somebody stopped it.
    Aborted,
}

/// A finished run, as long as it is remembered: a thousand of them are, so what the wire shows of it is made when somebody asks.
#[derive(Debug)]
pub(crate) struct Done {
    run_id: String,
    pub(crate) outcome: Outcome,
    duration_ms: i64,
    pub(crate) ended_at: i64,
}

impl Done {
    /// Writes an outcome down.
    pub(crate) fn new(run_id: &str, outcome: Outcome, duration_ms: i64, ended_at: i64) -> Self {
        Self { run_id: run_id.to_owned(), outcome, duration_ms, ended_at }
    }

    /// The second answer to this request, as text.
    pub(crate) fn answer(&self, request: &str) -> Result<String, serde_json::Error> {
        let payload = second_answer(&self.run_id, &self.outcome, self.duration_ms);
        encode_response(request, Some(&payload), self.error().as_ref())
    }

    /// The error of the second answer.
    pub(crate) fn error(&self) -> Option<ErrorShape> {
        match &self.outcome {
            Outcome::Failed(why) => Some(ErrorShape::new("UNAVAILABLE", why.clone())),
            _ => None,
        }
    }

    /// The answer to `agent.wait`.
    pub(crate) fn waited(&self) -> AgentWaited {
        waited(&self.run_id, &self.outcome, self.ended_at)
    }

    /// The answer to a repeated `chat.send`.
    pub(crate) fn chat_ack(&self) -> Value {
        chat_ack(&self.run_id, &self.outcome, self.ended_at)
    }

    /// Its size in memory, roughly, and that of the run in its table.
    pub(crate) fn size(&self) -> usize {
        const RUN: usize = 1024;
        let text = match &self.outcome {
            Outcome::Reply(text) | Outcome::Failed(text) => text.len(),
            Outcome::Silence | Outcome::TimedOut | Outcome::Aborted => 0,
        };
        self.run_id.len() + text + RUN
    }
}

fn second_answer(run_id: &str, outcome: &Outcome, duration_ms: i64) -> Value {
    let result = |text: &str, is_error: bool| {
        let mut part = json!({ "text": text, "mediaUrl": null });
        if is_error {
            part["isError"] = json!(true);
        }
        json!({ "payloads": [part], "meta": { "durationMs": duration_ms } })
    };
    match outcome {
        Outcome::Reply(text) => {
            json!({ "runId": run_id, "status": "ok", "summary": "completed", "result": result(text, false) })
        }
        Outcome::Silence => json!({
            "runId": run_id, "status": "error", "summary": "failed",
            "result": result("The agent couldn't generate a response. Please try again.", true),
        }),
        Outcome::Failed(why) => json!({ "runId": run_id, "status": "error", "summary": why }),
        Outcome::TimedOut => json!({
            "runId": run_id, "status": "timeout", "summary": "aborted", "timeoutPhase": "provider",
            "providerStarted": true,
            "result": result("Request timed out before a response was generated. Please try again.", true),
        }),
        Outcome::Aborted => {
            json!({ "runId": run_id, "status": "timeout", "summary": "aborted", "stopReason": "rpc" })
        }
    }
}

fn waited(run_id: &str, outcome: &Outcome, ended_at: i64) -> AgentWaited {
    let reply = |disposition: &str, text: Option<String>| {
        Some(TerminalReply { disposition: disposition.to_owned(), text })
    };
    let base = AgentWaited {
        run_id: Some(run_id.to_owned()),
        ended_at: Some(ended_at),
        status: "error".to_owned(),
        ..AgentWaited::default()
    };
    match outcome {
        Outcome::Reply(text) => AgentWaited {
            status: "ok".to_owned(),
            stop_reason: Some("stop".to_owned()),
            terminal_reply: reply("visible", Some(beginning(text))),
            ..base
        },
        Outcome::Silence => AgentWaited {
            error: Some("no response".to_owned()),
            terminal_reply: reply("empty", None),
            ..base
        },
        Outcome::Failed(why) => AgentWaited { error: Some(why.clone()), ..base },
        Outcome::TimedOut => AgentWaited {
            status: "timeout".to_owned(),
            error: Some("the run timed out".to_owned()),
            terminal_reply: reply("empty", None),
            ..base
        },
        Outcome::Aborted => {
            AgentWaited { error: Some("aborted".to_owned()), stop_reason: Some("rpc".to_owned()), ..base }
        }
    }
}

fn chat_ack(run_id: &str, outcome: &Outcome, ended_at: i64) -> Value {
    match outcome {
        Outcome::Reply(_) => json!({ "runId": run_id, "status": "ok" }),
        Outcome::Silence => json!({ "runId": run_id, "status": "error", "summary": "failed" }),
        Outcome::Failed(why) => json!({ "runId": run_id, "status": "error", "summary": why }),
        Outcome::TimedOut => {
            json!({ "runId": run_id, "status": "timeout", "summary": "aborted", "endedAt": ended_at })
        }
        Outcome::Aborted => json!({
            "runId": run_id, "status": "timeout", "summary": "aborted", "stopReason": "rpc", "endedAt": ended_at,
        }),
    }
}

/// A text that was cut ends with an ellipsis.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(TERMINAL_CHARS) {
        None => text.to_owned(),
        Some(_) => text.chars().take(TERMINAL_CHARS - 1).chain(['\u{2026}']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use openclaw_protocol::methods::agent::{AgentDone, Outcome as Read};

    use super::*;

    #[test]
    fn the_protocol_crate_reads_every_outcome_back() {
        let cases = [
            (Outcome::Reply("hi".into()), Read::Reply("hi".into())),
            (Outcome::Silence, Read::NoReply),
            (Outcome::Failed("why".into()), Read::Failed("why".into())),
            (Outcome::TimedOut, Read::RunTimeout),
            (Outcome::Aborted, Read::Aborted),
        ];
        for (outcome, read) in cases {
            let done = Done::new("r", outcome, 1, 2);
            let answer = done.answer("q").unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let payload: AgentDone = serde_json::from_value(answer["payload"].clone()).unwrap();
            assert_eq!(payload.outcome(), read);
            assert!(done.waited().is_over());
            assert_eq!(answer["ok"] == false, matches!(done.outcome, Outcome::Failed(_)));
        }
    }

    #[test]
    fn agent_wait_shows_4096_characters_at_most() {
        assert_eq!(beginning(&"é".repeat(4096)), "é".repeat(4096));
        let cut = beginning(&"é".repeat(4097));
        assert!(cut.ends_with('\u{2026}') && cut.chars().count() == 4096);
    }
}
