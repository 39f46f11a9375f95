//! What became of a message that was sent, or is to be: where time helps, or nothing does.

use agent_team_mesh::MeshError;
use agent_team_mesh::record::To;

use super::{Meaning, means};
use crate::error::Exit;

pub(super) fn meaning(error: &MeshError) -> Option<Meaning> {
    under_way(error).or_else(|| over(error)).or_else(|| unnamed(error))
}

/// It left, or waits here to leave. Whoever sends it again may have it done twice.
fn under_way(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::Away { id, .. } => means(
            Exit::NoReply,
            "away",
            format!(
                "what became of it is known when they are back: agent-mesh wait {id}; do not send it again"
            ),
        ),
        MeshError::ReplyDeadline { id, .. } => means(
            Exit::NoReply,
            "no-reply-in-time",
            format!(
                "their agent has it and may still be at work: agent-mesh wait {id}; do not send it again"
            ),
        ),
        MeshError::Held { to, id } => means(
            Exit::NoReply,
            "held",
            format!(
                "{} decides with `agent-mesh inbox` on their host; then agent-mesh wait {id} has the reply; do not send it again",
                to.name
            ),
        ),
        MeshError::Unknown { id, .. } => means(
            Exit::NoReply,
            "delivery-unknown",
            format!(
                "agent-mesh wait {id} looks again; sending it anew may make their agent do the work twice"
            ),
        ),
        MeshError::StillQueued { .. } => means(
            Exit::NoReply,
            "still-queued",
            "agent-mesh outbox flush tries it now; agent-mesh outbox run keeps trying",
        ),
        _ => return None,
    })
}

/// Its life has ended, and there is no reply.
fn over(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::RunFailed { to, .. } => means(
            Exit::Failed,
            "run-failed",
            format!(
                "their agent has seen the message: agent-mesh log has what is known, and {}'s own log has the cause. Sent \
                 again, it is a new run",
                to.name
            ),
        ),
        MeshError::NoReply { merged: true, .. } => means(
            Exit::Failed,
            "no-reply",
            "their session was busy and chat.send merges messages: send it again with --via agent",
        ),
        MeshError::NoReply { .. } => {
            means(Exit::Failed, "no-reply", "their agent chose to say nothing, or could not")
        }
        MeshError::Expired { id, .. } => means(
            Exit::Failed,
            "expired",
            format!("agent-mesh outbox retry {id} puts it back, if it is still worth saying"),
        ),
        MeshError::Ended { id, .. } => {
            means(Exit::Failed, "ended", format!("agent-mesh log show {id} tells how"))
        }
        _ => return None,
    })
}

/// There is no such message, or another one is meant.
fn unnamed(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::NoSuchMessage { .. } => means(
            Exit::Usage,
            "no-such-message",
            "agent-mesh log lists messages and their ids; eight characters are the least",
        ),
        MeshError::NotReceived { .. } => means(
            Exit::Usage,
            "no-such-message",
            "give the id of a message that came in here, or the whole first line of its header, in quotes",
        ),
        MeshError::NotInOutbox { id, .. } => {
            means(Exit::Usage, "not-in-outbox", format!("agent-mesh log show {id} tells its life"))
        }
        MeshError::NotHeld { .. } => {
            means(Exit::Usage, "not-held", "agent-mesh inbox list shows what is held")
        }
        MeshError::IdInUse { id, sent } => {
            means(Exit::Usage, "id-in-use", id_in_use(id, sent.as_ref().map(|(to, _)| to)))
        }
        _ => return None,
    })
}

fn id_in_use(id: &str, sent_to: Option<&To>) -> String {
    match sent_to {
        Some(to) => format!(
            "nothing was sent: agent-mesh wait {id} tells what became of the message to {}; another message needs another id, \
             or none",
            to.name
        ),
        None => "nothing was sent: give another id, or none".to_owned(),
    }
}
