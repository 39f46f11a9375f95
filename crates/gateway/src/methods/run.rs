//! `agent`, `agent.wait`, `chat.send`: runs.

use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::methods::agent::{Agent, AgentAck, AgentWait, AgentWaited};
use openclaw_protocol::methods::chat::ChatSend;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::timeout;

use super::admission::{Start, admit};
use super::{Call, Step, json as to_json};
use crate::agent::Sender;
use crate::conn::Conn;
use crate::denial::{self, Rule};
use crate::keys::AGENT_ID;
use crate::memory::End;
use crate::runs::{Job, Origin, Run, Stage, provenance_texts};
use crate::secret::sha256;
use crate::shared::{Shared, lock, now_ms};
use crate::taking::Keeping;

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
    let admitted = agent_job(call).and_then(|(job, before)| admit(call, job, before));
    match admitted {
        Ok(Start::Taken) => Step::Answered,
        Ok(Start::Running { run, held }) => Step::Now(to_json(&AgentAck {
            run_id: run.id.clone(),
            status: "in_flight".to_owned(),
            session_key: Some(call.conn.shown(&run.session)),
            agent_id: Some(AGENT_ID.to_owned()),
            accepted_at: None,
            held: held.then_some(true),
        })),
        Ok(Start::Over(done)) => {
            if let Ok(text) = done.answer(&call.request.id) {
                call.conn.outbox.answer(text);
            }
            Step::Answered
        }
        Err(error) => Step::Now(Err(error)),
    }
}

/// A job, and the session in which its sender may have started it before his device had a name here.
type Asked = (Job, Option<String>);

fn agent_job(call: &Call<'_>) -> Result<Asked, ErrorShape> {
    let params: Agent = call.params()?;
    refuse_attachments(call)?;
    if params.message.is_empty() {
        return Err(call.invalid(&"at /message: must NOT have fewer than 1 characters"));
    }
    let place = call.target(params.session_key.as_deref(), params.agent_id.as_deref())?;
    if let Some(provenance) = &params.input_provenance
        && provenance_texts(provenance).any(|text| text.chars().count() > MAX_PROVENANCE)
    {
        return Err(call.invalid(&"at /inputProvenance: must NOT have more than 256 characters"));
    }
    // Seconds, and 0 is no limit of the caller's; ours holds anyway.
    let limit = params.timeout.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    let mut job = job(call, Origin::Agent, params.idempotency_key, place.key, params.message)?;
    job.provenance = params.input_provenance;
    job.timeout = bounded(call, limit);
    job.reply_to = Some((Arc::clone(&call.conn.outbox), call.request.id.clone().into_owned()));
    Ok((job, place.earlier))
}

/// Starts a turn whose reply is told by events and history only. Runs never merge, and `/text` is text.
pub(super) fn chat_send(call: &Call<'_>) -> Step {
    match chat_job(call).and_then(|(job, before)| admit(call, job, before)) {
        Ok(Start::Taken) => Step::Answered,
        Ok(Start::Running { run, .. }) => Step::Now(Ok(json!({ "runId": run.id, "status": "in_flight" }))),
        Ok(Start::Over(done)) => Step::Now(Ok(done.chat_ack())),
        Err(error) => Step::Now(Err(error)),
    }
}

fn chat_job(call: &Call<'_>) -> Result<Asked, ErrorShape> {
    let params: ChatSend = call.params()?;
    let extras = refuse_attachments(call)?;
    if params.message.contains('\0') {
        return Err(ErrorShape::invalid("message must not contain null bytes"));
    }
    if params.message.trim().is_empty() {
        return Err(ErrorShape::invalid("message or attachment required"));
    }
    let place = call.session(&params.session_key)?;
    let limit = extras.timeout_ms.filter(|&ms| ms > 0).map(Duration::from_millis);
    let mut job = job(call, Origin::Chat, params.idempotency_key, place.key, params.message)?;
    job.timeout = bounded(call, limit);
    Ok((job, place.earlier))
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
    if let Some(rules) = call.conn.rules()
        && message.len() > rules.message_bytes
    {
        return Err(denial::too_much(Rule::MessageBytes, rules.message_bytes));
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
            display_name: call.conn.client.display_name.clone(),
        },
        client: call.conn.shown_client(),
        timeout: None,
        reply_to: None,
        kept: Keeping::default(),
        earlier: None,
        stage: Stage::Waits,
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
    let (shared, conn) = (Arc::clone(call.shared), Arc::clone(call.conn));
    Step::Later(
        permit,
        Box::pin(async move {
            let expired = AgentWaited {
                run_id: Some(params.run_id.clone()),
                status: "timeout".to_owned(),
                ..AgentWaited::default()
            };
            let found = {
                let runs = lock(&shared.runs);
                conn.all_who().find_map(|who| runs.find(&params.run_id, &who))
            };
            let Some(run) = found else {
                if let Some(waited) = ended_before(&shared, &conn, &params.run_id).await {
                    return to_json(&waited);
                }
                tokio::time::sleep(limit).await;
                return to_json(&expired);
            };
            let done = timeout(limit, run.wait()).await.ok().flatten();
            to_json(&done.map_or(expired, |done| done.waited()))
        }),
    )
}

/// How a run ended that is not in the table any more: its sender may have waited for it when this gateway was killed, or
/// asks late.
async fn ended_before(shared: &Shared, conn: &Conn, run_id: &str) -> Option<AgentWaited> {
    let past = shared.config.memory.run(run_id).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "what became of a run cannot be looked up");
        None
    })?;
    let is_his = conn.all_who().any(|who| who.peer().is_none_or(|key| key == past.from));
    if !is_his || past.end == End::Open {
        return None;
    }
    let mut waited = past.done().waited();
    // All of it: the history may have forgotten the reply, and then nothing else tells it.
    if let (End::Replied(whole), Some(reply)) = (past.end, &mut waited.terminal_reply) {
        reply.text = Some(whole);
    }
    Some(waited)
}
