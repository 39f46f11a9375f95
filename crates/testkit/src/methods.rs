//! The requests a client can make after hello.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::chat;
use crate::fault::Cut;
use crate::history::{canonical_key, chat_history, chat_message};
use crate::recorded::recorded;
use crate::reply::{Ends, Outcome, Turn};
use crate::runs::{self, End, Origin, Run};
use crate::world::{Out, World};

/// The methods that are played; hello-ok of protocol 4 lists those of the recorded gateway.
pub(crate) const NAMES: [&str; 13] = [
    "health",
    "status",
    "agents.list",
    "gateway.identity.get",
    "sessions.messages.subscribe",
    "sessions.messages.unsubscribe",
    "sessions.patch",
    "agent",
    "agent.wait",
    "chat.send",
    "chat.history",
    "chat.message.get",
    "chat.abort",
];

/// The payload (nothing: the method answers later, by itself) or the error object.
pub(crate) type Answer = Result<Option<Value>, Value>;

/// One client after hello.
pub(crate) struct Client {
    pub world: Arc<World>,
    pub out: UnboundedSender<Out>,
    scopes: Vec<String>,
    session_scoped: bool,
    subscribed: HashSet<String>,
}

impl Client {
    pub fn new(
        world: Arc<World>,
        out: UnboundedSender<Out>,
        scopes: Vec<String>,
        session_scoped: bool,
    ) -> Self {
        Self { world, out, scopes, session_scoped, subscribed: HashSet::new() }
    }

    pub fn send(&self, out: Out) {
        // Fails only when this very connection is going away.
        let _ = self.out.send(out);
    }

    /// Whether events of this session come to this client.
    pub fn follows(&self, session: &str) -> bool {
        self.may("operator.read") && (!self.session_scoped || self.subscribed.contains(session))
    }

    fn may(&self, scope: &str) -> bool {
        let implied = scope == "operator.read" && self.scopes.iter().any(|held| held == "operator.write");
        implied || self.scopes.iter().any(|held| held == scope || held == "operator.admin")
    }

    /// Reads one frame and answers it.
    pub fn request(&mut self, frame: &Value) {
        let id = frame["id"].as_str().unwrap_or("invalid").to_owned();
        let known = ["type", "id", "method", "params"];
        let clean =
            frame.as_object().is_some_and(|keys| keys.keys().all(|key| known.contains(&key.as_str())));
        let answer = match frame["method"].as_str() {
            Some(method) if clean && frame["type"] == "req" && frame["id"].is_string() => {
                self.call(&id, method, &frame["params"])
            }
            _ => Err(json!({"code": "INVALID_REQUEST", "message": "invalid request frame: testkit"})),
        };
        match answer {
            Ok(Some(payload)) => {
                self.send(Out::Res(json!({"type": "res", "id": id, "ok": true, "payload": payload})));
            }
            Ok(None) => {}
            Err(error) => self.send(Out::Res(json!({"type": "res", "id": id, "ok": false, "error": error}))),
        }
    }

