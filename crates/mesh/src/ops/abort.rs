//! Stop what a peer's agent does for a message of ours.

use openclaw_client::protocol::methods::chat::ChatAbort;
use tokio::time::{Duration, Instant};

use super::wait::{find, teammate};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::registry::Via;
use crate::route::a2a;
use crate::route::gateway::{connect_ready, credential_to_talk};

/// Asks the peer's gateway to stop the run of a message, or the peer's agent to cancel its task. Gives whether there was
/// anything to stop. What became of the message, `wait` tells.
///
/// # Errors
/// When there is no such message, or the peer's gateway cannot be reached or refuses.
pub async fn abort(mesh: &Mesh, id: &str, timeout: Duration) -> Result<bool, MeshError> {
    let deadline = Instant::now() + timeout;
    let stored = find(mesh, id).await?;
    if stored.sent_at.is_none() {
        return Ok(false);
    }
    let peer = teammate(mesh, &stored)?;
    if stored.record.via == Via::A2a {
        // Without a task there is nothing to name.
        let Some(task) = &stored.boot_id else { return Ok(false) };
        return a2a::cancel(mesh, &peer, task, deadline).await;
    }
    let client = connect_ready(mesh, &peer, credential_to_talk(mesh, &peer)?, deadline).await?;
    let request = ChatAbort { session_key: stored.record.session.clone(), run_id: Some(stored.run_id) };
    let aborted = client.call(&request, deadline).await;
    client.close().await;
    let to = stored.record.to;
    Ok(aborted.map_err(|source| MeshError::Call { to, source })?.aborted)
}
