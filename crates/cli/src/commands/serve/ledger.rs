//! What the agent behind `serve` hears and says, and what the gateway remembers of its runs: the archive.

use std::collections::HashMap;
use std::io;

use agent_mesh_gateway::{Accepted, Decision, End, Held, Kept, Ledger, Unfinished};
use agent_team_mesh::archive::{self, Archive, ArchiveError, Direction, NewMessage, Step};
use agent_team_mesh::client::protocol::attribution::Header;
use agent_team_mesh::record::{State, To};
use agent_team_mesh::registry::Via;
use uuid::Uuid;

use super::memory::past;

/// Names and topics are the sender's to choose; this much of them is kept.
const LONGEST_NAME: usize = 128;

/// The archive, as the gateway asks it.
pub struct ArchiveLedger(pub Archive);

impl Ledger for ArchiveLedger {
    fn runs_since(&self, since: i64) -> Kept<'_, HashMap<String, u32>> {
        Box::pin(async move { self.0.received_since(since).await.map_err(io::Error::other) })
    }

    fn accept(&self, mut run: Held, begins: bool) -> Kept<'_, Accepted> {
        Box::pin(async move {
            let row = message(&run);
            // The message stands in its row.
            run.message.clear();
            let document = serde_json::to_string(&run).map_err(io::Error::other)?;
            let accepted = self.0.accept_run(row, &run.peer, document, run.earlier, begins).await;
            accepted.map(known_or_new).map_err(io::Error::other)
        })
    }

    fn began<'a>(&'a self, name: &'a str) -> Kept<'a, ()> {
        kept(self.0.begin_run(name))
    }

    fn ended(&self, name: &str, end: End) -> Kept<'static, ()> {
        let (state, reply, error) = match end {
            End::Replied(text) => (State::Replied, Some(text), None),
            End::NoReply => (State::NoReply, None, None),
            End::Cancelled => (State::Cancelled, None, None),
            End::Failed(why) => (State::Failed, None, Some(why)),
            _ => (State::Failed, None, None),
        };
        kept(self.0.end_run(name, Step::finished(state, reply, error)))
    }

    fn unfinished(&self) -> Kept<'_, Vec<Unfinished>> {
        Box::pin(async {
            let rows = self.0.unfinished().await.map_err(io::Error::other)?;
            rows.into_iter().map(unfinished).collect()
        })
    }

    fn held(&self) -> Kept<'_, Vec<Held>> {
        Box::pin(async {
            let rows = self.0.held().await.map_err(io::Error::other)?;
            let held = |(id, document): (String, String)| {
                let held: Held = serde_json::from_str(&document).map_err(io::Error::other)?;
                Ok(Held { kept: Some(id), ..held })
            };
            rows.into_iter().map(held).collect()
        })
    }

    fn hold(&self, held: Held) -> Kept<'_, Accepted> {
        Box::pin(async move {
            let document = serde_json::to_string(&held).map_err(io::Error::other)?;
            let row = message(&held);
            let accepted = self.0.hold(held.id, row, document, held.earlier).await;
            accepted.map(known_or_new).map_err(io::Error::other)
        })
    }

    fn decided(&self, id: String, decision: Decision) -> Kept<'_, ()> {
        let decision = match decision {
            Decision::Approved => archive::Decision::Approved,
            Decision::Rejected => archive::Decision::Rejected,
            Decision::Withdrawn => archive::Decision::Withdrawn,
        };
        kept(self.0.decide(id, decision))
    }

    fn is_paused(&self) -> Kept<'_, bool> {
        kept(self.0.is_paused())
    }

    fn pause(&self, paused: bool) -> Kept<'_, ()> {
        kept(self.0.pause(paused))
    }
}

fn known_or_new(accepted: archive::Accepted) -> Accepted {
    match accepted {
        archive::Accepted::New(id) => Accepted::New(Some(id)),
        archive::Accepted::Known(stored) => Accepted::Known(Box::new(past(*stored))),
    }
}

fn kept<'a, T: 'a>(result: impl Future<Output = Result<T, ArchiveError>> + Send + 'a) -> Kept<'a, T> {
    Box::pin(async { result.await.map_err(io::Error::other) })
}

fn unfinished(row: archive::Unfinished) -> io::Result<Unfinished> {
    let archive::Unfinished { stored, document, began_at } = row;
    let mut run: Held = serde_json::from_str(&document).map_err(io::Error::other)?;
    run.message = format!("{}{}", stored.header, stored.message);
    run.kept = Some(stored.record.id);
    Ok(Unfinished { run, began_at: began_at.map(|at| at.as_millisecond()) })
}

/// A message that came to us. Who sent it is who has proven it; what it says of that itself is kept beside.
fn message(run: &Held) -> NewMessage {
    let whole = &run.message;
    let (header, text) = Header::split(whole);
    let claimed = header.as_ref().map(|header| header.from.as_str()).or(run.client["displayName"].as_str());
    let own_id = header.as_ref().and_then(|header| Uuid::try_parse(&header.id).ok());
    NewMessage {
        id: own_id.unwrap_or_else(Uuid::now_v7).to_string(),
        run_id: run.run_id.clone(),
        direction: Direction::In,
        peer: To { email_prefix: run.peer.clone(), name: shortened(&run.name) },
        via: if run.is_chat { Via::Chat } else { Via::Agent },
        session: run.session.clone(),
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
