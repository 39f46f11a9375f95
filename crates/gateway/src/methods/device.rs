//! `device.pair.*`: who waits, who is in.

use std::io;
use std::sync::Arc;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::event::PairResolved;
use openclaw_protocol::methods::device::{PairApprove, PairReject, PairRemove};
use serde_json::{Value, json};

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
    let approved = call.params().and_then(|params: PairApprove| {
        let mut pairing = lock(&call.shared.pairing);
        let device = pairing.approve(&params.request_id, &call.conn.granted, now())?;
        Ok((params.request_id, device.claim.device_id.clone(), device.row()))
    });
    let (request_id, device_id, row) = match approved {
        Ok(approved) => approved,
        Err(error) => return Step::Now(Err(error)),
    };
    let shared = Arc::clone(call.shared);
    Step::Later(Box::pin(async move {
        shared.save().await.map_err(|error| not_saved(&error))?;
        resolved(&shared, &request_id, &device_id, "approved");
        Ok(json!({ "requestId": request_id, "device": row }))
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
    let removed = call.params().and_then(|params: PairRemove| {
        lock(&call.shared.pairing).remove(&params.device_id)?;
        Ok(params.device_id)
    });
    let device_id = match removed {
        Ok(device_id) => device_id,
        Err(error) => return Step::Now(Err(error)),
    };
    lock(&call.shared.peers).close_device(&device_id);
    let shared = Arc::clone(call.shared);
    Step::Later(Box::pin(async move {
        shared.save().await.map_err(|error| not_saved(&error))?;
        Ok(json!({ "deviceId": device_id }))
    }))
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
