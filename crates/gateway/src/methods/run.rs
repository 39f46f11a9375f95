//! `agent`, `agent.wait`, `chat.send`: runs.

use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::frame::encode_response;
use openclaw_protocol::methods::agent::{Agent, AgentAck, AgentWait, AgentWaited};
use openclaw_protocol::methods::chat::ChatSend;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{Call, Step, json as to_json, reply};
use crate::agent::Sender;
use crate::gateway::start_lane;
use crate::keys::{AGENT_ID, full_key, target};
use crate::runs::{Admission, Job, Origin, Run};
use crate::secret::sha256;
use crate::shared::{lock, now_ms};

/// `agent.wait` without a limit waits so long.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Longest idempotency key, in characters; a UUID has 36.
const MAX_KEY: usize = 512;

/// What the protocol's types do not hold, because our own client never sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extras {
    #[serde(default)]
    attachments: Vec<IgnoredAny>,
    /// `chat.send` only: milliseconds.
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Starts a turn; the second answer comes from its lane.
pub(super) fn agent(call: &Call<'_>) -> Step {
    let admitted = agent_job(call).and_then(|job| admit(call, job));
    match admitted {
        Ok(None) => Step::Answered,
        Ok(Some(known)) => repeat_agent(call, &known),
        Err(error) => Step::Now(Err(error)),
    }
}

fn agent_job(call: &Call<'_>) -> Result<Job, ErrorShape> {
    let params: Agent = call.params()?;
    refuse_attachments(call)?;
    if params.message.is_empty() {
        return Err(call.invalid(&"at /message: must NOT have fewer than 1 characters"));
    }
    let session = target(params.session_key.as_deref(), params.agent_id.as_deref())?;
    // Seconds, and 0 is no limit of the caller's; ours holds anyway.
    let limit = params.timeout.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    let mut job = job(call, Origin::Agent, params.idempotency_key, session, params.message)?;
    job.provenance = params.input_provenance;
    job.timeout = bounded(call, limit);
    job.reply_to = Some((Arc::clone(&call.conn.outbox), call.request.id.clone().into_owned()));
    Ok(job)
}

/// A known key: still running, or answered from memory. The input is not compared, as at the real gateway.
fn repeat_agent(call: &Call<'_>, run: &Run) -> Step {
    let Some(done) = run.done() else {
        return Step::Now(to_json(&AgentAck {
            run_id: run.id.clone(),
            status: "in_flight".to_owned(),
            session_key: Some(run.session.clone()),
            agent_id: Some(AGENT_ID.to_owned()),
            accepted_at: None,
        }));
    };
    if let Ok(text) = encode_response(&call.request.id, done.payload.as_deref(), done.error.as_ref()) {
        call.conn.outbox.answer(text);
    }
    Step::Answered
}

/// Starts a turn whose reply is told by events and history only. Runs never merge, and `/text` is text.
pub(super) fn chat_send(call: &Call<'_>) -> Step {
    let job = match chat_job(call) {
        Ok(job) => job,
        Err(error) => return Step::Now(Err(error)),
    };
    let (digest, session) = (job.run.digest, job.run.session.clone());
    match admit(call, job) {
        Ok(None) => Step::Answered,
        Ok(Some(known)) if known.digest != digest || known.session != session => {
            let error = ErrorShape::invalid("idempotencyKey was used with other input");
            Step::Now(Err(error.with_details(json!({ "reason": "chat-request-conflict" }))))
        }
        Ok(Some(known)) => Step::Now(Ok(match known.done() {
            Some(done) => done.chat_ack.clone(),
            None => json!({ "runId": known.id, "status": "in_flight" }),
        })),
        Err(error) => Step::Now(Err(error)),
    }
}

