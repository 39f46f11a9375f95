//! What becomes of a request to run: it is queued, held, known already, or refused.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use openclaw_protocol::ErrorShape;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Call, reply};
use crate::conn::Conn;
use crate::denial::{self, Rule};
use crate::gateway::start_lane;
use crate::keys::AGENT_ID;
use crate::lane;
use crate::ledger::Accepted;
use crate::outcome::{Done, Outcome};
use crate::policy::{Mode, Rules};
use crate::principal::Member;
use crate::runs::{Admission, HeldRun, Job, Origin, Run, Runs, Stage};
use crate::sessions::Past;
use crate::shared::{Shared, lock, now_ms};
use crate::shares::Who;
use crate::taking::{Keeping, Taking, tell_known};

/// After a peer has too many runs at a time, one of them may be over so soon.
const SOON_MS: u64 = 1000;

/// What a request to run has led to.
pub(super) enum Start {
    /// It waits, and has been acknowledged, or will be as soon as it is written down.
    Taken,
    /// Its key is that of a run which is not over.
    Running { run: Arc<Run>, held: bool },
    /// Its key is that of a run which is.
    Over(Arc<Done>),
}

/// Queues a job and acknowledges it; or finds the run that had its key before, and never runs that again. `before` is the
/// session that it would have been in before its sender had a name here.
pub(super) fn admit(call: &Call<'_>, mut job: Job, before: Option<String>) -> Result<Start, ErrorShape> {
    let run = Arc::clone(&job.run);
    let earlier = call.conn.earlier_who().zip(before).map(|(who, session)| run.before(who, session));
    job.earlier = earlier.as_ref().and_then(|run| Some((run.who.peer()?.to_owned(), run.session.clone())));
    let now = Instant::now();
    // Held to the end: a run cannot end in between.
    let mut runs = lock(&call.shared.runs);
    for run in [Some(&*run), earlier.as_ref()].into_iter().flatten() {
        if let Some(known) = runs.known(run, now) {
            return repeat(&runs, run, &known);
        }
        if let Some(past) = lock(&call.shared.sessions).past(run, &job.message) {
            return remember(run, past);
        }
    }
    let is_held = match (call.conn.principal.peer(), call.conn.rules()) {
        (Some(member), Some(rules)) => allow(call.shared, &runs, member, &rules)?,
        _ => false,
    };
    if is_held {
        return hold(call, runs, job);
    }
    // Whether it begins at once is known before it is written down: what only waits runs after a crash, what has begun
    // never again.
    let slot = if runs.is_idle(&run.session) { call.shared.slots.try_take(&run.who) } else { None };
    let taking = taking(call, &job, slot.is_some());
    let (mut name, mut waits) = (None, None);
    if slot.is_some() {
        (job.kept, job.stage) = (Keeping::Own(taking), Stage::Begins);
    } else {
        let (tell, told) = oneshot::channel();
        job.kept = Keeping::Soon(told);
        (name, waits) = (Some(tell), Some(taking));
    }
    match runs.admit(job, now) {
        Admission::Queued { starts_lane } => {
            count(call.shared, &run.who);
            drop(runs);
            if let (Some(name), Some(taking)) = (name, waits) {
                let shared = Arc::clone(call.shared);
                // Nobody may wait for the name any more: the run can have been stopped.
                call.shared.tasks.spawn(async move { settle(&shared, *taking, name).await });
            }
            if starts_lane {
                start_lane(call.shared, run.session.clone(), slot);
            }
            Ok(Start::Taken)
        }
        Admission::Known(known) => repeat(&runs, &run, &known),
        Admission::Refused(error) => Err(error),
    }
}

/// Writes a run down that waits. One that is known needs no turn: it is answered before it has one.
async fn settle(shared: &Shared, taking: Taking, name: oneshot::Sender<Accepted>) {
    let run = Arc::clone(&taking.run);
    let accepted = taking.down(shared).await;
    if let Accepted::Known(past) = &accepted {
        // Not in the condition: the lock would be held through the body.
        let waiting = lock(&shared.runs).withdraw(&run);
        if let Some(job) = waiting {
            return lane::repeat_past(shared, &job, past);
        }
    }
    drop(name.send(accepted));
}

/// Whether the policy lets a peer start another run now; true if that is to be held.
fn allow(shared: &Shared, runs: &Runs, member: &Member, rules: &Rules) -> Result<bool, ErrorShape> {
    if rules.mode == Mode::Deny {
        return Err(denial::forbidden(Rule::Mode));
    }
    if shared.paused.load(Ordering::Relaxed) {
        return Err(denial::paused());
    }
    let may_run = lock(&shared.meters).may_run(&member.key, rules.runs_per_day, now_ms());
    may_run.map_err(|wait| denial::later(Rule::RunsPerDay, rules.runs_per_day, wait))?;
    let is_held = rules.mode == Mode::Approve;
    let active = runs.active(&Who::Peer(member.key.clone()));
    if !is_held && active >= usize::try_from(rules.concurrent_runs).unwrap_or(usize::MAX) {
        return Err(denial::later(Rule::ConcurrentRuns, rules.concurrent_runs, SOON_MS));
    }
    Ok(is_held)
}

