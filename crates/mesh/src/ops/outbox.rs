//! The outbox: messages that wait until their peer can be reached.
//!
//! Nobody has to run: `send --queue` keeps what it cannot deliver, and [`flush`] or [`work`], in this process or
//! another, delivers it later. Each message is carried by one worker at a time, in the order of each peer; what may have
//! left is looked up before it is sent again. What cannot pass by itself, such as a wrong token, is given up at once
//! and stays visible.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::send::{SendRequest, begin, new_message, plan};
use super::wait::{find, wait};
use crate::archive::{ArchiveError, Stored};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::pool::Pool;
use crate::progress::{Observer, Progress, Unobserved};
use crate::record::{Record, State};
use crate::registry::Agent;
use crate::route::Wait;

mod backoff;
mod carry;

pub(super) use carry::carry;

/// How long a message is worth delivering, unless somebody says.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many peers are called at once.
const AT_ONCE: usize = 16;
/// How often a worker looks for something that became due.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What one try did for a message.
#[derive(Debug)]
pub struct Carried {
    /// The message. One that is `queued` says in its error why.
    pub record: Record,
    /// When the outbox looks after it next; none if it is done with it.
    pub next_try_at: Option<Timestamp>,
}

/// What happens in an outbox at work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report {
    /// A message was tried.
    Carried(Box<Carried>),
    /// Something here, not on the peer's side, stands in the way.
    Trouble(MeshError),
}

/// Somebody who hears what happens.
pub type Reporter<'a> = &'a mut dyn FnMut(Report);

/// Sends one message; one that cannot be delivered now stays in the outbox, and so does one that another has to go
/// before. Messages for the same peer that wait are sent first. The instant-message fallback is not used.
///
/// # Errors
/// When the message may not be sent, or cannot be kept. What the peer does stands in the record.
pub async fn send_or_keep(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    expires: Duration,
    observer: &mut dyn Observer,
) -> Result<Carried, MeshError> {
    let plan = plan(mesh, agent, request)?.permitted()?;
    let deadline = Instant::now() + request.timeout;
    let new = new_message(&plan, request, State::Queued, Some(expiry(expires)));
    let archive = begin(mesh, new, plan.allowance, None).await?;
    observer.progress(Progress::Begun { id: &plan.id });
    let peer = &plan.to.email_prefix;
    archive.hurry(Some(peer)).await?;
    let due = Timestamp::now();
    let pool = mesh.pool();
    while let Some(claim) = archive.claim_due(peer, due).await? {
        let ours = claim.stored.record.id == plan.id;
        let mut unobserved = Unobserved;
        let watched: &mut dyn Observer = if ours { &mut *observer } else { &mut unobserved };
        // The replies to earlier ones are not what this time is for.
        let wait = Wait::from(ours && request.wait);
        match carry(mesh, claim, deadline, wait, &pool, watched).await {
            Ok(carried) if ours => {
                pool.done().await;
                return Ok(carried);
            }
            Ok(carried) if carried.record.state != State::Queued => {}
            Err(error) if ours && !matches!(error, MeshError::Archive(ArchiveError::Taken)) => {
                return Err(error);
            }
            // Ours waits behind it, or is in other hands.
            _ => break,
        }
    }
    pool.done().await;
    let stored = find(mesh, &plan.id).await?;
    if stored.record.state == State::Queued && stored.lease_until.is_none() {
        return Ok(Carried { next_try_at: stored.next_try_at, record: stored.record });
    }
    // A worker was quicker: what it hears is what we wait for.
    let left = deadline.saturating_duration_since(Instant::now());
    let record = wait(mesh, &plan.id, left, observer).await?;
    Ok(Carried { next_try_at: find(mesh, &plan.id).await?.next_try_at, record })
}

/// The moment after so long a time.
fn expiry(after: Duration) -> Timestamp {
    Timestamp::now().checked_add(after).unwrap_or(Timestamp::MAX)
}

