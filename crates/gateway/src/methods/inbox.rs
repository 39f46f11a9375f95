//! `mesh.*`: the owner's word on messages that are held, and on whether any new ones come in. Not the protocol of
//! OpenClaw: ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::methods::inbox::{InboxApprove, InboxReject, InboxShow};
use serde_json::{Value, json};

use super::chat::is_wanted;
use super::{Answer, Call, Step};
use crate::gateway::start_lane;
use crate::lane;
use crate::ledger::Decision;
use crate::outcome::Outcome;
use crate::runs::HeldRun;
use crate::shared::{Shared, lock};

/// So many characters of a message are shown in the list.
const PREVIEW: usize = 1000;

/// What is held, oldest first.
pub(super) fn list(shared: &Shared) -> Value {
    let held: Vec<Value> = lock(&shared.runs).held().iter().map(row).collect();
    json!({ "paused": shared.paused.load(Ordering::Relaxed), "held": held })
}

fn row(held: &HeldRun) -> Value {
    let (job, run) = (&held.job, &held.job.run);
    let member = job.sender.principal.peer();
    json!({
        "id": held.id, "runId": run.id, "session": run.session, "since": held.since,
        "from": {
            "key": job.sender.principal.key(), "name": member.map(|member| &member.name),
            "deviceId": job.sender.device_id,
        },
        "bytes": job.message.len(), "preview": job.message.chars().take(PREVIEW).collect::<String>(),
    })
}

/// One held message as a whole.
pub(super) fn show(call: &Call<'_>) -> Answer {
    let params: InboxShow = call.params()?;
    let runs = lock(&call.shared.runs);
    let held = runs.held().iter().find(|held| held.id == params.id).ok_or_else(unknown)?;
    let mut row = row(held);
    row["message"] = json!(held.job.message);
    Ok(row)
}

/// Lets a held message run. Answers when that is durable.
pub(super) fn approve(call: &Call<'_>) -> Step {
    decide(call, |call| Ok(call.params::<InboxApprove>()?.id), Decision::Approved)
        .unwrap_or_else(|error| Step::Now(Err(error)))
}

/// Turns a held message down: its run fails.
pub(super) fn reject(call: &Call<'_>) -> Step {
    decide(call, |call| Ok(call.params::<InboxReject>()?.id), Decision::Rejected)
        .unwrap_or_else(|error| Step::Now(Err(error)))
}

fn decide(
    call: &Call<'_>,
    id: impl FnOnce(&Call<'_>) -> Result<String, ErrorShape>,
    decision: Decision,
) -> Result<Step, ErrorShape> {
    let id = id(call)?;
    let permit = call.permit()?;
    let held = {
        let mut all = lock(&call.shared.runs);
        if decision == Decision::Approved {
            all.is_open()?;
        }
        all.take_held(&id).ok_or_else(unknown)?
    };
    let shared = Arc::clone(call.shared);
    // In a task of its own: an owner who leaves must not leave a message behind that is neither held nor decided.
    let task = call.shared.tasks.spawn(async move { settle(&shared, held, decision).await });
    Ok(Step::Later(
        permit,
        Box::pin(async move { task.await.unwrap_or_else(|error| Err(not_kept(&io::Error::other(error)))) }),
    ))
}

/// Writes the decision down before it has effect: a message that runs is not held again after a crash.
async fn settle(shared: &Arc<Shared>, held: HeldRun, decision: Decision) -> Answer {
    if let Err(error) = shared.config.ledger.decided(held.id.clone(), decision).await {
        lock(&shared.runs).hold(held);
        return Err(not_kept(&error));
    }
    let (run, runs) = (Arc::clone(&held.job.run), decision == Decision::Approved);
    let answer = json!({
        "id": held.id, "runId": run.id, "session": run.session,
        "from": held.job.sender.principal.key(), "status": if runs { "approved" } else { "rejected" },
    });
    if !runs {
        let job = lock(&shared.runs).give_up(held);
        lane::finish(shared, job, &Outcome::Failed("rejected by its owner".to_owned()));
    } else if lock(&shared.runs).let_in(held) {
        start_lane(shared, run.session.clone(), None);
    }
    Ok(answer)
}

/// Takes held runs back whose sender wants them no more; gives their ids.
pub(super) fn withdraw(
    shared: &Arc<Shared>,
    session: &str,
    run: Option<&str>,
    by: Option<&str>,
) -> Vec<String> {
    let taken: Vec<HeldRun> = {
        let mut all = lock(&shared.runs);
        let of_session = all.held().iter().filter(|held| held.job.run.session == session);
        let wanted = of_session.filter(|held| is_wanted(&held.job.run, run, by));
        let ids: Vec<String> = wanted.map(|held| held.id.clone()).collect();
        ids.iter().filter_map(|id| all.take_held(id)).collect()
    };
    let mut ids = Vec::new();
    for held in taken {
        let id = held.id.clone();
        let job = lock(&shared.runs).give_up(held);
        ids.push(job.run.id.clone());
        lane::finish(shared, job, &Outcome::Aborted);
        let shared = Arc::clone(shared);
        shared.tasks.clone().spawn(async move {
            if let Err(error) = shared.config.ledger.decided(id, Decision::Withdrawn).await {
                tracing::error!(%error, "a withdrawn message may be held again after a restart");
            }
        });
    }
    ids
}

/// Pauses the door, or opens it again. Answers when that is durable.
pub(super) fn pause(call: &Call<'_>, paused: bool) -> Step {
    let permit = match call.permit() {
        Ok(permit) => permit,
        Err(error) => return Step::Now(Err(error)),
    };
    let shared = Arc::clone(call.shared);
    Step::Later(
        permit,
        Box::pin(async move {
            shared.config.ledger.pause(paused).await.map_err(|error| not_kept(&error))?;
            shared.paused.store(paused, Ordering::Relaxed);
            Ok(json!({ "paused": paused }))
        }),
    )
}

fn unknown() -> ErrorShape {
    ErrorShape::invalid("no such message is held")
}

fn not_kept(error: &io::Error) -> ErrorShape {
    tracing::error!(%error, "a decision could not be kept");
    ErrorShape::new("UNAVAILABLE", "the decision could not be kept, and changes nothing")
}