fn count(shared: &Shared, who: &Who) {
    if let Some(peer) = who.peer() {
        lock(&shared.meters).ran(peer, now_ms());
    }
}

fn taking(call: &Call<'_>, job: &Job, begins: bool) -> Box<Taking> {
    Box::new(Taking {
        run: Arc::clone(&job.run),
        written: job.written(&job.run.id, job.run.accepted_at),
        begins,
        conn: Arc::clone(call.conn),
        request: call.request.id.clone().into_owned(),
        acknowledgement: acknowledgement(call.conn, &job.run),
    })
}

/// Holds a job until the owner's word. It is acknowledged when it is written down.
fn hold(call: &Call<'_>, mut runs: MutexGuard<'_, Runs>, job: Job) -> Result<Start, ErrorShape> {
    let held = runs.reserve(Uuid::new_v4().to_string(), job, now_ms())?;
    drop(runs);
    count(call.shared, &held.job.run.who);
    let (shared, conn) = (Arc::clone(call.shared), Arc::clone(call.conn));
    let request = call.request.id.clone().into_owned();
    // In a task of its own: a sender who leaves must not leave a run behind that is neither held nor over.
    call.shared.tasks.spawn(async move { write_down(&shared, &conn, &request, held).await });
    Ok(Start::Taken)
}

async fn write_down(shared: &Arc<Shared>, conn: &Conn, request: &str, mut held: HeldRun) {
    let kept = shared.config.ledger.hold(held.written()).await;
    let mut runs = lock(&shared.runs);
    let error = match kept {
        Err(error) => error,
        Ok(Accepted::Known(past)) => {
            let job = runs.give_up(held);
            drop(runs);
            tell_known(conn, request, &job.run, &past);
            return lane::repeat_past(shared, &job, &past);
        }
        Ok(Accepted::New(name)) => {
            held.kept = name;
            let mut ack = acknowledgement(conn, &held.job.run);
            ack["held"] = json!(true);
            // Under the lock: the owner cannot let it run before its sender is told that it is held.
            reply(conn, request, &Ok(ack));
            runs.hold(held);
            return;
        }
    };
    tracing::error!(%error, "a message that is to be held could not be kept");
    let mut job = runs.give_up(held);
    drop(runs);
    job.reply_to = None;
    let why = "the message could not be kept for its owner";
    lane::finish(shared, job, &Outcome::Failed(why.to_owned()));
    reply(conn, request, &Err(ErrorShape::new("UNAVAILABLE", why)));
}

/// A key that the table of runs knows. As at the real gateway, `agent` does not compare the input.
fn repeat(runs: &Runs, run: &Run, known: &Arc<Run>) -> Result<Start, ErrorShape> {
    let same_input = known.digest == run.digest && known.session == run.session;
    if known.who != run.who || (run.origin == Origin::Chat && !same_input) {
        return Err(conflict());
    }
    let running = || Start::Running { run: Arc::clone(known), held: runs.is_held(known) };
    Ok(known.done().map_or_else(running, Start::Over))
}

/// A key that only the history knows: answered from there. What it does not tell is not found out by a second turn.
fn remember(run: &Run, past: Past) -> Result<Start, ErrorShape> {
    if past.who != run.who || (run.origin == Origin::Chat && !past.same_input) {
        return Err(conflict());
    }
    let Some(reply) = past.reply else {
        let error =
            ErrorShape::invalid("the run of this idempotencyKey ended without a reply; use a new key");
        return Err(error.with_details(json!({ "reason": "run-over" })));
    };
    Ok(Start::Over(Arc::new(Done::new(&run.id, Outcome::Reply(reply), 0, past.ts))))
}

/// Somebody's key is nobody else's: it would give him the reply.
pub(crate) fn conflict() -> ErrorShape {
    ErrorShape::invalid("idempotencyKey was used with other input")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

fn acknowledgement(conn: &Conn, run: &Run) -> Value {
    match run.origin {
        Origin::Agent => json!({
            "runId": run.id, "sessionKey": conn.shown(&run.session), "agentId": AGENT_ID, "status": "accepted",
            "acceptedAt": run.accepted_at,
        }),
        Origin::Chat => json!({ "runId": run.id, "status": "started" }),
    }
}
