//! What a session remembers: rows, the active run, and what still waits.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::reply::Turn;
use crate::runs::Run;
use crate::world::World;

/// Longer texts are cut in `chat.history` unless `maxChars` allows more.
const DISPLAY_CAP: u64 = 8000;
/// Rows of this many bytes are left out whatever `maxChars` says.
const ROW_LIMIT: usize = 150_000;

pub(crate) struct Session {
    pub key: String,
    rows: Vec<Row>,
    /// The run that is being played now.
    pub active: Option<Arc<Run>>,
    /// The last run that was accepted: the next one waits for its end.
    pub tail: Option<Arc<Run>>,
    /// Accepted runs that have no user row yet, and the state they are in.
    pub waiting: Vec<(String, &'static str)>,
}

struct Row {
    id: String,
    user: bool,
    text: String,
    /// The idempotency key of a user row, the run id of an assistant row.
    run: Option<String>,
    provenance: Value,
    at: u64,
}

impl Session {
    pub fn new(key: &str) -> Self {
        Self { key: key.to_owned(), rows: Vec::new(), active: None, tail: None, waiting: Vec::new() }
    }

    /// The text reached the model.
    pub fn user_row(&mut self, id: String, turn: &Turn, key: Option<&str>, text: String, at: u64) {
        let provenance = turn.params["inputProvenance"].clone();
        self.rows.push(Row { id, user: true, text, run: key.map(str::to_owned), provenance, at });
    }

    /// The model answered.
    pub fn assistant_row(&mut self, id: String, run: &str, text: String, at: u64) {
        self.rows.push(Row { id, user: false, text, run: Some(run.to_owned()), provenance: Value::Null, at });
    }

    pub fn is_interrupted(&self, run: &str) -> bool {
        self.waiting.iter().any(|(id, state)| id == run && *state == "interrupted")
    }

    fn history(&self, world: &World, params: &Value) -> Value {
        let total = self.rows.len();
        let count = |name: &str, default: usize| {
            params[name].as_u64().map_or(default, |n| n.try_into().unwrap_or(default))
        };
        let end = total.saturating_sub(count("offset", 0));
        let start = end.saturating_sub(count("limit", 200));
        let cap = params["maxChars"].as_u64().unwrap_or(DISPLAY_CAP);
        let modern = world.script.protocol > 3;
        let messages: Vec<Value> = (start..end)
            .map(|n| self.rows[n].shown(n + 1, usize::try_from(cap).unwrap_or(usize::MAX), modern))
            .collect();
        let mut history = json!({
            "sessionKey": self.key, "sessionId": format!("session-of-{}", self.key), "messages": messages,
            "hasMore": start > 0, "totalMessages": total,
            "sessionInfo": {"key": self.key, "hasActiveRun": self.active.is_some(),
                            "activeRunIds": self.active.iter().map(|run| &run.id).collect::<Vec<_>>()},
        });
        if start > 0 {
            history["nextOffset"] = json!(total - start);
        }
        if modern {
            let items: Vec<Value> =
                self.waiting.iter().map(|(run, state)| json!({"runId": run, "state": state})).collect();
            history["pendingInputs"] = json!({"total": items.len(), "items": items});
        }
        if let Some(run) = &self.active {
            history["inFlightRun"] = json!({"runId": run.id, "text": "", "startedAt": world.now_ms()});
        }
        history
    }
}

impl Row {
    fn shown(&self, seq: usize, cap: usize, modern: bool) -> Value {
        let mut about = json!({"id": self.id, "seq": seq, "recordTimestampMs": self.at});
        let mut text = self.text.clone();
        if text.len() >= ROW_LIMIT {
            text = "[chat.history omitted: message too large]".to_owned();
        } else if text.chars().count() > cap {
            text = text.chars().take(cap).collect::<String>() + "...(truncated)...";
            about["truncated"] = json!(true);
            about["reason"] = json!("display-cap");
        }
        if self.user {
            let mut row = json!({"role": "user", "content": text, "timestamp": self.at, "__openclaw": about});
            if let Some(key) = self.run.as_ref().filter(|_| modern) {
                row["idempotencyKey"] = json!(format!("{key}:user"));
                row["__openclaw"]["idempotencyKey"] = json!(format!("{key}:user"));
            }
            if !self.provenance.is_null() {
                row["provenance"] = self.provenance.clone();
            }
            return row;
        }
        if let Some(run) = self.run.as_ref().filter(|_| modern) {
            about["runId"] = json!(run);
        }
        json!({"role": "assistant", "content": [{"type": "text", "text": text}], "stopReason": "stop",
               "timestamp": self.at, "__openclaw": about})
    }
}

/// Answers `chat.history`.
pub(crate) fn chat_history(world: &World, params: &Value) -> Value {
    let key = canonical_key(params);
    world.change(|state| state.session(&key).history(world, params))
}

/// Answers `chat.message.get`: one row, complete.
pub(crate) fn chat_message(world: &World, params: &Value) -> Option<Value> {
    let key = canonical_key(params);
    world.read(|state| {
        let rows = &state.sessions.get(&key)?.rows;
        let place = rows.iter().position(|row| params["messageId"] == row.id.as_str())?;
        Some(json!({"ok": true, "message": rows[place].shown(place + 1, usize::MAX, true)}))
    })
}

/// The session key as the gateway writes it.
pub(crate) fn canonical_key(params: &Value) -> String {
    let key =
        params["sessionKey"].as_str().or_else(|| params["key"].as_str()).unwrap_or("main").to_lowercase();
    if key.starts_with("agent:") {
        key
    } else {
        format!("agent:{}:{key}", params["agentId"].as_str().unwrap_or("main"))
    }
}