fn chat_job(call: &Call<'_>) -> Result<Job, ErrorShape> {
    let params: ChatSend = call.params()?;
    let extras = refuse_attachments(call)?;
    if params.message.contains('\0') {
        return Err(ErrorShape::invalid("message must not contain null bytes"));
    }
    if params.message.trim().is_empty() {
        return Err(ErrorShape::invalid("message or attachment required"));
    }
    let session = full_key(&params.session_key)?;
    let limit = extras.timeout_ms.filter(|&ms| ms > 0).map(Duration::from_millis);
    let mut job = job(call, Origin::Chat, params.idempotency_key, session, params.message)?;
    job.timeout = bounded(call, limit);
    Ok(job)
}

fn job(
    call: &Call<'_>,
    origin: Origin,
    key: String,
    session: String,
    message: String,
) -> Result<Job, ErrorShape> {
    if key.is_empty() || key.chars().count() > MAX_KEY || key.chars().any(char::is_control) {
        return Err(call.invalid(&"at /idempotencyKey: must be 1 to 512 printable characters"));
    }
    let client = &call.conn.client;
    let mut shown = json!({ "id": client.id, "mode": client.mode });
    if let Some(name) = &client.display_name {
        shown["displayName"] = json!(name);
    }
    let digest = sha256(message.as_bytes());
    Ok(Job {
        run: Arc::new(Run::new(key, origin, session, digest, now_ms())),
        message,
        provenance: None,
        sender: Sender { device_id: call.conn.device.clone(), display_name: client.display_name.clone() },
        client: shown,
        timeout: None,
        reply_to: None,
    })
}

/// Silently dropping what the agent should see would be worse than refusing it.
fn refuse_attachments(call: &Call<'_>) -> Result<Extras, ErrorShape> {
    let extras: Extras = call.params()?;
    if extras.attachments.is_empty() {
        return Ok(extras);
    }
    Err(ErrorShape::invalid("attachments are not supported by this gateway"))
}

/// A caller may shorten a run, not lengthen it.
fn bounded(call: &Call<'_>, limit: Option<Duration>) -> Option<Duration> {
    limit.map(|limit| limit.min(call.shared.config.timing.run))
}

/// Queues a job and acknowledges it; or finds the run that has its key already.
fn admit(call: &Call<'_>, job: Job) -> Result<Option<Arc<Run>>, ErrorShape> {
    let run = Arc::clone(&job.run);
    let ack = acknowledgement(&run);
    // The acknowledgement is queued under the lock: a lane that executes already cannot overtake it.
    let mut runs = lock(&call.shared.runs);
    match runs.admit(job, Instant::now()) {
        Admission::Queued { starts_lane } => {
            reply(call.conn, &call.request.id, &Ok(ack));
            drop(runs);
            if starts_lane {
                start_lane(call.shared, run.session.clone());
            }
            Ok(None)
        }
        Admission::Known(run) => Ok(Some(run)),
        Admission::Refused(error) => Err(error),
    }
}

fn acknowledgement(run: &Run) -> Value {
    match run.origin {
        Origin::Agent => json!({
            "runId": run.id, "sessionKey": run.session, "agentId": AGENT_ID, "status": "accepted",
            "acceptedAt": run.accepted_at,
        }),
        Origin::Chat => json!({ "runId": run.id, "status": "started" }),
    }
}

/// Is this run over? A run that is not known may only be not known yet: that is waited for, too.
pub(super) fn wait(call: &Call<'_>) -> Step {
    let params: AgentWait = match call.params() {
        Ok(params) => params,
        Err(error) => return Step::Now(Err(error)),
    };
    let limit = params.timeout_ms.map_or(DEFAULT_WAIT, Duration::from_millis);
    let limit = limit.min(call.shared.config.timing.run);
    let shared = Arc::clone(call.shared);
    Step::Later(Box::pin(async move {
        let expired = AgentWaited {
            run_id: Some(params.run_id.clone()),
            status: "timeout".to_owned(),
            ..AgentWaited::default()
        };
        let Some(run) = lock(&shared.runs).find(&params.run_id) else {
            tokio::time::sleep(limit).await;
            return to_json(&expired);
        };
        let done = timeout(limit, run.wait()).await.ok().flatten();
        to_json(done.as_ref().map_or(&expired, |done| &done.waited))
    }))
}
