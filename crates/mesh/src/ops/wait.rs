//! Come back for a reply: from any shell, after a crash or a reboot.

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::send::conclude;
use crate::archive::{Direction, Stored};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::progress::Observer;
use crate::record::{Record, State};
use crate::route::recover::{Attempt, resume};
use crate::route::{Delivery, Outgoing};

/// A message of ours by its id, or the beginning of it.
///
/// # Errors
/// When there is no such message, or it came from a peer.
pub async fn find(mesh: &Mesh, id: &str) -> Result<Stored, MeshError> {
    let found = mesh.archive()?.find(id).await?;
    found
        .filter(|stored| stored.direction == Direction::Out)
        .ok_or_else(|| MeshError::NoSuchMessage { id: id.to_owned() })
}

/// Finds out what became of a message, and waits for its reply. Never makes a second turn.
///
/// # Errors
/// When there is no such message, or the teammate is not in the registry any more. What the peer does stands in the
/// record.
pub async fn wait(
    mesh: &Mesh,
    id: &str,
    timeout: Duration,
    observer: &mut dyn Observer,
) -> Result<Record, MeshError> {
    let stored = find(mesh, id).await?;
    if !stored.record.state.is_open() {
        return Ok(ended(stored));
    }
    let agent = mesh.registry()?.find(&stored.peer)?;
    let peer = Peer::new(mesh, agent)?;
    let (mut message, attempt) = outgoing(mesh, &stored, Instant::now() + timeout)?;
    // What was unknown may be known now; until then nothing is more certain than that it may have left.
    let state = if stored.record.receipt.accepted_at.is_some() { State::Accepted } else { State::Sending };
    let mut delivery = Delivery::new(mesh.archive()?, &message.id, state, stored.record.receipt);
    let mut line = None;
    let mut result = resume(mesh, &peer, &mut message, attempt, &mut line, &mut delivery, observer).await;
    if let (Err(error), State::Sending) = (&result, delivery.state())
        && error.is_unreachable()
    {
        // It may have arrived before; that nobody answers now does not change that.
        let reason = crate::error::chain(error);
        result = Err(message.give_up(&reason, &mut delivery));
    }
    if let Some(client) = line {
        client.close().await;
    }
    Ok(conclude(message, stored.record.bytes, delivery, result).await)
}

fn outgoing(mesh: &Mesh, stored: &Stored, deadline: Instant) -> Result<(Outgoing, Attempt), MeshError> {
    let message = Outgoing {
        to: stored.record.to.clone(),
        id: stored.record.id.clone(),
        run_id: stored.run_id.clone(),
        via: stored.record.via,
        session: stored.record.session.clone(),
        text: format!("{}{}", stored.header, stored.message),
        me: mesh.my_name()?,
        wait: true,
        deadline,
    };
    let sent_at = stored.sent_at.unwrap_or(stored.created_at);
    Ok((message, Attempt { boot_id: stored.boot_id.clone(), sent_at }))
}

/// The record of a message whose life is over, with the error it ended with.
fn ended(stored: Stored) -> Record {
    let Stored { mut record, failure, .. } = stored;
    record.error = match record.state {
        State::Replied | State::Fallback => None,
        State::NoReply => Some(MeshError::NoReply { to: record.to.clone(), merged: false }),
        _ => {
            let reason = failure.unwrap_or_else(|| record.state.name().to_owned());
            Some(MeshError::Ended { to: record.to.clone(), reason })
        }
    };
    if record.receipt.finished_at.is_none() {
        record.receipt.finished_at = Some(Timestamp::now());
    }
    record
}
