//! Stop carrying a message in the middle.

use crate::archive::{Step, Stored};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::record::State;

/// What the archive keeps as the end of a message that was let go.
const WHY: &str = "nobody waited for it any more";

/// Makes sure of how far a message got whose sending was given up: one that never left is `unsent` for good, one that may
/// have left is unknown, and what its gateway confirmed goes on there. One of the outbox stays in the outbox. None, if its
/// life had not even begun. Whoever carried it in this process must have stopped.
///
/// # Errors
/// When the archive cannot be used.
pub async fn let_go(mesh: &Mesh, id: &str, unsent: State) -> Result<Option<Stored>, MeshError> {
    let archive = mesh.archive()?;
    archive.settle().await?;
    let Some(stored) = archive.find(id).await? else { return Ok(None) };
    if stored.record.state != State::Sending || stored.next_try_at.is_some() {
        return Ok(Some(stored));
    }
    let state = if stored.sent_at.is_some() { State::Unknown } else { unsent };
    archive.note(None, id, Step::Finished { state, reply: None, error: Some(WHY.to_owned()) }).await?;
    Ok(archive.find(id).await?)
}