/// What the outbox holds: what it still looks after, then what it gave up before it arrived.
///
/// # Errors
/// When the archive cannot be used.
pub async fn list(mesh: &Mesh) -> Result<Vec<Stored>, MeshError> {
    let archive = mesh.archive()?;
    match archive.expire().await {
        // What is stale then waits to be called so, by whoever may write.
        Ok(_) | Err(ArchiveError::ReadOnly { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut messages = archive.outbox().await?;
    for Stored { record, failure, .. } in &mut messages {
        // What stood in its way before does so no more.
        if record.state == State::Held {
            let held = MeshError::Held { to: record.to.clone(), id: record.id.clone() };
            *failure = Some(held.to_string());
        }
    }
    Ok(messages)
}

/// Takes a message out that has not left.
///
/// # Errors
/// When there is no such message, or it is not the outbox's any more: it may have left.
pub async fn remove(mesh: &Mesh, id: &str) -> Result<Stored, MeshError> {
    let stored = find(mesh, id).await?;
    let id = stored.record.id;
    if mesh.archive()?.cancel(&id).await? {
        return find(mesh, &id).await;
    }
    let state = find(mesh, &id).await?.record.state;
    Err(MeshError::NotInOutbox { id, state })
}

/// Puts a message back that was given up before it arrived, or makes one that waits due now.
///
/// # Errors
/// When there is no such message, or it is not the outbox's: it may have arrived.
pub async fn retry(mesh: &Mesh, id: &str, expires: Duration) -> Result<Stored, MeshError> {
    let stored = find(mesh, id).await?;
    let id = stored.record.id;
    if mesh.archive()?.retry(&id, expiry(expires)).await? {
        return find(mesh, &id).await;
    }
    let state = find(mesh, &id).await?.record.state;
    Err(MeshError::NotInOutbox { id, state })
}

/// Tries everything that waits once, also what was to wait longer, and returns. `timeout` is each message's own; one
/// that its peer's owner has to let run is not waited for.
///
/// # Errors
/// When the archive cannot be used. Whatever else goes wrong is reported, and does not keep the others.
pub async fn flush(
    mesh: &Mesh,
    only: Option<&Agent>,
    timeout: Duration,
    report: Reporter<'_>,
) -> Result<(), MeshError> {
    let archive = mesh.archive()?;
    let only = only.map(|agent| agent.email_prefix.as_str());
    report_expired(mesh, report).await?;
    archive.hurry(only).await?;
    let due = Timestamp::now();
    let mut waiting: VecDeque<String> = archive.outbox_peers(only, due).await?.into();
    let pool = mesh.pool();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(peer) = waiting.pop_front()
        {
            running.push(step(mesh, peer, Some(due), timeout, &pool));
        }
        let Some(done) = running.next().await else { break };
        if let Some(peer) = done.go_on(report) {
            running.push(step(mesh, peer, Some(due), timeout, &pool));
        }
    }
    drop(running);
    pool.done().await;
    Ok(())
}

/// Delivers what becomes due, for as long as this is polled. Dropped, it leaves each message where it is, for the next
/// worker.
///
/// # Errors
/// When the archive or, at the start, the registry cannot be used.
pub async fn work(mesh: &Mesh, timeout: Duration, report: Reporter<'_>) -> Result<Infallible, MeshError> {
    mesh.registry()?;
    let archive = mesh.archive()?;
    let pool = mesh.pool();
    let mut busy = HashSet::new();
    let mut running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + '_>>> = FuturesUnordered::new();
    let mut ticks = interval(LOOK_AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(done) = running.next() => {
                let peer = done.peer.clone();
                match done.go_on(report) {
                    Some(peer) => running.push(Box::pin(fresh_step(mesh, peer, timeout, &pool))),
                    None => _ = busy.remove(&peer),
                }
            }
            _ = ticks.tick() => {
                for peer in archive.outbox_peers(None, Timestamp::now()).await? {
                    if busy.len() < AT_ONCE && busy.insert(peer.clone()) {
                        report_expired(mesh, report).await?;
                        running.push(Box::pin(fresh_step(mesh, peer, timeout, &pool)));
                    }
                }
            }
        }
    }
}

async fn report_expired(mesh: &Mesh, report: Reporter<'_>) -> Result<(), MeshError> {
    for stored in mesh.archive()?.expire().await? {
        let mut record = stored.record;
        record.error = Some(MeshError::Expired { to: record.to.clone(), id: record.id.clone() });
        report(Report::Carried(Box::new(Carried { record, next_try_at: None })));
    }
    Ok(())
}

/// What one step for a peer came to.
struct Done {
    peer: String,
    /// None: there was nothing to do.
    carried: Result<Option<Carried>, MeshError>,
}

impl Done {
    /// Reports it, and says whether the peer's next message may be tried.
    fn go_on(self, report: Reporter<'_>) -> Option<String> {
        match self.carried {
            Ok(Some(carried)) => {
                let reached = carried.record.state != State::Queued;
                report(Report::Carried(Box::new(carried)));
                reached.then_some(self.peer)
            }
            Ok(None) => None,
            Err(error) => {
                report(Report::Trouble(error));
                None
            }
        }
    }
}

/// One step, with files as they are now.
async fn fresh_step(mesh: &Mesh, peer: String, timeout: Duration, pool: &Pool) -> Done {
    step(&mesh.reread(), peer, None, timeout, pool).await
}

/// Carries a peer's next message.
async fn step(mesh: &Mesh, peer: String, due: Option<Timestamp>, timeout: Duration, pool: &Pool) -> Done {
    // Who looks only once does not wait for somebody's word.
    let wait = if due.is_some() { Wait::UnlessHeld } else { Wait::Reply };
    let carried = next(mesh, &peer, due.unwrap_or_else(Timestamp::now), wait, timeout, pool).await;
    Done { peer, carried }
}

async fn next(
    mesh: &Mesh,
    peer: &str,
    due: Timestamp,
    wait: Wait,
    timeout: Duration,
    pool: &Pool,
) -> Result<Option<Carried>, MeshError> {
    let Some(claim) = mesh.archive()?.claim_due(peer, due).await? else { return Ok(None) };
    let deadline = Instant::now() + timeout;
    carry(mesh, claim, deadline, wait, pool, &mut Unobserved).await.map(Some)
}
