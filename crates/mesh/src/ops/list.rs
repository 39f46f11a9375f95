//! Who is in the team, and whose gateway answers.

use std::sync::Arc;

use futures_util::FutureExt;
use openclaw_client::{ConnectError, Trace};
use serde::Serialize;
use tokio::time::Instant;

use crate::crowd::{Crowd, Turn};
use crate::descriptors;
use crate::error::{MeshError, with_cause};
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::registry::Agent;
use crate::route::{gateway, http};
use crate::sync::LastSync;

/// How many gateways are dialled at once: what the queue of a listening socket usually holds, since a whole team may live
/// on one host.
const AT_ONCE: usize = 512;

/// One teammate.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The name people see.
    pub name: String,
    /// Another name.
    pub nickname: Option<String>,
    /// The key of the registry.
    pub email_prefix: String,
    /// Where the gateway is.
    pub address: Option<String>,
    /// Whether that address stood in the registry before the last sync, and no source named it then.
    pub older_than_sync: bool,
    /// Whether this is us.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Whether the gateway answers.
    pub status: Status,
    /// Milliseconds until its challenge came.
    pub latency_ms: Option<f64>,
    /// Whether we hold a token of any kind: `configured` or `missing`.
    pub token: &'static str,
    /// Whether the gateway issued a token to our device.
    pub paired: bool,
    /// Why it is not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a gateway answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It sent its challenge, or says that it lives.
    Online,
    /// It did not.
    Unreachable,
    /// There is no usable address.
    NoAddress,
}

impl Status {
    /// Its name in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no-address",
        }
    }
}

/// Asks every gateway for its challenge; shows no credential. In registry order. Dead peers cost one connect timeout
/// together, as far as there are [`descriptors`].
///
/// # Errors
/// When the registry or a tokens file cannot be used.
pub async fn list(mesh: &Mesh) -> Result<Vec<Listed>, MeshError> {
    let agents = &mesh.registry()?.agents;
    // Read here so that a broken file is one error, not one a peer.
    mesh.shared_token("")?;
    mesh.device_token("")?;
    let last = last_sync(mesh);
    // Boxed for those who need a future that is `Send`: the compiler does not see that this one is, without.
    let look = |agent, turn| look_at(mesh, agent, turn).boxed();
    let mut rows = Crowd::new(AT_ONCE, descriptors::room().connections).all(agents, look).await;
    for (row, agent) in rows.iter_mut().zip(agents) {
        row.older_than_sync = last.as_ref().is_some_and(|last| last.is_newer_than_address_of(agent));
    }
    Ok(rows)
}

/// The last sync of our registry on this host, if there was one.
#[must_use]
pub fn last_sync(mesh: &Mesh) -> Option<LastSync> {
    LastSync::load(&mesh.sync_folder(), &mesh.config().registry)
}

async fn look_at(mesh: &Mesh, agent: &Agent, turn: Arc<Turn>) -> Listed {
    let paired = mesh.device_token(&agent.email_prefix).ok().flatten().is_some();
    let token = paired || mesh.shared_token(&agent.email_prefix).ok().flatten().is_some();
    let mut row = Listed {
        name: agent.name.clone(),
        nickname: agent.nickname().map(str::to_owned),
        email_prefix: agent.email_prefix.clone(),
        address: None,
        older_than_sync: false,
        is_self: mesh.is_me(agent),
        status: Status::NoAddress,
        latency_ms: None,
        token: if token { "configured" } else { "missing" },
        paired,
        reason: None,
    };
    let peer = match Peer::new(mesh, agent) {
        Ok(peer) => peer,
        Err(error) => return Listed { reason: Some(error.to_string()), ..row },
    };
    row.address = Some(peer.endpoint.to_string());
    match turn.lend(answer(mesh, &peer)).await.0 {
        Ok(latency_ms) => {
            row.status = Status::Online;
            row.latency_ms = Some(latency_ms);
        }
        Err(error) => {
            row.status = Status::Unreachable;
            row.reason = Some(with_cause(&error));
        }
    }
    row
}

/// How many milliseconds it takes until a gateway has sent its challenge, or says that it lives.
async fn answer(mesh: &Mesh, peer: &Peer) -> Result<f64, ConnectError> {
    let start = Instant::now();
    let deadline = start + mesh.config().connect_timeout;
    match gateway::challenge(mesh, peer, deadline, &mut Trace::default()).await {
        // A web server is there, and may be a gateway that takes no WebSocket at the moment.
        Err(ConnectError::Http(_)) if http::is_live(mesh, peer, deadline).await => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    Ok(millis(start.elapsed()))
}

/// Milliseconds to three places.
pub(crate) fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
