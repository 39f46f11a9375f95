//! Any agent that speaks A2A 1.0 over JSON-RPC is a peer: its card is fetched and checked, the message becomes a task, and
//! the task is followed to its end: in a stream where the card offers one, else by asking after it.
//!
//! A2A has no key under which a message could be sent again: one whose sending got no answer is `unknown`. The task's id
//! is kept where the archive keeps the gateway process of other routes, so that `wait` finds the task from anywhere.

use openclaw_client::protocol::methods::agent::Outcome;
use tokio::time::Instant;

use super::look::Attempt;
use super::{Delivery, Outgoing, Wait, agent};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::progress::{Observer, Progress};

mod error;
mod follow;
mod http;
mod stream;
mod task;
mod wire;

pub use error::A2aError;
use follow::{Following, follow};
use http::Remote;
use stream::Stream;
use task::{Happening, Task};
use wire::SendMessage;
pub(crate) use wire::context_id;

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
    let following = match before.map(|attempt| attempt.boot_id) {
        Some(Some(id)) => Following { task: Task::under_way(id), stream: None, streams: None },
        Some(None) => return Err(message.give_up("A2A cannot be asked what became of a message", delivery)),
        None => match begin(&remote, message, delivery, observer).await? {
            Some(following) => following,
            None => return Ok(()),
        },
    };
    if message.wait == Wait::Taken && following.task.outcome().is_none() {
        return Ok(());
    }
    let outcome = follow(&remote, following, message, delivery, observer).await?;
    agent::conclude(outcome, message, delivery)
}

/// Sends it. Nothing to follow comes back where the whole answer came at once.
async fn begin(
    remote: &Remote<'_>,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<Option<Following>, MeshError> {
    let card = remote.card().await.map_err(|error| remote.failed(error))?;
    delivery.reached(None);
    observer.progress(Progress::Reached);
    if message.is_stale() {
        return Err(MeshError::Expired { to: message.to.clone(), id: message.id.clone() });
    }
    delivery.sending(&message.run_id, None).await?;
    let streams = card.streams() && message.wait != Wait::Taken;
    let (happening, stream) = match send(remote, message, streams).await {
        Ok(answered) => answered,
        // It may have arrived; nobody can tell.
        Err(error @ (A2aError::Lost(_) | A2aError::Deadline | A2aError::BadAnswer(_))) => {
            return Err(message.give_up(&error.to_string(), delivery));
        }
        Err(error) => return Err(remote.failed(error)),
    };
    let task = match happening {
        Happening::Task(task) => task,
        Happening::Update(update) => {
            let mut task = Task::under_way(update.task_id.clone());
            task.take(update);
            task
        }
        Happening::Message(text) => {
            delivery.accepted();
            let outcome = if text.is_empty() { Outcome::NoReply } else { Outcome::Reply(text) };
            return agent::conclude(outcome, message, delivery).map(|()| None);
        }
    };
    delivery.reached(Some(&task.id));
    delivery.accepted();
    observer.progress(Progress::Accepted);
    let streams = Some(stream.is_some());
    Ok(Some(Following { task, stream, streams }))
}

/// Sends it, and gives what is said first, with the stream of what is said after that.
async fn send(
    remote: &Remote<'_>,
    message: &Outgoing,
    streams: bool,
) -> Result<(Happening, Option<Stream>), A2aError> {
    let request = SendMessage::new(&message.run_id, &message.session, &message.text);
    if streams {
        match remote.send_streaming(&request).await {
            Ok(mut stream) => {
                let nothing = || A2aError::BadAnswer("the stream is empty".to_owned());
                return Ok((stream.next().await?.ok_or_else(nothing)?, Some(stream)));
            }
            // Its card says otherwise, but nothing was done.
            Err(error) if error.is_not_offered() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((remote.send(&request).await?, None))
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