    fn call(&mut self, id: &str, method: &str, params: &Value) -> Answer {
        let needed = match method {
            "health" => None,
            "agent" | "agent.wait" | "chat.send" | "chat.abort" | "sessions.patch" => Some("operator.write"),
            name if NAMES.contains(&name) => Some("operator.read"),
            _ => Some("operator.admin"),
        };
        if let Some(scope) = needed.filter(|scope| !self.may(scope)) {
            return Err(self.missing_scope(scope));
        }
        match method {
            "health" => {
                let mut health = recorded!("res-health", "payload");
                health["ts"] = json!(self.world.now_ms());
                Ok(Some(health))
            }
            "status" => Ok(Some(recorded!("res-status", "payload"))),
            "agents.list" => Ok(Some(recorded!("res-agents-list", "payload"))),
            "gateway.identity.get" if self.world.script.nameless => {
                Err(json!({"code": "INVALID_REQUEST", "message": "unknown method: gateway.identity.get"}))
            }
            "gateway.identity.get" => {
                let mut identity = recorded!("res-gateway-identity", "payload");
                if let Some(device_id) = &self.world.script.identity {
                    identity["deviceId"] = json!(device_id);
                }
                Ok(Some(identity))
            }
            "sessions.messages.subscribe" => {
                let key = canonical_key(params);
                self.subscribed.insert(key.clone());
                Ok(Some(json!({"subscribed": true, "key": key})))
            }
            "sessions.messages.unsubscribe" => {
                let key = canonical_key(params);
                self.subscribed.remove(&key);
                Ok(Some(json!({"subscribed": false, "key": key})))
            }
            // What it changes is not played; that it was asked for, and when, is what tests look at.
            "sessions.patch" => Ok(Some(json!({"ok": true, "key": canonical_key(params)}))),
            "agent" | "chat.send" if self.world.read(|state| state.draining) => Err(restarting(method)),
            "agent" => self.agent(id, params),
            "chat.send" => chat::chat_send(self, id, params),
            "agent.wait" => self.agent_wait(id, params),
            "chat.history" => Ok(Some(chat_history(&self.world, params))),
            "chat.message.get" => chat_message(&self.world, params)
                .map(Some)
                .ok_or_else(|| json!({"code": "INVALID_REQUEST", "message": "message not found"})),
            "chat.abort" => Ok(Some(self.abort(params))),
            _ => Err(json!({"code": "INVALID_REQUEST", "message": format!("unknown method: {method}")})),
        }
    }

