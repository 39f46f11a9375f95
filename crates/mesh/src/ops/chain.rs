//! The chain of messages that a new one belongs to.

use openclaw_client::protocol::attribution::{Chain, Header};

use crate::archive::Direction;
use crate::error::MeshError;
use crate::mesh::Mesh;

/// Under this name the owner of our gateway stands in the archive; no teammate's is this.
const OWNER: &str = "owner";

/// The chain of a message that came to us: by its id, if our archive has it, or by the first line of its header, which an
/// agent finds in what it was told.
///
/// # Errors
/// When the archive has no such message, or it cannot be used.
pub async fn of_message(mesh: &Mesh, named: &str) -> Result<Chain, MeshError> {
    if let Some(header) = Header::from_line(named.trim()) {
        return Ok(header.as_chain());
    }
    let unknown = || MeshError::NotReceived { id: named.to_owned() };
    let found = mesh.opened_archive().await?.find(named).await?;
    let stored = found.filter(|stored| stored.direction == Direction::In).ok_or_else(unknown)?;
    let (header, _) = Header::split(&stored.header);
    // Without a header nobody passed it on, as far as anybody can tell.
    let nameless = || Header { id: stored.record.id.clone(), ..Header::default() };
    Ok(match header {
        Some(header) if stored.peer == OWNER => header.as_chain(),
        // Anybody else's name is the one that `serve` has verified.
        header => header.unwrap_or_else(nameless).verified(&stored.peer).as_chain(),
    })
}
