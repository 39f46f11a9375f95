//! `SendMessage`: a message becomes a run.

use std::sync::Arc;

use openclaw_protocol::a2a::{Happening, Message, Part, RpcError, SendMessage, Task};
use openclaw_protocol::methods::agent::{Agent, AgentAck};
use serde_json::{json, value::RawValue};
use tokio::time::timeout;
use uuid::Uuid;

use super::line::Line;
use super::{Caller, task};
use crate::outcome::Done;
use crate::secret::sha256;
use crate::shared::Shared;

/// A message that is about to become a run.
pub(super) struct Order {
    /// The run's id, and so the task's.
    pub(super) id: String,
    pub(super) context_id: String,
    /// The session as its peer names it.
    session: String,
    text: String,
}

/// What the gateway says to it.
pub(super) enum Taken {
    /// The run goes on.
    Running,
    /// It was over before.
    Over(Box<Task>),
}

impl Order {
    /// Reads a message. Its sender's id of it makes the run's, and the context's where none is named: sent once more, it
    /// is the same task, also after a restart.
    pub(super) fn new(caller: &Caller, message: &Message) -> Result<Self, RpcError> {
        if message.task_id.as_deref().is_some_and(|id| !id.is_empty()) {
            let words = "a task is one message and its answer; go on in its context with a new one";
            return Err(RpcError::new(RpcError::UNSUPPORTED_OPERATION, words));
        }
        let texts: Option<Vec<String>> = message.parts.iter().map(Part::as_text).collect();
        let Some(texts) = texts else {
            let words = "this agent reads text and data, no files";
            return Err(RpcError::new(RpcError::CONTENT_TYPE_NOT_SUPPORTED, words));
        };
        let text = texts.join("\n");
        if text.trim().is_empty() {
            return Err(RpcError::new(RpcError::INVALID_PARAMS, "the message holds no text"));
        }
        let named = message.context_id.as_deref().filter(|id| !id.is_empty());
        let id_of = |what: &str| match &*message.message_id {
            "" => Uuid::new_v4(),
            said => derive(what, &caller.member.key, named, said),
        };
        let context_id = named.map_or_else(|| id_of("context").to_string(), str::to_owned);
        let session = task::session(&context_id)?;
        Ok(Self { id: id_of("run").to_string(), context_id, session, text })
    }

    /// Asks for the run.
    pub(super) async fn place(
        &self,
        shared: &Shared,
        caller: &Caller,
        line: &mut Line,
    ) -> Result<Taken, RpcError> {
        let request = Agent {
            message: self.text.clone(),
            idempotency_key: self.id.clone(),
            session_key: Some(self.session.clone()),
            ..Agent::default()
        };
        line.ask("agent", &json!(request));
        match line.answer().await.ok_or_else(cut)? {
            Ok(payload) if is_running(&payload) => Ok(Taken::Running),
            Ok(payload) => {
                Ok(Taken::Over(Box::new(task::of_payload(&self.id, self.context_id.clone(), &payload))))
            }
            // A refusal of the request; or the run was over before, and this is how it failed.
            Err(error) => {
                let is_end = |done: Arc<Done>| done.error().as_ref() == Some(&error);
                let run = task::run(shared, caller, &self.id).filter(|run| run.done().is_some_and(is_end));
                let failed = run.and_then(|run| task::of_run(shared, caller, &run));
                failed.map(|task| Taken::Over(Box::new(task))).ok_or_else(|| error.into())
            }
        }
    }
}

/// The line ended before its answer.
pub(super) fn cut() -> RpcError {
    RpcError::new(RpcError::SERVER, "the gateway stops, or your token was taken back")
}

fn is_running(payload: &RawValue) -> bool {
    let ack = serde_json::from_str::<AgentAck>(payload.get());
    ack.is_ok_and(|ack| matches!(&*ack.status, "accepted" | "in_flight"))
}

/// An id for something of a message: the same for the same message of the same peer, and nobody else's.
fn derive(what: &str, peer: &str, context_id: Option<&str>, message_id: &str) -> Uuid {
    let digest = sha256(json!(["a2a", what, peer, context_id, message_id]).to_string().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Runs a message; tells what has become of it when it is over, at once if that is wanted, or after a while.
pub(super) async fn message(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: SendMessage,
) -> Result<Happening, RpcError> {
    let order = Order::new(caller, &request.message)?;
    let mut line = Line::open(shared, caller);
    if let Taken::Over(task) = order.place(shared, caller, &mut line).await? {
        return Ok(Happening::Task(*task));
    }
    drop(line);
    let at_once = request.configuration.is_some_and(|how| how.return_immediately);
    let unknown = || RpcError::new(RpcError::TASK_NOT_FOUND, "the task is forgotten already");
    let run = task::run(shared, caller, &order.id).ok_or_else(unknown)?;
    if !at_once {
        tokio::select! {
            // What is not over by then is asked for by its id.
            _ = timeout(shared.config.timing.task, run.wait()) => {}
            () = shared.stop.cancelled() => {}
        }
    }
    task::of_run(shared, caller, &run).map(Happening::Task).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_sent_twice_is_one_run_and_no_other_peers() {
        let id = derive("run", "alice", Some("c"), "m");
        assert_eq!(id, derive("run", "alice", Some("c"), "m"));
        for (what, peer, context_id, message_id) in [
            ("context", "alice", Some("c"), "m"),
            ("run", "bob", Some("c"), "m"),
            ("run", "alice", None, "m"),
            ("run", "alice", Some("c"), "n"),
        ] {
            assert_ne!(id, derive(what, peer, context_id, message_id));
        }
        assert_eq!(id.get_version_num(), 8);
    }
}
