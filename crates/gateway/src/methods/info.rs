//! What the gateway says of itself.

use openclaw_protocol::connect::Granted;
use openclaw_protocol::methods::SCOPE_READ;
use serde_json::{Value, json};

use super::Call;
use crate::keys::AGENT_ID;
use crate::principal::{Member, Principal};
use crate::shared::{Shared, lock, now_ms};

/// `health`: for everybody, so it counts sessions and names none. A peer's are his own.
pub(crate) fn health(shared: &Shared, who: &Principal) -> Value {
    let sessions = json!({ "path": "memory", "count": count(shared, who), "recent": [] });
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

fn count(shared: &Shared, who: &Principal) -> usize {
    let sessions = lock(&shared.sessions);
    let own = |member: &Member| {
        let earlier = member.earlier_key().map_or(0, |key| sessions.count_of(&key));
        sessions.count_of(&member.key) + earlier
    };
    who.peer().map_or_else(|| sessions.count(), |member| own(member))
}

/// This gateway never starts a turn by itself. The schema wants every field all the same.
fn heartbeat() -> Value {
    json!({
        "enabled": false, "every": "disabled", "everyMs": null, "prompt": "", "target": "none", "ackMaxChars": 0,
    })
}

/// `status`. How many others are here is no peer's business.
pub(super) fn status(call: &Call<'_>) -> Value {
    let (shared, who) = (call.shared, &call.conn.principal);
    let mut status = json!({
        "runtimeVersion": shared.config.version,
        "uptimeMs": uptime_ms(shared),
        "heartbeat": {
            "defaultAgentId": AGENT_ID,
            "agents": [{ "agentId": AGENT_ID, "enabled": false, "every": "disabled", "everyMs": null }],
        },
        "channelSummary": [],
        "queuedSystemEvents": [],
        "sessions": { "paths": [], "count": count(shared, who), "defaults": {}, "recent": [], "byAgent": [] },
        "draining": shared.draining.is_cancelled(),
    });
    if who.peer().is_none() {
        status["connections"] = json!(lock(&shared.peers).count());
    }
    status
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
pub(crate) fn snapshot(shared: &Shared, who: &Principal, granted: &Granted) -> Value {
    let may_read = granted.allows(SCOPE_READ);
    let presence = if may_read && who.peer().is_none() { presence(shared) } else { json!([]) };
    let health = if may_read { health(shared, who) } else { json!({}) };
    json!({
        "presence": presence, "health": health, "stateVersion": { "presence": 0, "health": 0 },
        "uptimeMs": uptime_ms(shared),
    })
}

fn uptime_ms(shared: &Shared) -> u64 {
    u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `agents.list`: those that the caller may talk to.
pub(super) fn agents(call: &Call<'_>) -> Value {
    let is_allowed = call.conn.rules().is_none_or(|rules| rules.agents.allow(AGENT_ID));
    let agents = if is_allowed {
        json!([{ "id": AGENT_ID, "name": call.shared.config.agent_name }])
    } else {
        json!([])
    };
    json!({ "defaultId": AGENT_ID, "mainKey": "main", "scope": "per-sender", "agents": agents })
}

/// `agent.identity.get`.
pub(super) fn agent_identity(shared: &Shared) -> Value {
    json!({ "agentId": AGENT_ID, "name": shared.config.agent_name, "nameSource": "config" })
}
