//! Say one thing to many agents at once.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;
use uuid::Uuid;

use super::let_go::let_all_go;
use super::send::{Plan, SendRequest, plan, send_planned};
use crate::archive::ArchiveError;
use crate::crowd::{Crowd, Turn};
use crate::descriptors;
use crate::error::{MeshError, chain};
use crate::mesh::Mesh;
use crate::progress::{Observer, Progress, Unobserved};
use crate::record::{Record, State};
use crate::registry::Agent;

/// To whom, and how many at once.
#[derive(Debug, Clone)]
pub struct BroadcastRequest {
    /// What to send, and how. The timeout counts for each peer from the moment its turn comes.
    pub send: SendRequest,
    /// Which teammates.
    pub selection: Selection,
    /// To how many at once. A gateway that is silent does not count until it answers: it keeps nobody waiting.
    pub concurrency: usize,
    /// Stop as soon as so many replied. What is under way then stays with those who have it.
    pub enough: Option<usize>,
}

/// Which teammates of the registry. Ourselves are always left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these, found as `--to` finds one; all if empty.
    pub only: Vec<String>,
    /// Not these.
    pub except: Vec<String>,
    /// Only those with all of these tags.
    pub tags: Vec<(String, String)>,
}

impl Selection {
    /// The teammates that fit, in registry order.
    ///
    /// # Errors
    /// When a name fits nobody, or more than one.
    pub fn of<'a>(&self, mesh: &'a Mesh) -> Result<Vec<&'a Agent>, MeshError> {
        let registry = mesh.registry()?;
        let find = |names: &[String]| -> Result<Vec<&'a Agent>, MeshError> {
            names.iter().map(|name| Ok(registry.find(name)?)).collect()
        };
        let (only, except) = (find(&self.only)?, find(&self.except)?);
        let among = |list: &[&Agent], agent: &Agent| list.iter().any(|other| std::ptr::eq(*other, agent));
        let chosen = registry.agents.iter().filter(|agent| {
            !mesh.is_me(agent)
                && (only.is_empty() || among(&only, agent))
                && !among(&except, agent)
                && self.tags.iter().all(|(key, value)| agent.tags.get(key) == Some(value))
        });
        Ok(chosen.collect())
    }
}

/// Thinks a broadcast through without touching the network; the peers in registry order.
///
/// # Errors
/// When nobody says who we are, the message may not be sent, or a name fits nobody.
pub fn dry_run(mesh: &Mesh, request: &BroadcastRequest) -> Result<Vec<Plan>, MeshError> {
    mesh.require_identity()?;
    let agents = request.selection.of(mesh)?;
    agents.into_iter().map(|agent| plan(mesh, agent, &request.send)).collect()
}

/// Sends to all, and gives the records in registry order. One id names the whole; each message has its own. It ends early
/// when `stop` does; what is under way then stays with those who have it, and what has not left never does.
///
/// # Errors
/// When nobody says who we are, the message may not be sent, or a name fits nobody. What goes wrong with one peer
/// stands in its record.
pub async fn broadcast(
    mesh: &Mesh,
    request: &BroadcastRequest,
    stop: impl Future<Output = ()>,
    observer: &mut dyn Observer,
) -> Result<(Uuid, Vec<Record>), MeshError> {
    let mut plans = dry_run(mesh, request)?;
    if plans.is_empty() {
        return Err(MeshError::Nobody);
    }
    // To speak to all is one decision: the first message that may go counts for it.
    let first = plans.iter().find(|plan| plan.is_permitted()).map(|plan| plan.id.clone());
    for plan in &mut plans {
        plan.allowance.chorus_of = first.clone().filter(|first| *first != plan.id);
    }
    let untold: Vec<Record> = plans.iter().map(Plan::untold).collect();
    let meeting = mesh.meeting_many();
    let shut = OnceLock::new();
    let crowd = Crowd::new(request.concurrency, descriptors::room().connections);
    // Boxed for those who need a future that is `Send`: the compiler does not see that this one is, without.
    let send = |plan, turn| send_one(mesh, plan, turn, &request.send, &shut).boxed();
    let mut running = Box::pin(crowd.each(plans, send));
    let mut records: Vec<Option<Record>> = untold.iter().map(|_| None).collect();
    let mut missing = request.enough.unwrap_or(usize::MAX);
    let mut stop = pin!(stop);
    loop {
        let done = tokio::select! {
            done = running.next() => done,
            () = &mut stop => None,
        };
        let Some((place, record)) = done else { break };
        observer.progress(Progress::PeerDone(&record));
        missing -= usize::from(record.state == State::Replied);
        records[place] = Some(record);
        if missing == 0 {
            break;
        }
    }
    drop(running);
    if let Err(error) = meeting.keep().await {
        tracing::warn!(%error, "gateways that were met are not remembered");
    }
    let results = so_far(mesh, records, untold).await;
    if let Some(first) = first
        && let Err(error) = count_once(mesh, &first, &results).await
    {
        tracing::warn!(%error, "the broadcast is not counted");
    }
    Ok((Uuid::now_v7(), results))
}

/// All records; of the messages that nobody waits for any more, how far they got.
async fn so_far(mesh: &Mesh, records: Vec<Option<Record>>, untold: Vec<Record>) -> Vec<Record> {
    let open = records.iter().zip(&untold).filter(|(record, _)| record.is_none());
    let open: Vec<String> = open.map(|(_, untold)| untold.id.clone()).collect();
    let known = match open.is_empty() {
        true => Ok(Vec::new()),
        false => let_all_go(mesh, open, State::Skipped).await,
    };
    let known = known.map(|all| all.into_iter().map(|stored| (stored.record.id.clone(), stored.record)));
    let mut known: Result<HashMap<String, Record>, String> =
        known.map(Iterator::collect).map_err(|error| chain(&error));
    let end = |(record, untold): (Option<Record>, Record)| match (record, &mut known) {
        (Some(record), _) => record,
        (None, Ok(known)) => known.remove(&untold.id).unwrap_or(untold),
        // What the others got weighs more than that the log cannot say this: without it, all would be sent again.
        (None, Err(reason)) => {
            let (to, id) = (untold.to.clone(), untold.id.clone());
            let error = MeshError::Unknown { to, id, reason: reason.clone() };
            Record { state: State::Unknown, error: Some(error), ..untold }
        }
    };
    records.into_iter().zip(untold).map(end).collect()
}

/// The message that stands for all in the limits has to be one that left, or may have: what the archive takes for that.
async fn count_once(mesh: &Mesh, first: &str, results: &[Record]) -> Result<(), MeshError> {
    let all = results.iter().map(|record| record.id.clone()).collect();
    Ok(mesh.archive()?.count_once(first, all).await?)
}

/// Once an archive is `shut`, locked or on a full disk, nothing more is begun: each message would wait for it in turn.
async fn send_one(
    mesh: &Mesh,
    plan: Plan,
    turn: Arc<Turn>,
    request: &SendRequest,
    shut: &OnceLock<ArchiveError>,
) -> Record {
    if let Some(error) = shut.get().and_then(ArchiveError::for_the_next) {
        return Record { state: State::Failed, error: Some(error.into()), ..plan.untold() };
    }
    let plan = plan.in_turn(Arc::clone(&turn));
    let deadline = Instant::now() + request.timeout;
    let pool = mesh.pool();
    let record = send_planned(mesh, plan, request, deadline, &pool, &mut Unobserved).await;
    pool.done().await;
    if let Some(MeshError::Archive(error)) = &record.error
        && let Some(error) = error.for_the_next()
    {
        // The first to say so is believed.
        let _ = shut.set(error);
    }
    record
}
