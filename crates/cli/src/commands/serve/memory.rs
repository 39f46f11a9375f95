//! The archive as the memory of the gateway.

use std::io;

use agent_mesh_gateway::{End, Memory, Origin, Past, Recollection, Room};
use agent_team_mesh::archive::{Archive, ArchiveError, Stored};
use agent_team_mesh::record::State;
use agent_team_mesh::registry::Via;

use crate::error::chain;

/// What the archive says of the turns that came to us.
pub struct Remembered(pub Archive);

impl Memory for Remembered {
    fn recent(&self, room: Room) -> Recollection<'_, Vec<Past>> {
        Box::pin(async move { pasts(self.0.received(None, room.turns, room.bytes).await) })
    }

    fn session<'a>(&'a self, key: &'a str, room: Room) -> Recollection<'a, Vec<Past>> {
        Box::pin(async move { pasts(self.0.received(Some(key), room.turns, room.bytes).await) })
    }

    fn run<'a>(&'a self, run_id: &'a str) -> Recollection<'a, Option<Past>> {
        Box::pin(
            async move { Ok(self.0.received_run(run_id).await.map_err(|error| failed(&error))?.map(past)) },
        )
    }
}

fn failed(error: &ArchiveError) -> io::Error {
    io::Error::other(chain(error))
}

fn pasts(found: Result<Vec<Stored>, ArchiveError>) -> io::Result<Vec<Past>> {
    Ok(found.map_err(|error| failed(&error))?.into_iter().map(past).collect())
}

pub fn past(row: Stored) -> Past {
    let origin = match row.record.via {
        Via::Chat => Origin::Chat,
        _ => Origin::Agent,
    };
    let end = match (row.record.state, row.record.reply) {
        (State::Replied, Some(reply)) => End::Replied(reply.text),
        (State::NoReply, _) => End::NoReply,
        (State::Cancelled, _) => End::Cancelled,
        (State::Accepted | State::Held, _) => End::Open,
        _ => End::Failed(row.failure.unwrap_or_default()),
    };
    Past {
        run_id: row.run_id,
        origin,
        session_key: row.record.session,
        from: row.sender.unwrap_or_default(),
        message: format!("{}{}", row.header, row.message),
        end,
        began_at: row.created_at.as_millisecond(),
        ended_at: row.record.receipt.finished_at.map(|at| at.as_millisecond()),
    }
}
