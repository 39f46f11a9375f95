//! What a client may read: the roster, and the conversation with a teammate.

use agent_team_mesh::archive::Filter;
use agent_team_mesh::{Mesh, MeshError};
use rmcp::ErrorData;
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use super::told::{Message, framed};
use crate::error::CliError;

const ROSTER: &str = "mesh://roster";
const CONVERSATION: &str = "mesh://conversation/";
/// How much of a conversation is read.
const MESSAGES: u32 = 50;

pub fn roster() -> Resource {
    Resource::new(ROSTER, "roster")
        .with_title("The team")
        .with_description("Who is in the team: names, e-mail prefixes, notes, tags.")
        .with_mime_type("application/json")
}

pub fn conversation() -> ResourceTemplate {
    ResourceTemplate::new(format!("{CONVERSATION}{{teammate}}"), "conversation")
        .with_title("A conversation")
        .with_description("The last 50 messages with one teammate (an e-mail prefix), oldest first.")
        .with_mime_type("text/plain")
}

/// The contents of a resource.
///
/// # Errors
/// When there is no such resource, or a file of ours cannot be used.
pub async fn read(mesh: &Mesh, uri: &str) -> Result<ResourceContents, ErrorData> {
    if uri == ROSTER {
        return team(mesh, uri).map_err(internal);
    }
    match uri.strip_prefix(CONVERSATION).filter(|peer| !peer.is_empty()) {
        Some(peer) => said(mesh, uri, peer).await.map_err(internal),
        None => Err(ErrorData::resource_not_found("there is no such resource", Some(json!({ "uri": uri })))),
    }
}

fn internal(error: MeshError) -> ErrorData {
    ErrorData::internal_error(CliError::from(error).message, None)
}

fn team(mesh: &Mesh, uri: &str) -> Result<ResourceContents, MeshError> {
    let agents = mesh.registry()?.agents.iter().map(|agent| {
        json!({
            "name": agent.name, "nickname": agent.nickname(), "emailPrefix": agent.email_prefix,
            "note": agent.note, "tags": agent.tags, "self": mesh.is_me(agent),
        })
    });
    let text = json!({ "agents": agents.collect::<Vec<_>>() }).to_string();
    Ok(ResourceContents::text(text, uri).with_mime_type("application/json"))
}

async fn said(mesh: &Mesh, uri: &str, peer: &str) -> Result<ResourceContents, MeshError> {
    let filter = Filter { peer: Some(peer.to_owned()), limit: Some(MESSAGES), ..Filter::default() };
    let messages = mesh.archive()?.list(filter).await?;
    let lines = messages.iter().map(Message::from).map(|message| {
        let (asked, answered) =
            if message.direction == "in" { (&*message.peer, "me") } else { ("me", &*message.peer) };
        let reply = message.reply.map(|reply| format!("{answered}: {reply}\n")).unwrap_or_default();
        format!("{} ({})\n{asked}: {}\n{reply}", message.created_at, message.state, message.message)
    });
    Ok(ResourceContents::text(framed(&format!("me and {peer}'s agent"), &lines.collect::<String>()), uri))
}
