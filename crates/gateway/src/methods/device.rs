//! `device.pair.*`: who waits, who is in.

use std::io;
use std::sync::Arc;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::event::PairResolved;
use openclaw_protocol::methods::device::{PairApprove, PairReject, PairRemove};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Call, Step};
use crate::shared::{Shared, lock, now, now_ms};

/// All devices.
pub(super) fn list(shared: &Shared) -> Value {
    let (pending, mut paired) = {
        let mut pairing = lock(&shared.pairing);
        let paired: Vec<Value> = pairing.devices().map(|device| device.row()).collect();
        (pairing.pending_rows(now()), paired)
    };
    let peers = lock(&shared.peers);
    for row in &mut paired {
        row["connected"] = json!(row["deviceId"].as_str().is_some_and(|id| peers.is_connected(id)));
    }
    json!({ "pending": pending, "paired": paired })
}

/// Lets a device in, and answers when that is durable.
pub(super) fn approve(call: &Call<'_>) -> Step {
    try_approve(call).unwrap_or_else(|error| Step::Now(Err(error)))
}

fn try_approve(call: &Call<'_>) -> Result<Step, ErrorShape> {
    let params: PairApprove = call.params()?;
    let permit = call.permit()?;
    let (device_id, row) = {
        let mut pairing = lock(&call.shared.pairing);
        let device = pairing.approve(&params.request_id, &call.conn.granted, now())?;
        (device.claim.device_id.clone(), device.row())
    };
    // Before it is answered: who it is may have to be looked up, and its first call may be close behind the answer.
    call.shared.approvals.notify_one();
    Ok(once_saved(call, permit, move |shared| {
        resolved(shared, &params.request_id, &device_id, "approved");
        json!({ "requestId": params.request_id, "device": row })
    }))
}

/// Turns a request down.
pub(super) fn reject(call: &Call<'_>) -> Answer {
    let params: PairReject = call.params()?;
    let device_id = lock(&call.shared.pairing).reject(&params.request_id, now())?;
    resolved(call.shared, &params.request_id, &device_id, "rejected");
    Ok(json!({ "requestId": params.request_id, "deviceId": device_id }))
}

/// Forgets a device: it is out at once, and answers when that is durable.
pub(super) fn remove(call: &Call<'_>) -> Step {
    try_remove(call).unwrap_or_else(|error| Step::Now(Err(error)))
}

fn try_remove(call: &Call<'_>) -> Result<Step, ErrorShape> {
    let params: PairRemove = call.params()?;
    let permit = call.permit()?;
    lock(&call.shared.pairing).remove(&params.device_id)?;
    lock(&call.shared.peers).close_device(&params.device_id);
    Ok(once_saved(call, permit, move |_| json!({ "deviceId": params.device_id })))
}

/// Answers when the device list is durable.
fn once_saved<F>(call: &Call<'_>, permit: OwnedSemaphorePermit, answer: F) -> Step
where
    F: FnOnce(&Shared) -> Value + Send + 'static,
{
    let shared = Arc::clone(call.shared);
    // In a task of its own: a caller that leaves must not cancel what holds already, or a restart would undo it.
    let task = call.shared.tasks.spawn(async move {
        shared.save().await.map_err(|error| not_saved(&error))?;
        Ok(answer(&shared))
    });
    Step::Later(
        permit,
        Box::pin(async move { task.await.unwrap_or_else(|error| Err(not_saved(&io::Error::other(error)))) }),
    )
}

fn resolved(shared: &Shared, request_id: &str, device_id: &str, decision: &str) {
    let payload = PairResolved {
        request_id: request_id.to_owned(),
        device_id: device_id.to_owned(),
        decision: decision.to_owned(),
        ts: now_ms(),
    };
    shared.tell_approvers("device.pair.resolved", &payload);
}

/// The change holds until the next start; the caller has to know that it does not survive it.
fn not_saved(error: &io::Error) -> ErrorShape {
    tracing::error!(%error, "cannot save the device list");
    ErrorShape::new(
        "UNAVAILABLE",
        "the change holds until a restart only: the device list could not be saved",
    )
}
