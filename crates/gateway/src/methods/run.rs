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
use crate::outcome::{Done, Outcome};
use crate::runs::{Admission, Job, Origin, Run, provenance_texts};
use crate::secret::sha256;
use crate::sessions::Past;
use crate::shared::{lock, now_ms};

/// `agent.wait` without a limit waits so long.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Longest idempotency key, in characters; a UUID has 36.
const MAX_KEY: usize = 512;
/// Longest text of an `inputProvenance`, in characters: it is kept with the message and shown with it.
const MAX_PROVENANCE: usize = 256;

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
        Ok(Start::Queued) => Step::Answered,
        Ok(Start::Running(run)) => Step::Now(to_json(&AgentAck {
            run_id: run.id.clone(),
            status: "in_flight".to_owned(),
            session_key: Some(run.session.clone()),
            agent_id: Some(AGENT_ID.to_owned()),
            accepted_at: None,
        })),
        Ok(Start::Over(done)) => {
            let text = encode_response(&call.request.id, done.payload.as_deref(), done.error.as_ref());
            if let Ok(text) = text {
                call.conn.outbox.answer(text);
            }
            Step::Answered
        }
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
    if let Some(provenance) = &params.input_provenance
        && provenance_texts(provenance).any(|text| text.chars().count() > MAX_PROVENANCE)
    {
        return Err(call.invalid(&"at /inputProvenance: must NOT have more than 256 characters"));
    }
    // Seconds, and 0 is no limit of the caller's; ours holds anyway.
    let limit = params.timeout.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    let mut job = job(call, Origin::Agent, params.idempotency_key, session, params.message)?;
    job.provenance = params.input_provenance;
    job.timeout = bounded(call, limit);
    job.reply_to = Some((Arc::clone(&call.conn.outbox), call.request.id.clone().into_owned()));
    Ok(job)
}

/// Starts a turn whose reply is told by events and history only. Runs never merge, and `/text` is text.
pub(super) fn chat_send(call: &Call<'_>) -> Step {
    match chat_job(call).and_then(|job| admit(call, job)) {
        Ok(Start::Queued) => Step::Answered,
        Ok(Start::Running(run)) => Step::Now(Ok(json!({ "runId": run.id, "status": "in_flight" }))),
        Ok(Start::Over(done)) => Step::Now(Ok(done.chat_ack.clone())),
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
    if !is_key(&key) {
        return Err(call.invalid(&"at /idempotencyKey: must be 1 to 512 printable characters"));
    }
    let client = &call.conn.client;
    let mut shown = json!({ "id": client.id, "mode": client.mode });
    if let Some(name) = &client.display_name {
        shown["displayName"] = json!(name);
    }
    let digest = sha256(message.as_bytes());
    let who = call.conn.who();
    Ok(Job {
        run: Arc::new(Run::new(key, origin, session, who, digest, now_ms())),
        message,
        provenance: None,
        sender: Sender {
            principal: call.conn.principal.clone(),
            device_id: call.conn.device.clone(),
            display_name: client.display_name.clone(),
        },
        client: shown,
        timeout: None,
        reply_to: None,
    })
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().count() <= MAX_KEY && !key.chars().any(char::is_control)
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

/// What a request to run has led to.
enum Start {
    /// It waits, and has been acknowledged.
    Queued,
    /// Its key is that of a run which is not over.
    Running(Arc<Run>),
    /// Its key is that of a run which is.
    Over(Arc<Done>),
}

/// Queues a job and acknowledges it; or finds the run that had its key before, and never runs that again.
fn admit(call: &Call<'_>, job: Job) -> Result<Start, ErrorShape> {
    let run = Arc::clone(&job.run);
    let now = Instant::now();
    // Held to the end: a run cannot end in between, and the acknowledgement is queued before its lane can answer.
    let mut runs = lock(&call.shared.runs);
    if let Some(known) = runs.known(&run, now) {
        return repeat(&run, &known);
    }
    if let Some(past) = lock(&call.shared.sessions).past(&run, &job.message) {
        return remember(&run, past);
    }
    match runs.admit(job, now) {
        Admission::Queued { starts_lane } => {
            reply(call.conn, &call.request.id, &Ok(acknowledgement(&run)));
            drop(runs);
            if starts_lane {
                start_lane(call.shared, run.session.clone());
            }
            Ok(Start::Queued)
        }
        Admission::Known(known) => repeat(&run, &known),
        Admission::Refused(error) => Err(error),
    }
}

/// A key that the table of runs knows. As at the real gateway, `agent` does not compare the input.
fn repeat(run: &Run, known: &Arc<Run>) -> Result<Start, ErrorShape> {
    let same_input = known.digest == run.digest && known.session == run.session;
    if known.who != run.who || (run.origin == Origin::Chat && !same_input) {
        return Err(conflict());
    }
    Ok(known.done().map_or_else(|| Start::Running(Arc::clone(known)), Start::Over))
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
    Ok(Start::Over(Arc::new(Done::new(&run.id, &Outcome::Reply(reply), 0, past.ts))))
}

/// Somebody's key is nobody else's: it would give him the reply.
fn conflict() -> ErrorShape {
    ErrorShape::invalid("idempotencyKey was used with other input")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

fn acknowledgement(run: &Run) -> Value {
    match run.origin {
        Origin::Agent | Origin::A2a => json!({
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
    // It is kept while we wait.
    if !is_key(&params.run_id) {
        return Step::Now(Err(call.invalid(&"at /runId: must be 1 to 512 printable characters")));
    }
    let permit = match call.permit() {
        Ok(permit) => permit,
        Err(error) => return Step::Now(Err(error)),
    };
    let limit = params.timeout_ms.map_or(DEFAULT_WAIT, Duration::from_millis);
    let limit = limit.min(call.shared.config.timing.run);
    let shared = Arc::clone(call.shared);
    Step::Later(
        permit,
        Box::pin(async move {
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
        }),
    )
}
