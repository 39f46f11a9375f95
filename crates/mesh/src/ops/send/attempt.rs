//! One message, sent as often as it takes, and looked for where it may have left.

use jiff::Timestamp;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, sleep_until};

use crate::error::{MeshError, chain};
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pool::Line;
use crate::progress::{Observer, Progress};
use crate::record::State;
use crate::registry::Via;
use crate::route::look::Attempt;
use crate::route::{self, Delivery, Outgoing, Setback};

/// So close to its deadline a message is not sent again: without time for an answer, one that certainly did not arrive would
/// become one that may have.
const TOO_SHORT: Duration = Duration::from_millis(250);

/// Sees a message through to its end: sends it, or looks what became of `before`, the attempt that may have left. What
/// was turned away for now is sent again, as long as the deadline allows.
pub(in crate::ops) async fn see_through(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    mut before: Option<Attempt>,
    line: &mut Line,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), MeshError> {
    if message.via == Via::A2a {
        return route::a2a::see_through(mesh, peer, message, before, delivery, observer).await;
    }
    let mut was_there = false;
    loop {
        let sent = match before.take() {
            Some(before) => {
                route::recover::resume(mesh, peer, message, before, line, delivery, observer).await
            }
            None => attempt(mesh, peer, message, was_there, line, delivery, observer).await,
        };
        let (pause, error) = match sent {
            Ok(()) => return Ok(()),
            Err(Setback::Later(pause, error)) => (pause, error),
            Err(Setback::Final(error)) => return Err(refused(error, line)),
            Err(Setback::Deadline) => return Err(too_late(message, line, delivery)),
            Err(Setback::Lost(how) | Setback::Unsent(how)) => return Err(message.give_up(&how, delivery)),
        };
        // A gateway that restarts ends this connection soon, and what is lost with it might have arrived.
        line.lose();
        let wake = Instant::now() + pause + route::gateway::jittered(pause) / 2;
        if wake + TOO_SHORT >= message.deadline {
            delivery.finished(State::Failed);
            return Err(error);
        }
        delivery.turned_away(&chain(&error));
        was_there = true;
        sleep_until(wake).await;
    }
}

/// What it refuses may depend on how it let us in, and somebody may mend that.
fn refused(error: MeshError, line: &mut Line) -> MeshError {
    if matches!(error, MeshError::Call { .. }) {
        line.retire();
    }
    error
}

/// Without even a confirmation, there may be nobody on the other end any more, and it is looked for elsewhere.
fn too_late(message: &Outgoing, line: &mut Line, delivery: &mut Delivery<'_>) -> MeshError {
    if !delivery.state().is_confirmed() {
        line.lose();
    }
    message.give_up("no answer in time", delivery)
}

/// One attempt: connects, sends, and sees it through. That it leaves is on the disk before it does: a message without
/// that note certainly never left, whatever died. A gateway that `was_there` before is waited for.
async fn attempt(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    was_there: bool,
    line: &mut Line,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let mut may_be_unsent = true;
    loop {
        let is_new = !line.is_warm();
        let connected = line.client(mesh, peer, message.deadline, was_there).await;
        let client = connected.map_err(Setback::Final)?;
        message.deadline += peer.waited();
        let boot_id = client.hello().server.boot_id.clone();
        delivery.reached(boot_id.as_deref());
        observer.progress(Progress::Reached);
        if message.is_stale() {
            return Err(Setback::Final(MeshError::Expired {
                to: message.to.clone(),
                id: message.id.clone(),
            }));
        }
        let noted = delivery.sending(&message.run_id, boot_id.as_deref()).await;
        noted.map_err(|error| Setback::Final(error.into()))?;
        if is_new {
            // What the gateway said while the archive was waited for is read first: after its goodbye it is certain that
            // nothing leaves.
            yield_now().await;
        }
        let sent_at = Timestamp::now();
        match route::deliver(client, message, delivery, observer).await {
            // It ended while it was kept, or while the archive was waited for: there is nothing to look for, and the next one
            // is new.
            Err(Setback::Unsent(how)) if line.is_warm() || may_be_unsent => {
                may_be_unsent = line.is_warm();
                delivery.unsent(&how);
                line.lose();
            }
            Err(Setback::Lost(how) | Setback::Unsent(how)) => {
                delivery.lost(&how);
                line.lose();
                let attempt = Attempt { boot_id, sent_at, is_ours: true };
                return route::recover::resume(mesh, peer, message, attempt, line, delivery, observer).await;
            }
            end => return end,
        }
    }
}
