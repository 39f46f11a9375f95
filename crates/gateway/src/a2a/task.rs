//! A run as a task.

use std::sync::Arc;

use jiff::Timestamp;
use openclaw_protocol::a2a::{Artifact, Message, Part, RpcError, Task, TaskQuery, TaskState, TaskStatus};
use openclaw_protocol::methods::agent::{AgentDone, Outcome};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Caller;
use crate::agent::ENDED_BEFORE;
use crate::keys::peer_session;
use crate::memory::{End, Past};
use crate::methods::chat::abort_run;
use crate::outcome::{self, Done};
use crate::principal::Member;
use crate::runs::Run;
use crate::shared::{Shared, lock};
use crate::shares::Who;

/// The one artifact of a task.
pub(super) const REPLY: &str = "reply";
/// Longest context id, in characters; as at OpenClaw's own channel.
const MAX_CONTEXT: usize = 128;
/// With this begins the name of a context's session.
const SESSION: &str = "a2a:";

/// The session of a conversation, as its peer names it. Session keys have no capital letters, so these are marked: two
/// contexts are two sessions.
pub(super) fn session(context_id: &str) -> Result<String, RpcError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if context_id.is_empty() || context_id.len() > MAX_CONTEXT || !context_id.chars().all(plain) {
        let words = "contextId must be 1 to 128 letters, digits, or . _ : -";
        return Err(RpcError::new(RpcError::INVALID_PARAMS, words));
    }
    let mut name = SESSION.to_owned();
    for c in context_id.chars() {
        if c.is_ascii_uppercase() {
            name.push('^');
        }
        name.push(c.to_ascii_lowercase());
    }
    Ok(name)
}

/// The conversation of a session in full form; none if it is no A2A client's.
fn context(session: &str, member: &Member) -> Option<String> {
    let (_, name) = peer_session(session, &member.key);
    let mut context = String::new();
    let mut letters = name.strip_prefix(SESSION)?.chars();
    while let Some(c) = letters.next() {
        context.push(if c == '^' { letters.next()?.to_ascii_uppercase() } else { c });
    }
    Some(context)
}

/// A task of this caller: a run that is known, or else one that is remembered.
pub(super) async fn find(shared: &Shared, caller: &Caller, query: &TaskQuery) -> Result<Task, RpcError> {
    let unknown = || RpcError::new(RpcError::TASK_NOT_FOUND, "no such task");
    if let Some(run) = run(shared, caller, &query.id) {
        return of_run(shared, caller, &run).ok_or_else(unknown);
    }
    let past = shared.config.memory.run(&query.id).await.map_err(|error| {
        tracing::warn!(%error, "a task cannot be looked up");
        RpcError::new(RpcError::SERVER, "the task cannot be looked up just now")
    })?;
    past.filter(|past| past.from == caller.member.key)
        .and_then(|past| of_past(caller, past))
        .ok_or_else(unknown)
}

/// A run of this caller that is known.
pub(super) fn run(shared: &Shared, caller: &Caller, id: &str) -> Option<Arc<Run>> {
    lock(&shared.runs).find(id, &Who::Peer(caller.member.key.clone()))
}

/// Stops a task, and tells what has become of it.
pub(super) async fn cancel(
    shared: &Arc<Shared>,
    caller: &Caller,
    query: &TaskQuery,
) -> Result<Task, RpcError> {
    let task = find(shared, caller, query).await?;
    let run = run(shared, caller, &query.id).filter(|run| run.done().is_none());
    let (Some(run), false) = (run, task.status.state.is_over()) else {
        return Err(RpcError::new(RpcError::TASK_NOT_CANCELABLE, "the task is over"));
    };
    abort_run(shared, &run, &caller.member.key);
    // The agent is given its time to stop; until then the task is not canceled, and nobody says that it is.
    let _ = timeout(shared.config.timing.abort * 2, run.wait()).await;
    find(shared, caller, query).await
}

/// How far a run is. None if it is no A2A client's.
pub(super) fn of_run(shared: &Shared, caller: &Caller, run: &Arc<Run>) -> Option<Task> {
    let context_id = context(&run.session, &caller.member)?;
    if let Some(done) = run.done() {
        return Some(ended(&run.id, context_id, as_read(&done), Some(done.ended_at)));
    }
    let runs = lock(&shared.runs);
    let (current, _) = runs.of_session(&run.session);
    let (state, words) = if current.is_some_and(|current| Arc::ptr_eq(&current, run)) {
        (TaskState::Working, None)
    } else if runs.is_held(run) {
        (TaskState::Submitted, Some("it waits for the word of the agent's owner"))
    } else {
        (TaskState::Submitted, None)
    };
    let status = status(&run.id, state, words, Some(run.accepted_at));
    Some(Task { id: run.id.clone(), context_id, status, artifacts: Vec::new() })
}

