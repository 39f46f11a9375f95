//! Say something to one teammate's agent and await its reply.

use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::{Either, select, try_join};
use jiff::Timestamp;
use openclaw_client::protocol::attribution::Chain;
use tokio::time::{Duration, Instant, timeout};
use uuid::Uuid;

use crate::archive::{Allowance, Archive, ArchiveError, Direction, Leaving, NewMessage};
use crate::error::MeshError;
use crate::fallback::ImFallback;
use crate::mesh::Mesh;
use crate::peer::{Peer, SessionChoice};
use crate::pool::{Line, Pool};
use crate::progress::{Observer, Progress};
use crate::record::{Receipt, Record, State};
use crate::registry::{Agent, Via};
use crate::route::{Delivery, Outgoing};

mod attempt;
mod end;
mod plan;

pub(super) use attempt::see_through;
pub(crate) use end::conclude;
use end::{state_of_unsent, unsent};
pub use plan::{Plan, plan};

/// How many rounds one `send` may have.
pub const MAX_ROUNDS: u32 = 20;

/// So long a message whose archive is open waits for the line, to be written down once and not twice. Where the peer is further
/// away, the line takes some more time, in which there is enough to write.
const NEAR: Duration = Duration::from_millis(2);

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// The message.
    pub message: String,
    /// The session.
    pub session: SessionChoice,
    /// The route; the registry's if none is given.
    pub via: Option<Via>,
    /// One budget for everything: resolve, connect, send, wait. It is ours alone and never becomes the run's own.
    pub timeout: Duration,
    /// Whether to wait for the reply.
    pub wait: bool,
    /// The message id; a fresh one if none is given.
    pub id: Option<Uuid>,
    /// Whether the message carries the attribution header.
    pub header: bool,
    /// Whether the instant-message fallback may be used.
    pub fallback: bool,
    /// The chain of the message that this one was caused by, beside the one that we were called in.
    pub in_reply_to: Option<Chain>,
}

impl SendRequest {
    /// A message with the defaults: 60 s, await the reply, header, fallback.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            session: SessionChoice::default(),
            via: None,
            timeout: Duration::from_secs(60),
            wait: true,
            id: None,
            header: true,
            fallback: true,
            in_reply_to: None,
        }
    }
}

/// Sends one message. What went wrong on the way stands in the record, beside how far it got.
///
/// # Errors
/// Only when there was nothing to send: see [`plan()`].
pub async fn send(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    observer: &mut dyn Observer,
) -> Result<Record, MeshError> {
    let plan = plan(mesh, agent, request)?;
    let deadline = Instant::now() + request.timeout;
    let pool = mesh.pool();
    let record = send_planned(mesh, plan, request, deadline, &pool, observer).await;
    pool.done().await;
    Ok(record)
}

/// Sends, and sends each reply back as the next message, for a number of rounds in one session over one connection:
/// the bash skill's `--rounds`. Ends early when a round gives no reply.
///
/// # Errors
/// When the first message may not be sent. A later one that may not ends the conversation in its record.
pub async fn send_rounds(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    rounds: u32,
    observer: &mut dyn Observer,
) -> Result<Vec<(String, Record)>, MeshError> {
    let mut said: Vec<(String, Record)> = Vec::new();
    let pool = mesh.pool();
    let mut next = request.clone();
    for number in 1..=rounds {
        let plan = match plan(mesh, agent, &next) {
            Ok(plan) => plan,
            Err(error) if said.is_empty() => return Err(error),
            Err(error) => {
                // The peer's reply is too large to be sent back: the conversation ends with what was said.
                if let Some((_, last)) = said.last_mut() {
                    last.error = Some(error);
                }
                break;
            }
        };
        observer.progress(Progress::Round { number, message: &next.message });
        let deadline = Instant::now() + request.timeout;
        let record = send_planned(mesh, plan, &next, deadline, &pool, observer).await;
        observer.progress(Progress::RoundDone(&record));
        let reply = record.reply.as_ref().map(|reply| reply.text.clone());
        said.push((next.message.clone(), record));
        let Some(reply) = reply else { break };
        next.message = reply;
        next.id = None;
    }
    pool.done().await;
    Ok(said)
}

