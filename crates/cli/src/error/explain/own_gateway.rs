//! What our own gateway says, and what to do on its host: this one.

use agent_team_mesh::MeshError;
use agent_team_mesh::client::protocol::Fault;
use agent_team_mesh::client::{CallError, ConnectError};
use agent_team_mesh::ops::relay::RelayError;

use super::{Meaning, explain, means, protocol_mismatch};
use crate::error::Exit;

pub(super) fn meaning(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::OwnTokenMissing { searched } => means(
            Exit::Auth,
            "own-token-missing",
            format!(
                "looked at {}. Run this on the host of your own gateway; where there is none, agent-mesh serve is one, \
                 and makes its token",
                searched.join(", ")
            ),
        ),
        MeshError::OpenClawSettings { .. } => {
            means(Exit::Usage, "openclaw-settings", "set OPENCLAW_GATEWAY_TOKEN to your own gateway's token")
        }
        MeshError::OwnGateway { source, elsewhere, .. } => own_gateway(source, elsewhere.as_deref()),
        MeshError::OwnGatewayCall { source } => own_call(source),
        MeshError::OwnAgent { .. } => means(
            Exit::Failed,
            "own-agent-failed",
            "look at your own gateway's log; what was said so far stands",
        ),
        MeshError::NotMinted { source } => not_minted(source),
        MeshError::NoSuchPairing { .. } => {
            means(Exit::Unknown, "no-such-device", "agent-mesh pair list shows who waits and who is in")
        }
        _ => return None,
    })
}

/// Nobody answers where our own gateway should.
const NOT_RUNNING: &str = "is your own gateway running on this host? openclaw gateway status says so of OpenClaw's; without \
     OpenClaw, agent-mesh serve is one. --gateway names another address, wss://127.0.0.1:18789 if it has TLS";

const OWN_TOKEN: &str =
    "set OPENCLAW_GATEWAY_TOKEN to your own gateway's token, or MESH_GATEWAY_URL to your own gateway";

/// `elsewhere`: where `agent-mesh serve` of this state folder listens, if we called another address.
fn own_gateway(error: &ConnectError, elsewhere: Option<&str>) -> Meaning {
    let there = elsewhere.map(|address| {
        format!(
            "your agent-mesh serve listens at {address}: --gateway {address} calls it there, and MESH_GATEWAY_URL={address} from \
             now on"
        )
    });
    let or = |hint: &str| there.unwrap_or_else(|| hint.to_owned());
    let ConnectError::Refused(shape) = error else {
        return means(Exit::Unreachable, "own-gateway-unreachable", or(NOT_RUNNING));
    };
    match shape.fault() {
        Fault::Unavailable { .. } => means(Exit::Busy, "busy", "your gateway is starting: try again shortly"),
        Fault::ProtocolMismatch { .. } => protocol_mismatch(),
        _ => means(Exit::Auth, "own-token-refused", or(OWN_TOKEN)),
    }
}

fn own_call(error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault().is_auth() => means(
            Exit::Auth,
            "own-token-refused",
            "this must run on your own gateway's host, over loopback, with the gateway's token",
        ),
        CallError::Refused(_) => {
            means(Exit::Failed, "refused", "these are the words of your own gateway; its log may say more")
        }
        _ => means(Exit::Unreachable, "own-gateway-unreachable", NOT_RUNNING),
    }
}

fn not_minted(error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault() == Fault::Other => means(
            Exit::Failed,
            "invite-refused",
            "--url says where others reach this gateway: wss://…, or ws:// and a private address; it must listen \
                 beyond loopback, or a tunnel or proxy must lead to it",
        ),
        other => own_call(other),
    }
}

/// What helps `serve --agent openclaw` when the gateway behind it gives no turn.
pub fn relay_hint(error: &RelayError) -> String {
    match error {
        RelayError::Unreachable(MeshError::OwnTokenMissing { .. }) => {
            "OPENCLAW_GATEWAY_TOKEN is the token of OpenClaw's gateway, if ~/.openclaw/openclaw.json has none"
                .to_owned()
        }
        RelayError::Unreachable(error) => explain(error).hint.unwrap_or_default(),
        _ => "--gateway names OpenClaw's gateway, --listen is where this one listens".to_owned(),
    }
}
