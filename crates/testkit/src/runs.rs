//! Runs: accepted, queued, played, ended, remembered.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::fault::Cut;
use crate::recorded::recorded;
use crate::reply::{Ends, Gate, Outcome, Reply, Turn};
use crate::world::{Out, World};

/// One run of the scripted agent.
pub(crate) struct Run {
    pub id: String,
    pub method: &'static str,
    pub turn: Turn,
    pub reply: Reply,
    pub abort: Gate,
    /// Turns that were merged into this one, and the agent's answers to them; `None`: too late to merge.
    pub merged: Mutex<Option<Vec<(Turn, String)>>>,
    /// `chat.send`: not a run by itself, but waiting for a hidden one.
    pub queued: AtomicBool,
    pub end: watch::Sender<Option<End>>,
    /// Opens when the session's next run may begin.
    pub left: Gate,
    pub origin: Origin,
}

#[derive(Debug, Clone)]
pub(crate) struct End {
    pub outcome: Outcome,
    pub at: Instant,
    pub at_ms: u64,
}

/// Where a run came from, hence who is told.
pub(crate) enum Origin {
    /// A request on this connection; with an id, it gets the second response.
    Request { peer: UnboundedSender<Out>, id: Option<String> },
    /// `chat.send` behind a busy session: a run of its own, under an id that no client knows; the key was this one.
    Queued { key: String },
    /// The gateway itself, after a crash: no new turn in the ledger.
    Recovery,
}

impl Run {
    pub fn new(method: &'static str, id: String, turn: Turn, reply: Reply, origin: Origin) -> Arc<Self> {
        let merged = Mutex::new(Some(Vec::new()));
        let (abort, queued, end) = (Gate::new(), AtomicBool::new(false), watch::Sender::new(None));
        Arc::new(Self { id, method, turn, reply, abort, merged, queued, end, left: Gate::new(), origin })
    }

    /// Adds a turn to this run, unless it has ended.
    pub fn merge(&self, turn: &Turn, answer: String) -> bool {
        let mut merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        merged.as_mut().map(|turns| turns.push((turn.clone(), answer))).is_some()
    }

    pub fn ends_with(&self, world: &World, outcome: Outcome) {
        self.end.send_replace(Some(End { outcome, at: Instant::now(), at_ms: world.now_ms() }));
    }

    pub fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub async fn over(&self) -> Option<End> {
        let mut end = self.end.subscribe();
        end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
    }

    /// The gateway remembers the result (or the run still goes on).
    pub fn is_known(&self, world: &World) -> bool {
        self.end.borrow().as_ref().is_none_or(|end| end.at.elapsed() < world.script.remembers)
    }

    fn tell(&self, out: Out) {
        if let Origin::Request { peer, .. } = &self.origin {
            // The connection may be gone: the run goes on without it.
            let _ = peer.send(out);
        }
    }

    pub fn point(&self, cut: Cut) {
        self.tell(Out::Point(cut, self.method));
    }
}

/// Queues the run behind the session's last one and plays it in a task of its own, whatever becomes of the connection.
pub(crate) fn start(world: &Arc<World>, run: &Arc<Run>) {
    let queueing = world.script.queueing || run.method == "chat.send";
    let previous = world.change(|state| {
        let session = state.session(&run.turn.session_key);
        let previous = session.tail.replace(Arc::clone(run)).filter(|last| queueing && !last.left.is_open());
        session.waiting.push((run.id.clone(), "queued"));
        previous
    });
    let (shared, run) = (Arc::clone(world), Arc::clone(run));
    world.spawn_run(async move {
        if let Some(previous) = previous {
            tokio::select! {
                () = previous.left.opened() => play(&shared, &run).await,
                () = run.abort.opened() => {
                    finish(&shared, &run, Outcome::Aborted);
                    // The runs behind it still wait for the ones before it.
                    previous.left.opened().await;
                }
            }
        } else {
            play(&shared, &run).await;
        }
        run.left.open();
    });
}

