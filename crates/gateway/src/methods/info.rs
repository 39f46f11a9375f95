//! What the gateway says of itself.

use openclaw_protocol::connect::Granted;
use openclaw_protocol::methods::SCOPE_READ;
use serde_json::{Value, json};

use super::Answer;
use crate::keys::AGENT_ID;
use crate::shared::{Shared, lock, now_ms};

/// `health`: for everybody, so it counts sessions and names none.
pub(crate) fn health(shared: &Shared) -> Value {
    let sessions = json!({ "path": "memory", "count": lock(&shared.sessions).count(), "recent": [] });
    json!({
        "ok": true, "ts": now_ms(), "durationMs": 0,
        "plugins": { "loaded": [], "errors": [], "unavailable": [] },
        "channels": {}, "channelOrder": [], "channelLabels": {}, "heartbeatSeconds": 0,
        "defaultAgentId": AGENT_ID,
        "agents": [{
            "agentId": AGENT_ID, "name": shared.config.agent_name, "isDefault": true,
            "heartbeat": heartbeat(), "sessions": sessions,
        }],
        "sessions": sessions,
    })
}

/// This gateway never starts a turn by itself. The schema wants every field all the same.
fn heartbeat() -> Value {
    json!({
        "enabled": false, "every": "disabled", "everyMs": null, "prompt": "", "target": "none", "ackMaxChars": 0,
    })
}

/// `status`.
pub(super) fn status(shared: &Shared) -> Answer {
    let sessions = lock(&shared.sessions).count();
    Ok(json!({
        "runtimeVersion": shared.config.version,
        "uptimeMs": uptime_ms(shared),
        "heartbeat": {
            "defaultAgentId": AGENT_ID,
            "agents": [{ "agentId": AGENT_ID, "enabled": false, "every": "disabled", "everyMs": null }],
        },
        "channelSummary": [],
        "queuedSystemEvents": [],
        "sessions": { "paths": [], "count": sessions, "defaults": {}, "recent": [], "byAgent": [] },
        "connections": lock(&shared.peers).count(),
        "draining": shared.draining.is_cancelled(),
    }))
}

/// `system-presence`: the gateway itself; operator clients do not appear.
pub(super) fn presence(shared: &Shared) -> Value {
    json!([presence_row(shared)])
}

fn presence_row(shared: &Shared) -> Value {
    json!({
        "host": shared.config.agent_name, "version": shared.config.version, "platform": "agent-mesh",
        "mode": "gateway", "reason": "self", "text": format!("Gateway: {}", shared.config.agent_name),
        "ts": now_ms(),
    })
}

/// The snapshot in the hello.
pub(crate) fn snapshot(shared: &Shared, granted: &Granted) -> Value {
    let may_read = granted.allows(SCOPE_READ);
    let presence = if may_read { presence(shared) } else { json!([]) };
    let health = if may_read { health(shared) } else { json!({}) };
    json!({
        "presence": presence, "health": health, "stateVersion": { "presence": 0, "health": 0 },
        "uptimeMs": uptime_ms(shared),
    })
}

fn uptime_ms(shared: &Shared) -> u64 {
    u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `agents.list`.
pub(super) fn agents(shared: &Shared) -> Value {
    json!({
        "defaultId": AGENT_ID, "mainKey": "main", "scope": "per-sender",
        "agents": [{ "id": AGENT_ID, "name": shared.config.agent_name }],
    })
}

/// `agent.identity.get`.
pub(super) fn agent_identity(shared: &Shared) -> Value {
    json!({ "agentId": AGENT_ID, "name": shared.config.agent_name, "nameSource": "config" })
}
