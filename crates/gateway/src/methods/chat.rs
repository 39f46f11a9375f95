//! Sessions: `chat.history`, `chat.abort`, `sessions.*`.

use std::sync::Arc;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::frame::encode_response;
use openclaw_protocol::methods::chat::{ChatAbort, ChatHistory};
use openclaw_protocol::methods::sessions::MessagesSubscribe;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Call, Step, inbox};
use crate::lane;
use crate::runs::Run;
use crate::sessions::{Page, Shown};
use crate::shared::{Shared, lock, now_ms};

/// Rows of `sessions.list` when no limit is given.
const DEFAULT_SESSIONS: usize = 100;

/// What stands in a session, and what waits to stand there.
pub(super) fn history(call: &Call<'_>) -> Step {
    match history_text(call) {
        Ok(text) => {
            call.conn.outbox.answer(text);
            Step::Answered
        }
        Err(error) => Step::Now(Err(error)),
    }
}

/// The whole answer, written while the sessions are locked: nothing of them is copied.
fn history_text(call: &Call<'_>) -> Result<String, ErrorShape> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct History<'a> {
        session_key: &'a str,
        session_id: Option<&'a str>,
        has_more: bool,
        total_messages: usize,
        messages: &'a [Shown<'a>],
        pending_inputs: Value,
        session_info: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        in_flight_run: Option<Value>,
    }
    let params: ChatHistory = call.params()?;
    let place = call.session(&params.session_key)?;
    // First what waits, then the rows: a run that starts in between is seen twice rather than not at all.
    let (mut current, mut queued) = (None, Vec::new());
    for key in place.keys() {
        let (run, waiting) = lock(&call.shared.runs).of_session(key);
        current = current.or(run);
        queued.extend(waiting);
    }
    let page = Page { limit: params.limit, max_chars: params.max_chars };
    let waiting: Vec<Value> = queued.iter().map(|(run, is_held)| waiting(run, *is_held)).collect();
    let shown = call.conn.shown(&place.key);
    let in_flight = |run: &Arc<Run>| json!({ "runId": run.id, "text": "", "startedAt": run.accepted_at });
    let sessions = lock(&call.shared.sessions);
    let rows = sessions.pages(place.keys(), page);
    let history = History {
        session_key: &shown,
        session_id: rows.session_id.as_deref(),
        has_more: rows.messages.len() < rows.total,
        total_messages: rows.total,
        messages: &rows.messages,
        pending_inputs: json!({ "total": waiting.len(), "items": waiting }),
        session_info: json!({ "key": shown, "hasActiveRun": current.is_some() }),
        in_flight_run: current.as_ref().map(in_flight),
    };
    encode_response(&call.request.id, Some(&history), None)
        .map_err(|error| ErrorShape::invalid(format!("the history cannot be written: {error}")))
}

/// A run that has not begun. To clients that know nothing of the owner's word it is queued.
fn waiting(run: &str, is_held: bool) -> Value {
    let mut row = json!({ "runId": run, "state": "queued" });
    if is_held {
        row["held"] = json!(true);
    }
    row
}

/// Stops runs.
pub(super) fn abort(call: &Call<'_>) -> Answer {
    let params: ChatAbort = call.params()?;
    let place = call.session(&params.session_key)?;
    let (run, mut runs) = (params.run_id.as_deref(), Vec::new());
    for (who, key) in
        call.conn.all_who().zip([Some(&place.key), place.earlier.as_ref()].into_iter().flatten())
    {
        // A peer stops what he started, not what the owner has started in his session.
        runs.extend(abort_session(call.shared, key, run, who.peer()));
        runs.extend(inbox::withdraw(call.shared, key, run, who.peer()));
    }
    Ok(json!({ "ok": true, "aborted": !runs.is_empty(), "runIds": runs }))
}

/// Stops one run of a session, or all of them, or all of a peer; gives their ids.
pub(crate) fn abort_session(
    shared: &Arc<Shared>,
    session: &str,
    run: Option<&str>,
    by: Option<&str>,
) -> Vec<String> {
    let (waiting, current) = lock(&shared.runs).abort(session, |other| is_wanted(other, run, by));
    let mut ids: Vec<String> = current.into_iter().collect();
    for job in waiting {
        ids.push(job.run.id.clone());
        lane::stop_waiting(shared, job);
    }
    ids
}

/// Stops a run of a peer, also one that is held.
pub(crate) fn abort_run(shared: &Arc<Shared>, run: &Run, by: &str) {
    abort_session(shared, &run.session, Some(&run.id), Some(by));
    inbox::withdraw(shared, &run.session, Some(&run.id), Some(by));
}

/// Whether somebody wants a run to stop who named a run, or all, or all of a peer.
pub(super) fn is_wanted(other: &Run, run: Option<&str>, by: Option<&str>) -> bool {
    run.is_none_or(|id| id == other.id) && by.is_none_or(|key| other.who.peer() == Some(key))
}

/// The sessions, the last used first.
pub(super) fn sessions(call: &Call<'_>) -> Answer {
    #[derive(Deserialize)]
    struct Params {
        #[serde(default)]
        limit: Option<usize>,
        #[serde(default)]
        offset: Option<usize>,
    }
    let params: Params = call.params()?;
    let all = lock(&call.shared.sessions).summaries();
    let (limit, offset) = (params.limit.unwrap_or(DEFAULT_SESSIONS), params.offset.unwrap_or(0));
    let total = all.len();
    let page: Vec<_> = all.into_iter().skip(offset).take(limit).collect();
    let next = offset + page.len();
    let mut payload = json!({
        "ts": now_ms(), "count": page.len(), "totalCount": total, "limitApplied": limit,
        "hasMore": next < total, "sessions": page,
    });
    if next < total {
        payload["nextOffset"] = json!(next);
    }
    Ok(payload)
}

/// From now on this connection hears the session.
pub(super) fn subscribe(call: &Call<'_>) -> Answer {
    let params: MessagesSubscribe = call.params()?;
    let place = call.session(&params.key)?;
    let max = call.shared.config.limits.subscriptions;
    // Under its earlier name nothing new begins in a session.
    let is_busy = |key: &&str| *key == place.key || lock(&call.shared.runs).of_session(key).0.is_some();
    let keys: Vec<&str> = place.keys().filter(is_busy).collect();
    let mut peers = lock(&call.shared.peers);
    if !keys.iter().all(|key| peers.subscribe(call.conn.number, key, max)) {
        return Err(ErrorShape::invalid(format!("a connection may subscribe to {max} sessions")));
    }
    drop(peers);
    Ok(json!({ "subscribed": true, "key": call.conn.shown(&place.key) }))
}
