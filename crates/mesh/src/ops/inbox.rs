//! The owner's word on messages that our own gateway holds, and on whether it takes new ones.

use openclaw_client::protocol::methods::Method;
use openclaw_client::protocol::methods::inbox::{
    Decided, HeldMessage, Inbox, InboxApprove, InboxList, InboxReject, InboxShow, Pause, Paused, Resume,
};
use tokio::time::Instant;

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;

/// What is held, oldest first.
///
/// # Errors
/// When our own gateway cannot be reached, does not let us in, or is not one of `agent-mesh serve`.
pub async fn list(mesh: &Mesh, deadline: Instant) -> Result<Inbox, MeshError> {
    call(mesh, &InboxList {}, deadline).await
}

/// One held message as a whole, by its id, the one that its sender knows, or the beginning of either.
///
/// # Errors
/// As [`list`], and when no message or more than one fits.
pub async fn show(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<HeldMessage, MeshError> {
    decide(mesh, wanted, |id| InboxShow { id }, deadline).await
}

/// Lets a held message run.
///
/// # Errors
/// As [`show`].
pub async fn approve(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<Decided, MeshError> {
    decide(mesh, wanted, |id| InboxApprove { id }, deadline).await
}

/// Turns a held message down.
///
/// # Errors
/// As [`show`].
pub async fn reject(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<Decided, MeshError> {
    decide(mesh, wanted, |id| InboxReject { id }, deadline).await
}

/// Lets no new messages of peers in until further notice, or lets them in again.
///
/// # Errors
/// As [`list`].
pub async fn pause(mesh: &Mesh, paused: bool, deadline: Instant) -> Result<Paused, MeshError> {
    if paused { call(mesh, &Pause {}, deadline).await } else { call(mesh, &Resume {}, deadline).await }
}

async fn call<M: Method>(mesh: &Mesh, request: &M, deadline: Instant) -> Result<M::Payload, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let answer = own.call(request, deadline).await;
    own.close().await;
    answer
}

/// Does something with the one message that is meant.
async fn decide<M: Method>(
    mesh: &Mesh,
    wanted: &str,
    request: impl FnOnce(String) -> M,
    deadline: Instant,
) -> Result<M::Payload, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let answer = async {
        let held = own.call(&InboxList {}, deadline).await?.held;
        let id = one(&held, wanted)?;
        own.call(&request(id), deadline).await
    };
    let answer = answer.await;
    own.close().await;
    answer
}

/// The message that is meant, by its id here or the one that its sender knows, or a beginning of either that fits only
/// one message.
fn one(held: &[HeldMessage], wanted: &str) -> Result<String, MeshError> {
    let wanted = wanted.to_ascii_lowercase();
    let begins = |id: &str| !wanted.is_empty() && id.to_ascii_lowercase().starts_with(&wanted);
    let fits: Vec<&str> = held
        .iter()
        .filter(|message| begins(&message.id) || begins(&message.run_id))
        .map(|message| message.id.as_str())
        .collect();
    match fits[..] {
        [id] => Ok(id.to_owned()),
        [] => Err(MeshError::NotHeld { what: format!("no held message fits `{wanted}`") }),
        _ => Err(MeshError::NotHeld { what: format!("{} held messages fit `{wanted}`", fits.len()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_meant_or_none() {
        let held =
            |id: &str, run: &str| HeldMessage { id: id.into(), run_id: run.into(), ..HeldMessage::default() };
        let all = [held("ab12", "0197-a1"), held("ab34", "0197-b2"), held("cd56", "cd57")];
        assert_eq!(one(&all, "CD").unwrap(), "cd56");
        assert_eq!(one(&all, "ab12").unwrap(), "ab12");
        assert_eq!(one(&all, "0197-B2").unwrap(), "ab34", "the id that its sender knows");
        assert_eq!(one(&all, "0197-a").unwrap(), "ab12");
        for wanted in ["ab", "0197", "x", ""] {
            assert!(matches!(one(&all, wanted), Err(MeshError::NotHeld { .. })), "{wanted}");
        }
    }
}
