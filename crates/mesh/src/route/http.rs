//! Plain HTTP to a teammate's place: an A2A agent, and a gateway that answers no WebSocket yet.

use std::io;

use openclaw_client::ConnectError;
use reqwest::{Client, Url, redirect::Policy};
use tokio::time::{Instant, timeout_at};

use super::a2a::A2aError;
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;

/// Where a gateway says that it lives, from the root.
const HEALTH: &str = "/healthz";

/// A client for this place and no other: what it is given must not be carried on by a redirect.
pub(super) fn client(mesh: &Mesh, peer: &Peer, url: &Url) -> Result<Client, MeshError> {
    // Without a provider reqwest panics; a second call of this changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("agent-mesh/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(mesh.config().connect_timeout)
        .referer(false)
        .redirect(Policy::none());
    if url.scheme() == "http" {
        // A proxy has another idea of what a private address is.
        builder = builder.no_proxy();
    }
    if let Some(pin) = peer.dial.pin {
        let tls =
            pin.client_config().map_err(|error| peer.failed(ConnectError::Tls(io::Error::other(error))))?;
        builder = builder.tls_backend_preconfigured(tls);
    }
    let failed = |error| MeshError::A2a { to: peer.to.clone(), source: A2aError::Unreachable(error) };
    builder.build().map_err(failed)
}

/// Whether a gateway says that it lives, although it takes no WebSocket now: one that starts or drains does not.
pub(crate) async fn is_live(mesh: &Mesh, peer: &Peer, deadline: Instant) -> bool {
    let Ok(mut url) = peer.endpoint.to_string().replacen("ws", "http", 1).parse::<Url>() else {
        return false;
    };
    url.set_path(HEALTH);
    let Ok(client) = client(mesh, peer, &url) else { return false };
    let answer = timeout_at(deadline, client.get(url).send()).await;
    matches!(answer, Ok(Ok(answer)) if answer.status().is_success())
}
