//! What the agent behind `serve` hears and says, in the archive.

use std::sync::Arc;

use agent_mesh_gateway::{Agent, AgentFailure, Deltas, Origin, Principal, ReplyFuture, Turn};
use agent_team_mesh::archive::{Archive, Direction, NewMessage, Step};
use agent_team_mesh::client::protocol::attribution::Header;
use agent_team_mesh::record::{State, To};
use agent_team_mesh::registry::Via;
use uuid::Uuid;

use crate::error::chain;

/// Names and topics are the sender's to choose; this much of them is kept.
const LONGEST_NAME: usize = 128;

/// An agent whose turns are archived. A turn is answered whether or not it could be written down.
pub struct Archived {
    inner: Arc<dyn Agent>,
    archive: Archive,
}

impl Archived {
    pub fn new(inner: Arc<dyn Agent>, archive: Archive) -> Self {
        Self { inner, archive }
    }

    async fn begin(&self, turn: &Turn) -> Option<Row> {
        match self.archive.receive(received(turn), turn.from.principal.key()).await {
            Ok(id) => Some(Row { archive: self.archive.clone(), id: Some(id) }),
            Err(error) => {
                tracing::warn!(error = chain(&error), run_id = turn.run_id, "a turn could not be archived");
                None
            }
        }
    }
}

impl Agent for Archived {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let row = self.begin(&turn).await;
            let result = self.inner.reply(turn, deltas).await;
            if let Some(row) = row {
                row.end(&result);
            }
            result
        })
    }
}

/// A turn in the archive. Dropped before its end, it was stopped.
struct Row {
    archive: Archive,
    id: Option<String>,
}

impl Row {
    fn end(mut self, result: &Result<String, AgentFailure>) {
        self.note(match result {
            Ok(reply) if reply.trim().is_empty() => {
                Step::Finished { state: State::NoReply, reply: None, error: None }
            }
            Ok(reply) => Step::Finished { state: State::Replied, reply: Some(reply.clone()), error: None },
            Err(AgentFailure::Cancelled) => {
                Step::Finished { state: State::Cancelled, reply: None, error: None }
            }
            Err(failure) => failed(failure.to_string()),
        });
    }

    /// Not awaited: the sender need not wait for our disk.
    fn note(&mut self, step: Step) {
        let Some(id) = self.id.take() else { return };
        let written = self.archive.note(None, &id, step);
        // Without a runtime the program is ending; what was queued is written all the same.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = written.await {
                    tracing::warn!(error = chain(&error), id, "the end of a turn could not be archived");
                }
            });
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.note(failed("stopped before it ended".to_owned()));
    }
}

fn failed(why: String) -> Step {
    Step::Finished { state: State::Failed, reply: None, error: Some(why) }
}

/// A turn as the archive gets it.
fn received(turn: &Turn) -> NewMessage {
    let (key, name) = match &turn.from.principal {
        Principal::Owner => ("owner", "owner"),
        Principal::Peer(member) => (member.key.as_str(), member.name.as_str()),
    };
    let claimed = turn.from.display_name.as_deref();
    let via = match turn.origin {
        Origin::Agent => Via::Agent,
        Origin::Chat => Via::Chat,
    };
    let message = message(&turn.run_id, &turn.session_key, &turn.message, to(key, name), claimed);
    NewMessage { via, ..message }
}

/// Who sent a message.
pub fn to(key: &str, name: &str) -> To {
    To { email_prefix: key.to_owned(), name: shortened(name) }
}

/// A message that came to us. Who sent it is who has proven it; what it says of that itself is kept beside.
pub fn message(run: &str, session: &str, whole: &str, peer: To, claimed: Option<&str>) -> NewMessage {
    let (header, text) = Header::split(whole);
    let claimed = header.as_ref().map(|header| header.from.as_str()).or(claimed);
    let own_id = header.as_ref().and_then(|header| Uuid::try_parse(&header.id).ok());
    NewMessage {
        id: own_id.unwrap_or_else(Uuid::now_v7).to_string(),
        run_id: run.to_owned(),
        direction: Direction::In,
        peer,
        via: Via::Agent,
        session: session.to_owned(),
        thread: header.as_ref().and_then(|header| header.thread.as_deref()).map(shortened),
        header: whole.strip_suffix(text).unwrap_or_default().to_owned(),
        text: text.to_owned(),
        claimed_from: claimed.map(shortened),
        state: State::Accepted,
        expires_at: None,
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}