/// A task from the payload of an answer: a run that is over.
pub(super) fn of_payload(id: &str, context_id: String, payload: &RawValue) -> Task {
    let done = serde_json::from_str::<AgentDone>(payload.get());
    let outcome = done.map_or_else(|error| Outcome::Failed(error.to_string()), |done| done.outcome());
    ended(id, context_id, outcome, None)
}

/// As a client reads it.
fn as_read(done: &Done) -> Outcome {
    match &done.outcome {
        outcome::Outcome::Reply(text) => Outcome::Reply(text.clone()),
        outcome::Outcome::Silence => Outcome::NoReply,
        outcome::Outcome::Failed(why) => Outcome::Failed(why.clone()),
        outcome::Outcome::TimedOut => Outcome::RunTimeout,
        outcome::Outcome::Aborted => Outcome::Aborted,
    }
}

fn of_past(caller: &Caller, past: Past) -> Option<Task> {
    let context_id = context(&past.session_key, &caller.member)?;
    let outcome = match past.end {
        End::Replied(text) => Outcome::Reply(text),
        End::NoReply => Outcome::NoReply,
        End::Cancelled => Outcome::Aborted,
        End::Failed(why) => Outcome::Failed(why),
        End::Open => Outcome::Failed(ENDED_BEFORE.to_owned()),
    };
    Some(ended(&past.run_id, context_id, outcome, past.ended_at))
}

fn ended(id: &str, context_id: String, outcome: Outcome, at: Option<i64>) -> Task {
    let (state, words, reply) = match outcome {
        Outcome::Reply(text) => (TaskState::Completed, None, Some(text)),
        Outcome::NoReply => (TaskState::Completed, Some("the agent said nothing".to_owned()), None),
        Outcome::Aborted => (TaskState::Canceled, None, None),
        Outcome::RunTimeout => (TaskState::Failed, Some("the run timed out".to_owned()), None),
        Outcome::Failed(why) => (TaskState::Failed, Some(why), None),
        _ => (TaskState::Failed, None, None),
    };
    let artifact = |text| Artifact { artifact_id: REPLY.to_owned(), parts: vec![Part::text(text)] };
    Task {
        id: id.to_owned(),
        context_id,
        status: status(id, state, words.as_deref(), at),
        artifacts: reply.map(artifact).into_iter().collect(),
    }
}

fn status(id: &str, state: TaskState, words: Option<&str>, at: Option<i64>) -> TaskStatus {
    let message = words.map(|words| Message {
        message_id: format!("{id}:status"),
        role: "ROLE_AGENT".to_owned(),
        parts: vec![Part::text(words)],
        ..Message::default()
    });
    let timestamp = at.and_then(|at| Timestamp::from_millisecond(at).ok()).map(|at| at.to_string());
    TaskStatus { state, message, timestamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_one_session_and_comes_back_as_it_was() {
        let alice = Member { key: "alice".into(), ..Member::default() };
        let full = |name: &str| peer_session(&format!("agent:main:{name}"), "alice").0;
        for context_id in ["c", "Ctx-1.A:b_C", "0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a11", "main"] {
            let session = full(&session(context_id).unwrap());
            assert_eq!(session, session.to_lowercase());
            assert!(session.starts_with("agent:main:mesh:alice:a2a:"), "{session}");
            assert_eq!(context(&session, &alice).as_deref(), Some(context_id));
        }
        assert_ne!(session("Ab").unwrap(), session("aB").unwrap());
        assert_eq!(context("agent:main:mesh:alice", &alice), None);
        let long = "x".repeat(129);
        for bad in ["", "a b", "a/b", "é", "a^b", &long] {
            assert_eq!(session(bad).unwrap_err().code, RpcError::INVALID_PARAMS, "{bad}");
        }
    }

    #[test]
    fn every_end_of_a_run_is_a_state_of_its_task() {
        for (outcome, state, artifacts) in [
            (Outcome::Reply("hi".into()), TaskState::Completed, 1),
            (Outcome::NoReply, TaskState::Completed, 0),
            (Outcome::Aborted, TaskState::Canceled, 0),
            (Outcome::RunTimeout, TaskState::Failed, 0),
            (Outcome::Failed("no".into()), TaskState::Failed, 0),
        ] {
            let task = ended("t", "c".into(), outcome, Some(1_795_349_612_070));
            assert_eq!((task.status.state, task.artifacts.len()), (state, artifacts));
            assert_eq!(task.status.timestamp.as_deref(), Some("2026-11-22T12:13:32.07Z"));
        }
    }
}