async fn play(world: &World, run: &Arc<Run>) {
    if run.abort.is_open() {
        return finish(world, run, Outcome::Aborted);
    }
    begin(world, run);
    let outcome = tokio::select! {
        // An abort wins over an answer that is ready at the same moment.
        biased;
        () = run.abort.opened() => Outcome::Aborted,
        outcome = perform(world, run) => outcome,
    };
    finish(world, run, outcome);
}

fn begin(world: &World, run: &Arc<Run>) {
    let at = world.now_ms();
    world.change(|state| {
        let id = state.new_id();
        let (key, text) = match &run.origin {
            Origin::Request { .. } => (Some(run.id.as_str()), run.turn.message.clone()),
            Origin::Queued { key } => (Some(key.as_str()), run.turn.message.clone()),
            Origin::Recovery => (
                None,
                "[System] Your previous turn was interrupted by a gateway restart. Continue.".to_owned(),
            ),
        };
        if let Some(key) = key {
            state.ledger.record(key, &run.turn.message);
        }
        let session = state.session(&run.turn.session_key);
        session.waiting.retain(|(waiting, _)| *waiting != run.id);
        session.active = Some(Arc::clone(run));
        let collected =
            run.turn.params["queueMode"] == "collect" && matches!(run.origin, Origin::Queued { .. });
        if collected {
            let text = format!("[Queued messages while agent was busy]\n{text}\n(from gateway-client)");
            session.user_row(id, &run.turn, None, text, at);
        } else {
            session.user_row(id, &run.turn, key, text, at);
        }
    });
    if run.method == "chat.send" {
        chat_event(world, run, "status", json!({"phase": "preparing_workspace"}));
    }
    agent_event(world, run, "lifecycle", &json!({"phase": "start", "startedAt": at}));
}

/// The agent at work, up to its answer.
async fn perform(world: &World, run: &Run) -> Outcome {
    pause(run.reply.before).await;
    let mut text = String::new();
    for (n, piece) in run.reply.deltas.iter().enumerate() {
        text.push_str(piece);
        agent_event(world, run, "assistant", &json!({"text": text, "delta": piece}));
        let mut delta = json!({"message": said(&text, world.now_ms())});
        if world.script.protocol > 3 {
            delta["deltaText"] = json!(piece);
        }
        chat_event(world, run, "delta", delta);
        if n == 0 {
            run.point(Cut::MidStream);
        }
        pause(run.reply.between).await;
    }
    if let Some(gate) = &run.reply.gate {
        gate.opened().await;
    }
    match &run.reply.ends {
        Ends::With(outcome) => {
            if run.reply.deltas.is_empty() {
                run.point(Cut::MidStream);
            }
            outcome.clone()
        }
        _ => std::future::pending().await,
    }
}

/// Even `sleep(0)` waits for the timer's next millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn finish(world: &World, run: &Arc<Run>, mut outcome: Outcome) {
    let at_ms = world.now_ms();
    let merged = run.merged.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let texts = match &mut outcome {
        Outcome::Texts(texts) => {
            let mut all = texts.clone();
            all.extend(merged.iter().map(|(_, answer)| answer.clone()));
            // The run's own terminal reply is the answer to the *last* text that was merged into it.
            if let Some((_, answer)) = merged.last() {
                *texts = vec![answer.clone()];
            }
            all
        }
        _ => Vec::new(),
    };
    world.change(|state| {
        let ids: Vec<String> = (0..=2 * merged.len()).map(|_| state.new_id()).collect();
        let mut ids = ids.into_iter();
        let mut id = || ids.next().unwrap_or_default();
        let session = state.session(&run.turn.session_key);
        if let Some(own) =
            texts.get(..texts.len() - merged.len().min(texts.len())).filter(|own| !own.is_empty())
        {
            session.assistant_row(id(), &run.id, own.join("\n"), at_ms);
        }
        for (turn, answer) in &merged {
            session.user_row(id(), turn, Some(&turn.run_id), turn.message.clone(), at_ms);
            session.assistant_row(id(), &run.id, answer.clone(), at_ms);
        }
        session.waiting.retain(|(waiting, _)| *waiting != run.id);
        session.active = session.active.take().filter(|active| active.id != run.id);
    });
    let event = final_event(&outcome, &texts, at_ms);
    if !world.script.event_after_response {
        chat_event(world, run, event.0, event.1.clone());
    }
    run.ends_with(world, outcome.clone());
    if let Origin::Request { id: Some(id), .. } = &run.origin {
        run.tell(Out::Res(second_response(id, &run.id, &outcome)));
    }
    run.point(Cut::AfterFinal);
    if world.script.event_after_response {
        chat_event(world, run, event.0, event.1);
    }
    world.change(|_| ());
}

