//! What the gateway remembers of its peers' runs, in the archive.

use std::collections::HashMap;
use std::io;

use agent_mesh_gateway::{Decision, Held, Kept, Ledger};
use agent_team_mesh::archive::{self, Archive, ArchiveError, NewMessage};
use agent_team_mesh::registry::Via;

use super::archived::{message, to};

/// The archive, as the gateway asks it.
pub struct ArchiveLedger(pub Archive);

impl Ledger for ArchiveLedger {
    fn runs_since(&self, since: i64) -> Kept<'_, HashMap<String, u32>> {
        Box::pin(async move { self.0.received_since(since).await.map_err(io::Error::other) })
    }

    fn held(&self) -> Kept<'_, Vec<Held>> {
        Box::pin(async {
            let documents = self.0.held().await.map_err(io::Error::other)?;
            documents.iter().map(|text| serde_json::from_str(text).map_err(io::Error::other)).collect()
        })
    }

    fn hold(&self, held: Held) -> Kept<'_, ()> {
        Box::pin(async move {
            let document = serde_json::to_string(&held).map_err(io::Error::other)?;
            let claimed = held.client["displayName"].as_str();
            let peer = to(&held.peer, &held.name);
            let via = if held.is_chat { Via::Chat } else { Via::Agent };
            let row = message(&held.run_id, &held.session, &held.message, peer, claimed);
            let row = NewMessage { via, ..row };
            self.0.hold(held.id, row, document).await.map_err(io::Error::other)
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

fn kept<'a, T: 'a>(result: impl Future<Output = Result<T, ArchiveError>> + Send + 'a) -> Kept<'a, T> {
    Box::pin(async { result.await.map_err(io::Error::other) })
}