/// Carries a plan out, over a connection that stands or a new one. The message is in the archive before anything leaves,
/// and its end is there before this returns.
pub(crate) async fn send_planned(
    mesh: &Mesh,
    plan: Plan,
    request: &SendRequest,
    deadline: Instant,
    pool: &Pool,
    observer: &mut dyn Observer,
) -> Record {
    let new = new_message(&plan, request, State::Sending, None);
    let mut message = Outgoing {
        to: plan.to,
        run_id: plan.id.clone(),
        id: plan.id,
        via: plan.via,
        session: plan.session,
        text: plan.message,
        me: plan.me,
        wait: request.wait.into(),
        deadline,
        expires_at: None,
    };
    if let Err(error @ MeshError::Guard(_)) = plan.peer {
        return unsent(message, plan.bytes, State::Skipped, error);
    }
    let mut line = pool.line();
    let peer = plan.peer.as_ref().ok().filter(|_| message.via != Via::A2a);
    let begun = begin_beside_dialling(mesh, new, plan.allowance, peer, deadline, &mut line, observer).await;
    let (archive, is_leaving) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let state = state_of_unsent(&message.to, &error);
            return unsent(message, plan.bytes, state, error);
        }
    };
    let mut delivery =
        Delivery::new(archive, &message, State::Sending, Receipt::default()).leaving(is_leaving);
    let mut result = match plan.peer {
        Ok(peer) => see_through(mesh, &peer, &mut message, None, &mut line, &mut delivery, observer).await,
        Err(error) => Err(error),
    };
    drop(line);
    if let (Err(error), Some(fallback), true) = (&result, &mesh.config().fallback, request.fallback)
        && error.is_unreachable()
        && delivery.state() == State::Sending
    {
        result = fall_back(fallback, &message, &request.message, &mut delivery).await;
    }
    conclude(message, plan.bytes, delivery, result).await
}

/// Writes the message down while the line to the peer is made. Where that stands by the time the archive is open, that the
/// message leaves is in the same write, and in what this gives.
async fn begin_beside_dialling<'m>(
    mesh: &'m Mesh,
    new: NewMessage,
    allowance: Allowance,
    peer: Option<&Peer>,
    deadline: Instant,
    line: &mut Line,
    observer: &mut dyn Observer,
) -> Result<(&'m Archive, bool), MeshError> {
    if let Some(peer) = peer {
        line.take_standing(mesh, peer);
    }
    let id = new.id.clone();
    let begun = async |leaving| {
        let archive = begin(mesh, new, allowance, leaving).await?;
        observer.progress(Progress::Begun { id: &id });
        Ok::<_, MeshError>(archive)
    };
    // Opening the archive and dialling take about the same time, and neither needs the other. One of a crowd waits for its
    // turn; and whoever may not speak gives the dial up, if that is not done by then.
    if let Some(peer) = peer.filter(|peer| !line.is_up() && peer.turn.is_none()) {
        let mut dialling = Box::pin(line.dial_ahead(mesh, peer, deadline));
        match select(pin!(mesh.opened_archive()), &mut dialling).await {
            Either::Left((opened, _)) => {
                opened?;
                if timeout(NEAR, &mut dialling).await.is_err() {
                    let (archive, ()) = try_join(begun(None), dialling.map(Ok)).await?;
                    return Ok((archive, false));
                }
            }
            Either::Right(((), opening)) => drop(opening.await?),
        }
    }
    let leaving = line.standing().map(|client| Leaving { boot_id: client.hello().server.boot_id.clone() });
    let is_leaving = leaving.is_some();
    Ok((begun(leaving).await?, is_leaving))
}

/// Gives the text to a script, for a peer that is not there at all.
async fn fall_back(
    fallback: &ImFallback,
    message: &Outgoing,
    text: &str,
    delivery: &mut Delivery<'_>,
) -> Result<(), MeshError> {
    // The deadline covers this, too; a script that has hardly any time left still gets a moment.
    let left = message.deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let fallback = ImFallback { timeout: fallback.timeout.min(left), ..fallback.clone() };
    let told = fallback.deliver(&message.to.email_prefix, text).await;
    delivery.finished(if told.is_ok() { State::Fallback } else { State::Unreachable });
    told.map_err(|source| MeshError::Fallback { to: message.to.clone(), source })
}

/// The message as the archive gets it.
pub(super) fn new_message(
    plan: &Plan,
    request: &SendRequest,
    state: State,
    expires_at: Option<Timestamp>,
) -> NewMessage {
    NewMessage {
        id: plan.id.clone(),
        run_id: plan.id.clone(),
        direction: Direction::Out,
        peer: plan.to.clone(),
        via: plan.via,
        session: plan.session.clone(),
        thread: request.session.thread.clone(),
        header: plan.message.strip_suffix(&request.message).unwrap_or_default().to_owned(),
        text: request.message.clone(),
        claimed_from: None,
        state,
        expires_at,
    }
}

/// Writes the message into the archive, within the limits; also that it leaves, if it does at once.
pub(super) async fn begin(
    mesh: &Mesh,
    new: NewMessage,
    allowance: Allowance,
    leaving: Option<Leaving>,
) -> Result<&Archive, MeshError> {
    let archive = mesh.opened_archive().await?;
    let id = new.id.clone();
    let begun = match leaving {
        Some(leaving) => archive.begin_leaving(new, allowance, leaving).await,
        None => archive.begin_within(new, allowance).await,
    };
    match begun {
        Err(ArchiveError::Exists) => {
            let known = archive.find(&id).await?.filter(|stored| stored.direction == Direction::Out);
            Err(MeshError::IdInUse { id, sent: known.map(|stored| (stored.record.to, stored.record.state)) })
        }
        begun => Ok(begun?.map(|()| archive)?),
    }
}
