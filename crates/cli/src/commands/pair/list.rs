//! `agent-mesh pair list`

use std::collections::HashMap;

use agent_mesh_gateway::Member;
use agent_team_mesh::Mesh;
use agent_team_mesh::client::protocol::methods::device::{PairedDevice, Pairings, PendingDevice};
use agent_team_mesh::ops::pair::{self, readable_name};
use agent_team_mesh::record::To;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::commands::serve::access;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

type Owners = HashMap<String, To>;

/// Who waits, who is in, and whose devices they are.
pub async fn list(mesh: &Mesh, settings: &Settings, deadline: Instant, ui: &Ui) -> Result<Exit, CliError> {
    let Pairings { pending, paired } = pair::pairings(mesh, deadline).await?;
    let book = access::book(settings, mesh, &pending, ui)?;
    let ids = pending.iter().map(|row| &row.device_id).chain(paired.iter().map(|row| &row.device_id));
    let owners: Owners = ids.filter_map(|id| Some((id.clone(), to(mesh, &*book.whose(id)?)))).collect();
    if !pending.is_empty() {
        ui.out("waiting for approval:");
        let header = ["REQUEST", "DEVICE", "TEAMMATE", "CALLS ITSELF", "SCOPES", "FROM"];
        ui.table(&header, pending.iter().map(|row| pending_row(row, &owners)).collect());
        ui.out("");
    }
    if paired.is_empty() {
        ui.out("no device is approved");
    } else {
        ui.out("approved:");
        let header = ["DEVICE", "TEAMMATE", "NAME", "SCOPES", "SINCE", "LAST SEEN"];
        ui.table(&header, paired.iter().map(|row| paired_row(row, &owners)).collect());
    }
    let pending: Vec<Value> = pending.iter().map(|row| pending_json(row, &owners)).collect();
    let paired: Vec<Value> = paired.iter().map(|row| paired_json(row, &owners)).collect();
    ui.document("pair", Exit::Done, json!({ "pending": pending, "paired": paired }));
    Ok(Exit::Done)
}

fn to(mesh: &Mesh, member: &Member) -> To {
    let known = mesh.registry().ok().and_then(|registry| registry.by_prefix(&member.key));
    known.map_or_else(|| To { name: member.name.clone(), email_prefix: member.key.clone() }, To::from)
}

fn pending_row(row: &PendingDevice, owners: &Owners) -> Vec<String> {
    vec![
        row.request_id.clone(),
        row.device_id.get(..16).unwrap_or(&row.device_id).to_owned(),
        owner(owners, &row.device_id),
        dash(name(row.display_name.as_deref())),
        row.scopes.join(" "),
        dash(row.remote_ip.as_deref()),
    ]
}

fn paired_row(row: &PairedDevice, owners: &Owners) -> Vec<String> {
    let minute = |ms: Option<i64>| {
        let at = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
    };
    let seen = if row.connected == Some(true) { "now".to_owned() } else { minute(row.last_seen_at_ms) };
    vec![
        row.device_id.get(..12).unwrap_or(&row.device_id).to_owned(),
        owner(owners, &row.device_id),
        dash(name(row.display_name.as_deref())),
        row.scopes.join(" "),
        minute(row.created_at_ms),
        seen,
    ]
}

fn pending_json(row: &PendingDevice, owners: &Owners) -> Value {
    json!({ "requestId": row.request_id, "deviceId": row.device_id, "to": owners.get(&row.device_id),
        "displayName": name(row.display_name.as_deref()), "scopes": row.scopes, "remoteIp": row.remote_ip,
        "ts": time(row.ts) })
}

fn paired_json(row: &PairedDevice, owners: &Owners) -> Value {
    json!({ "deviceId": row.device_id, "to": owners.get(&row.device_id),
        "displayName": name(row.display_name.as_deref()), "scopes": row.scopes,
        "approvedVia": row.approved_via, "approvedAt": row.created_at_ms.map(time),
        "lastSeenAt": row.last_seen_at_ms.map(time), "connected": row.connected })
}

fn owner(owners: &Owners, device_id: &str) -> String {
    dash(owners.get(device_id).map(|to| &*to.name))
}

fn name(name: Option<&str>) -> Option<&str> {
    name.map(readable_name)
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}

fn dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}
