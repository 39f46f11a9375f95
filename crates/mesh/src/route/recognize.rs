//! Is this the gateway we know? Asked before anything of ours leaves, and only of a process that we have not met yet, so
//! that a message to a gateway we met costs no further round trip. One of which nothing is known is asked together with
//! `connect`; one that may have been restarted only when its hello says so.

use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::SCOPE_READ;
use openclaw_client::protocol::methods::info::{GatewayIdentity, GatewayIdentityGet};
use openclaw_client::{CallError, Client, ConnectError, Early, Step};
use tokio::time::{Duration, Instant};

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pins::{Mark, PinnedBy};

/// How a gateway compares with the one we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recognition {
    /// It is the one we know.
    Known(String),
    /// We know none yet, and this is it.
    New(String),
    /// It has no name for itself, and we know none.
    Nameless,
}

/// How long an answer may take that was asked for together with `connect`, once the gateway let us in. Then it is asked
/// for again: the gateway may have dropped what came before its hello.
const EARLY_ANSWER: Duration = Duration::from_secs(2);

/// Whether nothing at all is known of a peer's gateway, so that it will have to be asked. What cannot be read is found out
/// by [`check`].
pub(crate) fn is_stranger(mesh: &Mesh, peer: &Peer) -> bool {
    let known = mesh.pins().get(&peer.to.email_prefix);
    known.is_ok_and(|known| known.identity.is_none() && known.boot_id.is_none())
}

/// Makes sure that it is the gateway we know, and keeps what it is known by when we meet it for the first time.
pub(crate) async fn check(
    mesh: &Mesh,
    peer: &Peer,
    client: &Client,
    asked: Option<Early<GatewayIdentityGet>>,
    deadline: Instant,
) -> Result<(), MeshError> {
    let prefix = &peer.to.email_prefix;
    let known = mesh.pins().get(prefix)?;
    let boot_id = client.hello().server.boot_id.as_deref();
    let met_before = boot_id.is_some() && boot_id == known.boot_id.as_deref();
    // A gateway of protocol 3 names neither its process nor, most of them, itself.
    let nameless = boot_id.is_none() && known.identity.is_none();
    if met_before || nameless || !may_ask(client) {
        return Ok(());
    }
    let shown = match early(asked, deadline).await {
        Some(identity) => Some(identity),
        None => ask(peer, client, deadline).await?,
    };
    let expected = known.identity.as_ref().map(|identity| identity.device_id.as_str());
    compare(peer, expected, shown.as_ref())?;
    let kept = mesh.pins().meet(prefix, boot_id, shown.clone()).await?;
    // Another program may have met another gateway there in the same moment.
    let expected = kept.identity.as_ref().map(|identity| identity.device_id.as_str());
    compare(peer, expected, shown.as_ref()).map(drop)
}

/// Looks which gateway it is. Keeps nothing.
pub(crate) async fn look(
    mesh: &Mesh,
    peer: &Peer,
    client: &Client,
    deadline: Instant,
) -> Result<Option<Recognition>, MeshError> {
    if !may_ask(client) {
        return Ok(None);
    }
    let known = mesh.pins().get(&peer.to.email_prefix)?.identity;
    let shown = ask(peer, client, deadline).await?;
    compare(peer, known.as_ref().map(|identity| identity.device_id.as_str()), shown.as_ref()).map(Some)
}

/// Without the right to read there is no answer, and no message can be sent either.
fn may_ask(client: &Client) -> bool {
    client.hello().auth.as_ref().is_none_or(|granted| granted.allows(SCOPE_READ))
}

/// What was answered to an early question. Only a good answer counts: another one may be about the moment, and the question
/// is asked again.
async fn early(asked: Option<Early<GatewayIdentityGet>>, deadline: Instant) -> Option<GatewayIdentity> {
    let answer = asked?.answer(deadline.min(Instant::now() + EARLY_ANSWER)).await;
    answer.ok().filter(|identity| !identity.device_id.is_empty())
}

async fn ask(peer: &Peer, client: &Client, deadline: Instant) -> Result<Option<GatewayIdentity>, MeshError> {
    let failed = |source| Err(peer.failed(source));
    match client.call(&GatewayIdentityGet {}, deadline).await {
        Ok(identity) => Ok(Some(identity).filter(|identity| !identity.device_id.is_empty())),
        Err(CallError::Lost(how) | CallError::Unsent(how)) => {
            failed(ConnectError::Lost { step: Step::Auth, how })
        }
        Err(CallError::Deadline) => failed(ConnectError::Deadline(Step::Auth)),
        Err(CallError::Refused(shape)) => match shape.fault() {
            Fault::Unavailable { .. } => failed(ConnectError::Refused(shape)),
            Fault::MissingScope(_) => {
                Err(MeshError::Scope { to: peer.to.clone(), missing: SCOPE_READ.to_owned() })
            }
            // It is too old to have the method.
            _ => Ok(None),
        },
        Err(_) => Ok(None),
    }
}

fn compare(
    peer: &Peer,
    known: Option<&str>,
    shown: Option<&GatewayIdentity>,
) -> Result<Recognition, MeshError> {
    let shown = shown.map(|identity| identity.device_id.to_lowercase());
    match (known, shown) {
        (None, None) => Ok(Recognition::Nameless),
        (None, Some(shown)) => Ok(Recognition::New(shown)),
        (Some(known), Some(shown)) if known.eq_ignore_ascii_case(&shown) => Ok(Recognition::Known(shown)),
        (Some(known), shown) => Err(MeshError::IdentityChanged {
            to: peer.to.clone(),
            mark: Mark::Identity,
            old: known.to_owned(),
            new: shown.unwrap_or_else(|| "not shown".to_owned()),
            pinned_by: PinnedBy::Us,
        }),
    }
}
