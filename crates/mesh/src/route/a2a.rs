//! Any agent that speaks A2A 1.0 over JSON-RPC is a peer: its card is fetched and checked, the message becomes a task, and
//! the task is asked after until it ends.
//!
//! A2A has no key under which a message could be sent again: one whose sending got no answer is `unknown`. The task's id
//! is kept where the archive keeps the gateway process of other routes, so that `wait` finds the task from anywhere.

use jiff::Timestamp;
use openclaw_client::protocol::methods::agent::Outcome;
use tokio::time::{Duration, Instant, sleep};

use super::look::Attempt;
use super::{Delivery, Outgoing, Wait, agent};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::progress::{Observer, Progress};

mod error;
mod http;
mod wire;

pub use error::A2aError;
use http::Remote;
pub(crate) use wire::context_id;
use wire::{Answer, Task};

/// The pauses between two looks at a task: the first, and the longest. OpenClaw's channel allows 30 requests a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Sends a message, or finds out what became of one that may have left, and follows it to its end.
///
/// # Errors
/// Why it went no further.
pub(crate) async fn see_through(
    mesh: &Mesh,
    peer: &Peer,
    message: &Outgoing,
    before: Option<Attempt>,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), MeshError> {
    let remote = Remote::new(mesh, peer, message.deadline)?;
    let task = match before.map(|attempt| attempt.boot_id) {
        Some(Some(id)) => Task::under_way(id),
        Some(None) => return Err(message.give_up("A2A cannot be asked what became of a message", delivery)),
        None => match begin(&remote, message, delivery, observer).await? {
            Some(task) => task,
            None => return Ok(()),
        },
    };
    if message.wait == Wait::Taken && task.outcome().is_none() {
        return Ok(());
    }
    let outcome = follow(&remote, task, message, delivery, observer).await?;
    agent::conclude(outcome, message, delivery)
}

/// Sends it. Nothing to follow comes back where the whole answer came at once.
async fn begin(
    remote: &Remote<'_>,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<Task>, MeshError> {
    remote.check_card().await.map_err(|error| remote.failed(error))?;
    delivery.reached(None);
    observer.progress(Progress::Reached);
    if message.is_stale() {
        return Err(MeshError::Expired { to: message.to.clone(), id: message.id.clone() });
    }
    delivery.sending(&message.run_id, None).await?;
    let answer = match remote.send(&message.run_id, &message.session, &message.text).await {
        Ok(answer) => answer,
        // It may have arrived; nobody can tell.
        Err(error @ (A2aError::Lost(_) | A2aError::Deadline | A2aError::BadAnswer(_))) => {
            return Err(message.give_up(&error.to_string(), delivery));
        }
        Err(error) => return Err(remote.failed(error)),
    };
    match answer {
        Answer::Task(task) => {
            delivery.reached(Some(&task.id));
            delivery.accepted();
            observer.progress(Progress::Accepted);
            Ok(Some(task))
        }
        Answer::Message(text) => {
            delivery.accepted();
            let outcome = if text.is_empty() { Outcome::NoReply } else { Outcome::Reply(text) };
            agent::conclude(outcome, message, delivery).map(|()| None)
        }
    }
}

/// Asks for a task to be cancelled. Gives whether it was: one that is over cannot be, and OpenClaw's channel cancels none.
///
/// # Errors
/// When the agent cannot be asked.
pub(crate) async fn cancel(
    mesh: &Mesh,
    peer: &Peer,
    task: &str,
    deadline: Instant,
) -> Result<bool, MeshError> {
    let remote = Remote::new(mesh, peer, deadline)?;
    match remote.cancel(task).await {
        Ok(task) => Ok(task.outcome() == Some(Outcome::Aborted)),
        Err(A2aError::Rpc { .. }) => Ok(false),
        Err(error) => Err(remote.failed(error)),
    }
}

/// Asks after a task until it ends, or our time does.
async fn follow(
    remote: &Remote<'_>,
    mut task: Task,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<Outcome, MeshError> {
    delivery.accepted();
    let mut pause = Duration::ZERO;
    loop {
        if let Some(outcome) = task.outcome() {
            return Ok(outcome);
        }
        if Instant::now() + pause >= message.deadline {
            return Err(message.give_up("no answer in time", delivery));
        }
        sleep(pause).await;
        pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        match remote.task(&task.id).await {
            Ok(seen) => {
                observer.progress(Progress::Phase(seen.state()));
                task = seen;
            }
            // It was restarted, and its tasks were only in its memory.
            Err(A2aError::Rpc { code: wire::TASK_NOT_FOUND, .. }) => {
                let reason = "the task is not known there any more".to_owned();
                return Ok(Outcome::Failed(reason));
            }
            Err(error) if error.is_refusal() => return Err(remote.failed(error)),
            // It was there before, and the task may be, too.
            Err(error) => tracing::debug!(%error, at = %Timestamp::now(), "looking again"),
        }
    }
}