fn final_event(outcome: &Outcome, texts: &[String], at: u64) -> (&'static str, Value) {
    match outcome {
        Outcome::Texts(_) => {
            ("final", json!({"stopReason": "stop", "message": said(&texts.join("\n\n"), at)}))
        }
        Outcome::ProviderError(message) => ("error", json!({"errorMessage": message})),
        Outcome::Aborted => ("aborted", json!({"stopReason": "rpc"})),
        Outcome::Timeout => ("error", json!({"errorMessage": "Request timed out.", "errorKind": "timeout"})),
        Outcome::Empty | Outcome::Merged | Outcome::Raw(_) => ("final", json!({})),
    }
}

/// The second response of `agent`, also what a client gets that asks again later.
pub(crate) fn second_response(request: &str, run: &str, outcome: &Outcome) -> Value {
    let mut ok = true;
    let mut error = Value::Null;
    let mut payload = match outcome {
        Outcome::Texts(texts) => {
            let mut payload = recorded!("res-agent-final", "payload");
            let payloads =
                texts.iter().map(|text| json!({"text": text, "mediaUrl": null})).collect::<Vec<_>>();
            payload["result"]["payloads"] = json!(payloads);
            payload
        }
        Outcome::ProviderError(message) => {
            ok = false;
            error = json!({"code": "UNAVAILABLE", "message": message});
            json!({"status": "error", "summary": message})
        }
        Outcome::Empty | Outcome::Merged => {
            json!({"status": "error", "summary": "failed", "result": {"payloads": [
            {"text": "Agent couldn't generate a response. Please try again.", "isError": true, "mediaUrl": null}]}})
        }
        Outcome::Timeout => recorded!("res-agent-timeout", "payload"),
        Outcome::Aborted => recorded!("res-agent-aborted", "payload"),
        Outcome::Raw(payload) => payload.clone(),
    };
    if payload.is_object() && !matches!(outcome, Outcome::Raw(_)) {
        payload["runId"] = json!(run);
    }
    let mut response = json!({"type": "res", "id": request, "ok": ok, "payload": payload});
    if !ok {
        response["error"] = error;
    }
    response
}

pub(crate) fn chat_event(world: &World, run: &Run, kind: &str, more: Value) {
    let mut payload = more;
    payload["runId"] = json!(run.id);
    payload["sessionKey"] = json!(run.turn.session_key);
    payload["agentId"] = json!("main");
    payload["state"] = json!(kind);
    payload["seq"] = json!(world.change(|state| state.next_event()));
    world.emit("chat", &payload, Some(&run.turn.session_key));
}

fn agent_event(world: &World, run: &Run, stream: &str, data: &Value) {
    let payload = json!({"runId": run.id, "stream": stream, "data": data, "sessionKey": run.turn.session_key,
                         "agentId": "main", "seq": world.change(|state| state.next_event()), "ts": world.now_ms()});
    world.emit("agent", &payload, Some(&run.turn.session_key));
}

fn said(text: &str, at: u64) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}], "timestamp": at})
}
