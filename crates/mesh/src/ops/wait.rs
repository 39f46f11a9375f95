//! Come back for a reply: from any shell, after a crash or a reboot.

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::outbox::carry;
use super::send::{conclude, see_through};
use crate::archive::{Direction, Stored};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::progress::{Observer, Progress};
use crate::record::{Record, State};
use crate::registry::LookupError;
use crate::route::look::Attempt;
use crate::route::{Delivery, Outgoing, Wait};

/// How often the archive is looked at for what another process finds out.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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

/// Finds out what became of a message, and waits for its reply. Never makes a second turn, and never sends what waits
/// in the outbox: that is waited for.
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
    let deadline = Instant::now() + timeout;
    let mut stored = find(mesh, id).await?;
    while stored.record.state.is_open() {
        if stored.next_try_at.is_none() {
            return look(mesh, &stored, deadline, observer).await;
        }
        let id = stored.record.id.clone();
        if let Some(claim) = mesh.archive()?.claim_sent(&id).await? {
            let pool = mesh.pool();
            let carried = carry(mesh, claim, deadline, Wait::Reply, &pool, observer).await;
            pool.done().await;
            return Ok(carried?.record);
        }
        // It has not left, or a worker has it.
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Ok(in_time(stored));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        stored = find(mesh, &id).await?;
    }
    Ok(ended(stored))
}

async fn look(
    mesh: &Mesh,
    stored: &Stored,
    deadline: Instant,
    observer: &mut dyn Observer,
) -> Result<Record, MeshError> {
    let peer = teammate(mesh, stored)?;
    let (mut message, before) = outgoing(mesh, stored, deadline)?;
    // What was unknown may be known now; until then nothing is more certain than that it may have left.
    let receipt = stored.record.receipt.clone();
    let state = match stored.record.state {
        State::Held => State::Held,
        _ if receipt.accepted_at.is_some() => State::Accepted,
        _ => State::Sending,
    };
    let mut delivery = Delivery::new(mesh.archive()?, &message, state, receipt);
    let pool = mesh.pool();
    let mut line = pool.line();
    let mut watch = Watch { observer, reached: false };
    // Without an attempt, whoever was to send it died before it left.
    let result = see_through(mesh, &peer, &mut message, before, &mut line, &mut delivery, &mut watch).await;
    let reached = watch.reached;
    drop(line);
    pool.done().await;
    let mut record = conclude(message, stored.record.bytes, delivery, result).await;
    if let (Some(MeshError::ReplyDeadline { to, id }), false) = (&record.error, reached) {
        record.error = Some(MeshError::Away { to: to.clone(), id: id.clone() });
    }
    Ok(record)
}

/// Notices whether the peer was ever reached.
struct Watch<'a> {
    observer: &'a mut dyn Observer,
    reached: bool,
}

impl Observer for Watch<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        self.reached |= matches!(step, Progress::Reached);
        self.observer.progress(step);
    }

    fn wants_text(&self) -> bool {
        self.observer.wants_text()
    }
}

/// The peer of a stored message, by exactly the prefix it had: `bob`'s messages are not `bobby`'s once Bob has left.
pub(super) fn teammate(mesh: &Mesh, stored: &Stored) -> Result<Peer, MeshError> {
    let agent = mesh.registry()?.by_prefix(&stored.peer);
    let gone = || LookupError::Unknown { query: stored.peer.clone(), near: Vec::new() };
    Peer::by_route(mesh, agent.ok_or_else(gone)?, stored.record.via)
}

/// A stored message, ready for the wire, and the attempt that may have left, if there was one.
pub(super) fn outgoing(
    mesh: &Mesh,
    stored: &Stored,
    deadline: Instant,
) -> Result<(Outgoing, Option<Attempt>), MeshError> {
    let message = Outgoing {
        to: stored.record.to.clone(),
        id: stored.record.id.clone(),
        run_id: stored.run_id.clone(),
        via: stored.record.via,
        session: stored.record.session.clone(),
        text: format!("{}{}", stored.header, stored.message),
        me: mesh.my_name()?,
        wait: Wait::Reply,
        deadline,
        expires_at: stored.expires_at,
    };
    let attempt =
        stored.sent_at.map(|sent_at| Attempt { boot_id: stored.boot_id.clone(), sent_at, is_ours: false });
    Ok((message, attempt))
}

/// The record of a message that is still on its way when our time is over.
fn in_time(stored: Stored) -> Record {
    let mut record = stored.record;
    let (to, id) = (record.to.clone(), record.id.clone());
    record.error = Some(match record.state {
        State::Queued => MeshError::StillQueued { to, id },
        State::Accepted => MeshError::ReplyDeadline { to, id },
        State::Held => MeshError::Held { to, id },
        _ => MeshError::Unknown { to, id, reason: "another process carries it now".to_owned() },
    });
    record
}

/// The record of a message whose life is over, with the error it ended with.
fn ended(stored: Stored) -> Record {
    let Stored { mut record, failure, .. } = stored;
    record.error = match record.state {
        State::Replied | State::Fallback => None,
        State::NoReply => Some(MeshError::NoReply { to: record.to.clone(), merged: false }),
        // What was taken failed over there: the same failure as when it was told first, with the words of then.
        State::Failed if record.receipt.accepted_at.is_some() => {
            let (to, told) = (record.to.clone(), failure.unwrap_or_default());
            let words = told.strip_prefix(&format!("{}'s agent failed: ", to.name)).unwrap_or(&told);
            Some(MeshError::RunFailed { reason: words.to_owned(), to })
        }
        _ => {
            let reason = failure.unwrap_or_else(|| record.state.name().to_owned());
            Some(MeshError::Ended { to: record.to.clone(), id: record.id.clone(), reason })
        }
    };
    if record.receipt.finished_at.is_none() {
        record.receipt.finished_at = Some(Timestamp::now());
    }
    record
}
