//! Stop carrying a message in the middle.

use crate::archive::Stored;
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
    Ok(let_all_go(mesh, vec![id.to_owned()], unsent).await?.pop())
}

/// The same of many, at once.
pub(super) async fn let_all_go(
    mesh: &Mesh,
    ids: Vec<String>,
    unsent: State,
) -> Result<Vec<Stored>, MeshError> {
    // In the order of the writes: what was noted of them before is known.
    Ok(mesh.archive()?.give_up(ids, unsent, WHY).await?)
}
