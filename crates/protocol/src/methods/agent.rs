//! Running an agent: `agent` (two answers on one id) and `agent.wait`.

use serde::{Deserialize, Serialize};

use super::Method;

/// `agent`: one turn of an agent. Answered twice on one id: [`AgentAck`] at once, [`AgentDone`] at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// What the agent is told; at least one character.
    pub message: String,
    /// Becomes the run id. Global to the gateway: use a UUID.
    pub idempotency_key: String,
    /// Which session, such as `agent:main:mesh:alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// Which agent, if no session key says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// **Seconds** after which the gateway aborts the run; 0 is no limit. Not the caller's patience: leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Added to the system prompt of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_system_prompt: Option<String>,
    /// Says that the message comes from another agent, not from the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_provenance: Option<InputProvenance>,
}

impl Method for Agent {
    const NAME: &'static str = "agent";
    type Payload = AgentAck;
}

/// Where a message comes from. A claim of the sender, which the gateway shows to the model as data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputProvenance {
    /// `inter_session` for another agent; also `external_user`, `internal_system`.
    pub kind: String,
    /// Free text, such as `mesh:alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_session_key: Option<String>,
    /// Free text, such as `agent-mesh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_channel: Option<String>,
    /// Free text. Not `sessions_send`: such rows are hidden from the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_tool: Option<String>,
}

/// The first answer to `agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentAck {
    /// The run, equal to the idempotency key.
    pub run_id: String,
    /// `accepted`; `in_flight` when this key is running already (no second answer comes then).
    pub status: String,
    /// The session in its full form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// The agent that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// When it was accepted, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<i64>,
    /// Of agent-mesh's own gateway: it waits until its owner lets it run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
}

/// The second answer to `agent`, or the cached one to a key that finished in the last five minutes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentDone {
    /// The run.
    #[serde(default)]
    pub run_id: String,
    /// `ok`, `error` or `timeout` (which an abort is, too).
    pub status: String,
    /// `completed`, `failed`, `aborted`, or an error's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What the agent said; its `meta` (the host agent's prompts) is deliberately not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AgentResult>,
    /// `rpc` when somebody aborted the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Where a run ran out of its own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_phase: Option<String>,
}

/// What an agent said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentResult {
    /// Its parts, in order.
    #[serde(default)]
    pub payloads: Vec<ReplyPart>,
}

/// One part of a reply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplyPart {
    /// Its text.
    #[serde(default)]
    pub text: Option<String>,
    /// The gateway's own words about a failure, never the agent's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The complete reply.
    Reply(String),
    /// The agent ended without saying anything.
    NoReply,
    /// The run was aborted by somebody.
    Aborted,
    /// The run ran out of the time its gateway gives it.
    RunTimeout,
    /// The run failed; the peer's words.
    Failed(String),
}

impl AgentDone {
    /// How the run ended. Parts marked as errors are never taken for a reply.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let parts = self.result.as_ref().map(|r| r.payloads.as_slice()).unwrap_or_default();
        let texts = |errors: bool| {
            let chosen = parts.iter().filter(|p| p.is_error == errors).filter_map(|p| p.text.as_deref());
            chosen.filter(|t| !t.is_empty()).collect::<Vec<_>>().join("\n\n")
        };
        let (reply, complaint) = (texts(false), texts(true));
        match self.status.as_str() {
            "ok" if !reply.is_empty() => Outcome::Reply(reply),
            "ok" => Outcome::NoReply,
            "timeout" if self.stop_reason.as_deref() == Some("rpc") => Outcome::Aborted,
            "timeout" => Outcome::RunTimeout,
            // An empty answer and the silence token end in `error` with this summary and an explanation.
            "error" if self.summary.as_deref() == Some("failed") => Outcome::NoReply,
            _ if !complaint.is_empty() => Outcome::Failed(complaint),
            _ => Outcome::Failed(self.summary.clone().unwrap_or_else(|| self.status.clone())),
        }
    }
}

/// `agent.wait`: is this run over? Do not use its text as the reply: it is cut at 4,096 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentWait {
    /// The run.
    pub run_id: String,
    /// How long to wait, in milliseconds; 30,000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Method for AgentWait {
    const NAME: &'static str = "agent.wait";
    type Payload = AgentWaited;
}

/// The answer to `agent.wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentWaited {
    /// The run asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// `ok`, `error`, `pending` (queued behind another run) or `timeout`.
    pub status: String,
    /// When the run ended, milliseconds since the epoch. A `timeout` without it is the *wait's* own, or the run is
    /// unknown: those two look alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `rpc` when somebody aborted the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// The reply's beginning, on recent gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_reply: Option<TerminalReply>,
}

impl AgentWaited {
    /// Whether the run is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "ok" | "error") || self.ended_at.is_some()
    }
}

/// The beginning of a reply, in the answer to `agent.wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalReply {
    /// `visible`, `empty` or `silent`.
    pub disposition: String,
    /// OpenClaw: at most 4,096 characters, the last of them U+2026 where that is not all. `serve`: all of it for a run that
    /// ended long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl TerminalReply {
    /// The reply, if this is surely all of it.
    #[must_use]
    pub fn whole(self) -> Option<String> {
        const CUT: usize = 4096;
        self.text.filter(|text| !text.ends_with('\u{2026}') || text.chars().count() > CUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(json: &str) -> Outcome {
        serde_json::from_str::<AgentDone>(json).unwrap().outcome()
    }

    #[test]
    fn every_row_of_the_table_of_second_answers() {
        let complaint = r#"{"payloads":[{"text":"couldn't generate a response","isError":true}]}"#;
        let cases = [
            (
                r#"{"status":"ok","result":{"payloads":[{"text":"a"},{"text":"b"}]}}"#.to_owned(),
                Outcome::Reply("a\n\nb".into()),
            ),
            (r#"{"status":"ok","result":{"payloads":[]}}"#.to_owned(), Outcome::NoReply),
            (format!(r#"{{"status":"error","summary":"failed","result":{complaint}}}"#), Outcome::NoReply),
            (
                format!(
                    r#"{{"status":"timeout","summary":"aborted","timeoutPhase":"provider","result":{complaint}}}"#
                ),
                Outcome::RunTimeout,
            ),
            (r#"{"status":"timeout","summary":"aborted","stopReason":"rpc"}"#.to_owned(), Outcome::Aborted),
            (
                r#"{"status":"error","summary":"HTTP 400 bad"}"#.to_owned(),
                Outcome::Failed("HTTP 400 bad".into()),
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(outcome(&json), expected, "{json}");
        }
    }

    #[test]
    fn an_error_part_is_never_the_reply() {
        let json =
            r#"{"status":"ok","result":{"payloads":[{"text":"oops","isError":true},{"text":"fine"}]}}"#;
        assert_eq!(outcome(json), Outcome::Reply("fine".into()));
    }

    #[test]
    fn a_wait_that_timed_out_does_not_say_the_run_is_over() {
        let over = |json: &str| serde_json::from_str::<AgentWaited>(json).unwrap().is_over();
        assert!(!over(r#"{"status":"timeout"}"#));
        assert!(!over(r#"{"status":"pending"}"#));
        assert!(over(r#"{"status":"timeout","endedAt":5}"#));
        assert!(over(r#"{"status":"ok"}"#));
    }
}