    fn missing_scope(&self, scope: &str) -> Value {
        let message = format!("missing scope: {scope}");
        if self.world.script.protocol <= 3 {
            return json!({"code": "INVALID_REQUEST", "message": message});
        }
        json!({"code": "FORBIDDEN", "message": message,
               "details": {"code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]}})
    }

    fn agent(&self, request: &str, params: &Value) -> Answer {
        let world = &self.world;
        let _one_at_a_time = world.submission();
        let turn = turn_of("agent", params)?;
        let about = json!({"runId": turn.run_id, "sessionKey": turn.session_key, "agentId": "main"});
        let known = world.read(|state| state.runs.get(&("agent", turn.run_id.clone())).cloned());
        if let Some(run) = known.filter(|run| run.is_known(world)) {
            // The input is not compared: the first run's answer comes back whatever was asked.
            match run.end.borrow().as_ref() {
                None => return Ok(Some(with_status(about, "in_flight"))),
                Some(end) => self.send(Out::Res(runs::second_response(request, &run.id, &end.outcome))),
            }
            return Ok(None);
        }
        if world.change(|state| state.session(&turn.session_key).is_interrupted(&turn.run_id)) {
            let message = "Pending input ownership ended; submit a new turn to continue";
            return Err(json!({"code": "UNAVAILABLE", "message": message}));
        }
        let reply = (world.script.agent)(&turn);
        match &reply.ends {
            Ends::Refused(error) => return Err(error.clone()),
            Ends::InFlight => return Ok(Some(with_status(about, "in_flight"))),
            Ends::With(_) | Ends::Never => {}
        }
        let mut accepted = with_status(about, "accepted");
        accepted["acceptedAt"] = json!(world.now_ms());
        let origin = Origin::Request { peer: self.out.clone(), id: Some(request.to_owned()) };
        let run = Run::new("agent", turn.run_id.clone(), turn, reply, origin);
        world.change(|state| state.runs.insert(("agent", run.id.clone()), Arc::clone(&run)));
        run.point(Cut::BeforeAccepted);
        self.send(Out::Res(json!({"type": "res", "id": request, "ok": true, "payload": accepted})));
        run.point(Cut::AfterAccepted);
        runs::start(world, &run);
        Ok(None)
    }

    fn agent_wait(&self, request: &str, params: &Value) -> Answer {
        let Some(run_id) = params["runId"].as_str().map(str::to_owned) else {
            return Err(bad("agent.wait", "runId"));
        };
        let limit = Duration::from_millis(params["timeoutMs"].as_u64().unwrap_or(30_000));
        let run = self.world.read(|state| {
            let known = |method| state.runs.get(&(method, run_id.clone())).cloned();
            known("agent").or_else(|| known("chat.send"))
        });
        if run.as_ref().is_some_and(|run| run.queued.load(Ordering::Relaxed) && !run.is_over()) {
            let about = json!({"runId": run_id, "timeoutPhase": "queue", "providerStarted": false});
            return Ok(Some(with_status(about, "pending")));
        }
        let modern = self.world.script.protocol > 3;
        let (out, request) = (self.out.clone(), request.to_owned());
        self.world.spawn_run(async move {
            let end = tokio::time::timeout(limit, async {
                match run {
                    Some(run) => run.over().await,
                    // Unknown runs are waited for, too.
                    None => std::future::pending().await,
                }
            });
            let mut payload = match end.await {
                Ok(Some(end)) => waited(&end, modern),
                Ok(None) | Err(_) => json!({"status": "timeout"}),
            };
            payload["runId"] = json!(run_id);
            let _ = out.send(Out::Res(json!({"type": "res", "id": request, "ok": true, "payload": payload})));
        });
        Ok(None)
    }

    fn abort(&self, params: &Value) -> Value {
        let key = canonical_key(params);
        let ids = self.world.read(|state| {
            let wanted = params["runId"].as_str();
            let live = state.runs.values().filter(|run| run.turn.session_key == key && !run.is_over());
            let hit = live.filter(|run| wanted.is_none_or(|id| id == run.id));
            hit.inspect(|run| run.abort.open()).map(|run| run.id.clone()).collect::<Vec<_>>()
        });
        json!({"ok": true, "aborted": !ids.is_empty(), "runIds": ids})
    }
}

/// What `agent.wait` says about a run that ended.
fn waited(end: &End, modern: bool) -> Value {
    let mut payload = match &end.outcome {
        Outcome::Texts(texts) => {
            let text = texts.join("\n");
            let text = if text.chars().count() > 4096 {
                text.chars().take(4095).chain(['…']).collect()
            } else {
                text
            };
            json!({"status": "ok", "stopReason": "stop", "terminalReply": {"disposition": "visible", "text": text}})
        }
        Outcome::Merged | Outcome::Raw(_) => json!({"status": "ok"}),
        Outcome::ProviderError(message) => json!({"status": "error", "error": message}),
        Outcome::Empty => {
            json!({"status": "error", "error": "failed", "terminalReply": {"disposition": "empty"}})
        }
        Outcome::Aborted => json!({"status": "error", "error": "aborted", "stopReason": "rpc"}),
        Outcome::Timeout => {
            json!({"status": "timeout", "timeoutPhase": "provider", "error": "Request timed out.",
                                   "terminalReply": {"disposition": "empty"}})
        }
    };
    payload["endedAt"] = json!(end.at_ms);
    if !modern && let Some(payload) = payload.as_object_mut() {
        payload.remove("terminalReply");
    }
    payload
}

fn with_status(mut about: Value, status: &str) -> Value {
    about["status"] = json!(status);
    about
}

fn restarting(method: &str) -> Value {
    let mut error = recorded!("res-error-restarting", "error");
    error["details"]["method"] = json!(method);
    error["message"] = json!(format!("{method} unavailable during gateway restart"));
    error
}

fn bad(method: &str, field: &str) -> Value {
    let message = format!("invalid {method} params: at root: must have required property '{field}'");
    json!({"code": "INVALID_REQUEST", "message": message})
}

/// The turn a request asks for.
pub(crate) fn turn_of(method: &str, params: &Value) -> Result<Turn, Value> {
    let field =
        |name: &str| params[name].as_str().filter(|text| !text.is_empty()).ok_or_else(|| bad(method, name));
    Ok(Turn {
        method: method.to_owned(),
        run_id: field("idempotencyKey")?.to_owned(),
        session_key: canonical_key(params),
        message: field("message")?.to_owned(),
        params: params.clone(),
    })
}
