//! How a run ended, in the shapes of the wire.

use openclaw_protocol::ErrorShape;
use openclaw_protocol::methods::agent::{AgentWaited, TerminalReply};
use serde_json::value::{RawValue, to_raw_value};
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

/// A finished run, as long as it is remembered.
#[derive(Debug)]
pub(crate) struct Done {
    /// The payload of the second answer.
    pub(crate) payload: Option<Box<RawValue>>,
    /// Its error.
    pub(crate) error: Option<ErrorShape>,
    /// The answer to `agent.wait`.
    pub(crate) waited: AgentWaited,
    /// The answer to a repeated `chat.send`.
    pub(crate) chat_ack: Value,
}

impl Done {
    /// Writes an outcome down.
    pub(crate) fn new(run_id: &str, outcome: &Outcome, duration_ms: i64, ended_at: i64) -> Self {
        let error = match outcome {
            Outcome::Failed(why) => Some(ErrorShape::new("UNAVAILABLE", why.clone())),
            _ => None,
        };
        Self {
            payload: to_raw_value(&second_answer(run_id, outcome, duration_ms)).ok(),
            error,
            waited: waited(run_id, outcome, ended_at),
            chat_ack: chat_ack(run_id, outcome, ended_at),
        }
    }

    /// Its size in memory, roughly.
    pub(crate) fn size(&self) -> usize {
        let reply = self.waited.terminal_reply.as_ref().and_then(|reply| reply.text.as_ref());
        self.payload.as_ref().map_or(0, |raw| raw.get().len()) + reply.map_or(0, String::len) + 1024
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
            let done = Done::new("r", &outcome, 1, 2);
            let payload: AgentDone = serde_json::from_str(done.payload.as_ref().unwrap().get()).unwrap();
            assert_eq!(payload.outcome(), read);
            assert!(done.waited.is_over());
            assert_eq!(done.error.is_some(), matches!(outcome, Outcome::Failed(_)));
        }
    }

    #[test]
    fn agent_wait_shows_4096_characters_at_most() {
        assert_eq!(beginning(&"é".repeat(4096)), "é".repeat(4096));
        let cut = beginning(&"é".repeat(4097));
        assert!(cut.ends_with('\u{2026}') && cut.chars().count() == 4096);
    }
}
