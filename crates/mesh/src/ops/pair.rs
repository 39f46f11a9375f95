//! Pairing: getting our device approved by a peer, and approving devices on our own gateway.

use std::path::Path;

use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::device::{
    Approved, PairApprove, PairList, PairReject, PairRemove, PairedDevice, Pairings, PendingDevice,
};
use openclaw_client::{Credential, Trace};
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep};

use crate::error::MeshError;
use crate::invite::proof::plain_name;
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;
use crate::peer::Peer;
use crate::private_file::shell_word;
use crate::progress::{Observer, Progress};
use crate::record::To;
use crate::registry::Agent;
use crate::route::gateway;

/// How often a waiting `pair` looks whether it was approved. Nothing is pushed to a device that waits.
pub(super) const POLL: Duration = Duration::from_secs(2);

/// So many digits of a device id let a device in: 64 bits. Fewer could be had by trying keys until they fit.
const PROOF_DIGITS: usize = 16;

/// So many name one that is in.
const NAMING_DIGITS: usize = 8;

/// Where our request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pairing {
    /// With whom.
    pub to: To,
    /// What the peer approves; none once it is approved.
    pub request_id: Option<String>,
    /// `pending` or `approved`.
    pub status: PairStatus,
    /// What the peer runs: any one of these.
    pub commands: Vec<String>,
    /// Whether it refused the device token that we have. It is kept until a gateway gives another: at the address of a
    /// teammate there may be somebody else's by now, and then it is still good.
    pub old_token_refused: bool,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PairStatus {
    /// The peer has to approve it; it vanishes after five minutes.
    Pending,
    /// We are in.
    Approved,
}

/// The commands that approve a request, on the peer's host. The id is the peer's own text and goes into a shell.
#[must_use]
pub fn approve_commands(request_id: &str) -> Vec<String> {
    let request_id = shell_word(Path::new(request_id));
    vec![format!("agent-mesh pair approve {request_id}"), format!("openclaw devices approve {request_id}")]
}

/// Asks a peer to let our device in, with read and write and never more. With `wait`, looks again until it is approved
/// or the time is over.
///
/// # Errors
/// When the peer cannot be reached or refuses otherwise. The real gateway lets nobody ask without a token; agent-mesh's
/// own does, and knows a member of the team by the device alone.
pub async fn pair(
    mesh: &Mesh,
    agent: &Agent,
    wait: bool,
    timeout: Duration,
    observer: &mut dyn Observer,
) -> Result<Pairing, MeshError> {
    let peer = Peer::new(mesh, agent)?;
    let deadline = Instant::now() + timeout;
    let mut announced = None;
    let mut credentials = Credentials::of(mesh, &peer)?;
    loop {
        let pairing = ask(mesh, &peer, &mut credentials, deadline).await?;
        let over = Instant::now() + POLL >= deadline;
        if pairing.status == PairStatus::Approved || !wait || over {
            return Ok(pairing);
        }
        if pairing.request_id != announced {
            let request_id = pairing.request_id.as_deref().unwrap_or_default();
            observer.progress(Progress::PairingPending { to: &peer.to, request_id });
            announced = pairing.request_id;
        }
        sleep(POLL).await;
    }
}

/// What we may show a peer, the better first.
struct Credentials {
    device: Option<Credential>,
    shared: Option<Credential>,
    old_token_refused: bool,
}

impl Credentials {
    fn of(mesh: &Mesh, peer: &Peer) -> Result<Self, MeshError> {
        let prefix = &peer.to.email_prefix;
        Ok(Self {
            device: mesh.device_token(prefix)?.map(|token| Credential::Device(token.token.clone())),
            shared: mesh.shared_token(prefix)?.cloned().map(Credential::Shared),
            old_token_refused: false,
        })
    }
}

async fn ask(
    mesh: &Mesh,
    peer: &Peer,
    credentials: &mut Credentials,
    deadline: Instant,
) -> Result<Pairing, MeshError> {
    let to = peer.to.clone();
    // A device token that still works needs no request; one that does not is why the user asks again.
    let first = credentials.device.clone().or_else(|| credentials.shared.clone());
    let first = first.unwrap_or(Credential::None);
    let mut trace = Trace::default();
    let mut outcome = gateway::connect_with(mesh, peer, first, deadline, &mut trace).await;
    if let (Err(error), Some(_)) = (&outcome, &credentials.device)
        && error.refusal() == Some(Fault::DeviceTokenMismatch)
    {
        // Shown again in this run, it would count towards a lockout.
        credentials.device = None;
        credentials.old_token_refused = true;
        let next = credentials.shared.clone().unwrap_or(Credential::None);
        outcome = gateway::connect_with(mesh, peer, next, deadline, &mut trace).await;
    }
    let old_token_refused = credentials.old_token_refused;
    match outcome {
        Ok(client) => {
            client.close().await;
            let (status, commands) = (PairStatus::Approved, Vec::new());
            Ok(Pairing { to, request_id: None, status, commands, old_token_refused })
        }
        Err(error) => match error.refusal() {
            Some(Fault::PairingRequired { request_id: Some(id), .. }) => {
                let commands = approve_commands(&id);
                let status = PairStatus::Pending;
                Ok(Pairing { to, request_id: Some(id), status, commands, old_token_refused })
            }
            Some(Fault::TokenMissing) => Err(MeshError::NoCredential { to }),
            _ => Err(error),
        },
    }
}

/// For whom the registry has a device.
#[must_use]
pub fn listed(mesh: &Mesh, device_id: &str) -> Option<To> {
    let agents = &mesh.registry().ok()?.agents;
    agents.iter().find(|agent| agent.device_id.as_deref() == Some(device_id)).map(To::from)
}

/// A device's name as people want to read it, without what it proves to a program.
#[must_use]
pub fn readable_name(name: &str) -> &str {
    plain_name(name)
}

/// Who waits for approval at our own gateway, and who is in.
///
/// # Errors
/// When our own gateway cannot be reached or does not let us in.
pub async fn pairings(mesh: &Mesh, deadline: Instant) -> Result<Pairings, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let pairings = own.call(&PairList {}, deadline).await;
    own.close().await;
    pairings
}

/// Lets a device in. `wanted` is a request id, a device id or the beginning of one, or a teammate whose device id
/// stands in the registry.
///
/// # Errors
/// When nothing waiting fits, more than one does, or our own gateway refuses.
pub async fn approve(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<Approved, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let result = async {
        let pending = waiting(&own, mesh, wanted, deadline).await?;
        // It may show an invite of ours, which says whose it is: before it can say a word.
        for name in pending.names() {
            super::invite::shown(mesh, &pending.device_id, name)?;
        }
        let approved = own.call(&PairApprove { request_id: pending.request_id }, deadline).await?;
        mesh.sent_invites().joined(&pending.device_id)?;
        Ok(approved)
    };
    let result = result.await;
    own.close().await;
    result
}

/// Turns a request down.
///
/// # Errors
/// As [`approve`].
pub async fn reject(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<PendingDevice, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let result = async {
        let pending = waiting(&own, mesh, wanted, deadline).await?;
        own.call(&PairReject { request_id: pending.request_id.clone() }, deadline).await?;
        Ok(pending)
    };
    let result = result.await;
    own.close().await;
    result
}

/// Ends a device's access: its sockets close, its token is worthless.
///
/// # Errors
/// As [`approve`], for devices that are in.
pub async fn revoke(mesh: &Mesh, wanted: &str, deadline: Instant) -> Result<PairedDevice, MeshError> {
    let own = OwnGateway::connect(mesh, deadline).await?;
    let result = async {
        let paired = own.call(&PairList {}, deadline).await?.paired;
        let pinned = pinned(mesh, wanted);
        let invited = invited(mesh, wanted)?;
        // To lock somebody out, the name it was approved under is enough.
        let device = one(paired, wanted, |device| {
            is_device(wanted, NAMING_DIGITS, &pinned, &device.device_id)
                || invited.contains(&device.device_id)
                || claims(device.display_name.as_deref(), wanted)
        })?;
        own.call(&PairRemove { device_id: device.device_id.clone() }, deadline).await?;
        mesh.sent_invites().forget(&device.device_id)?;
        Ok(device)
    };
    let result = result.await;
    own.close().await;
    result
}

async fn waiting(
    own: &OwnGateway,
    mesh: &Mesh,
    wanted: &str,
    deadline: Instant,
) -> Result<PendingDevice, MeshError> {
    let pending = own.call(&PairList {}, deadline).await?.pending;
    let pinned = pinned(mesh, wanted);
    let named = |device: &PendingDevice| claims(device.display_name.as_deref(), wanted);
    if pinned.is_none() && !pending.iter().any(|device| is_meant(wanted, &pinned, device)) {
        // A name is the device's own claim, and anybody can make it: it shows candidates, and lets nobody in.
        let ids: Vec<&str> = pending.iter().filter(|d| named(d)).map(|d| d.request_id.as_str()).collect();
        if !ids.is_empty() {
            let what = format!(
                "a name proves nothing: check the device id with `{wanted}`, then name the request ({})",
                ids.join(", ")
            );
            return Err(MeshError::NoSuchPairing { what });
        }
    }
    one(pending, wanted, |device| is_meant(wanted, &pinned, device))
}

fn is_meant(wanted: &str, pinned: &Option<String>, device: &PendingDevice) -> bool {
    device.request_id == wanted || is_device(wanted, PROOF_DIGITS, pinned, &device.device_id)
}

/// Whether a device id was meant: by its beginning, of so many digits or more, or as the one the registry has for a
/// teammate.
fn is_device(wanted: &str, digits: usize, pinned: &Option<String>, device_id: &str) -> bool {
    (wanted.len() >= digits && device_id.starts_with(&wanted.to_ascii_lowercase()))
        || pinned.as_deref() == Some(device_id)
}

/// The devices that a teammate came in with by invites of ours.
fn invited(mesh: &Mesh, wanted: &str) -> Result<Vec<String>, MeshError> {
    let prefix = mesh.registry().ok().and_then(|registry| registry.find(wanted).ok());
    let prefix = prefix.map_or(wanted, |agent| &agent.email_prefix);
    Ok(mesh.sent_invites().read()?.devices_of(prefix).map(str::to_owned).collect())
}

/// The device id that the registry has for a teammate.
fn pinned(mesh: &Mesh, wanted: &str) -> Option<String> {
    mesh.registry().ok()?.find(wanted).ok()?.device_id.clone()
}

/// Whether a device calls itself so: `agent-mesh:alice (56475aa7)`.
fn claims(display_name: Option<&str>, wanted: &str) -> bool {
    let name = display_name.and_then(|name| name.strip_prefix("agent-mesh:")).unwrap_or_default();
    name.split(' ').next().is_some_and(|claimed| claimed.eq_ignore_ascii_case(wanted))
}

fn one<T>(rows: Vec<T>, wanted: &str, fits: impl Fn(&T) -> bool) -> Result<T, MeshError> {
    let mut found: Vec<T> = rows.into_iter().filter(fits).collect();
    match (found.pop(), found.len()) {
        (Some(row), 0) => Ok(row),
        (Some(_), more) => {
            let what = format!("{} devices fit `{wanted}`: name one by its id", more + 1);
            Err(MeshError::NoSuchPairing { what })
        }
        (None, _) => Err(MeshError::NoSuchPairing { what: format!("no device fits `{wanted}`") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c";

    #[test]
    fn a_device_is_meant_by_its_id_or_the_registrys() {
        let pinned = Some(ID.to_owned());
        assert!(is_device("56475AA7", NAMING_DIGITS, &None, ID));
        assert!(!is_device("56475a", NAMING_DIGITS, &None, ID), "fewer than eight digits are no device id");
        assert!(is_device("alice", NAMING_DIGITS, &pinned, ID));
        assert!(!is_device("alice", NAMING_DIGITS, &pinned, &ID.replace('5', "6")));
    }

    #[test]
    fn a_claimed_name_never_stands_for_a_request() {
        let mallory = PendingDevice {
            request_id: "r1".into(),
            device_id: ID.replace('5', "6"),
            display_name: Some("agent-mesh:alice (56475aa7)".into()),
            ..PendingDevice::default()
        };
        assert!(claims(mallory.display_name.as_deref(), "Alice"));
        assert!(!is_meant("alice", &None, &mallory));
        assert!(!is_meant("alice", &Some(ID.to_owned()), &mallory));
        assert!(is_meant("r1", &None, &mallory));
        assert!(
            !is_meant(&mallory.device_id[..15], &None, &mallory),
            "fewer than 16 digits can be made to fit"
        );
        assert!(is_meant(&mallory.device_id[..16], &None, &mallory));
    }

    #[test]
    fn more_than_one_is_never_guessed() {
        assert_eq!(one(vec![1, 2], "x", |n| *n == 2).ok(), Some(2));
        let error = one(vec![1, 1], "x", |n| *n == 1).unwrap_err().to_string();
        assert_eq!(error, "2 devices fit `x`: name one by its id");
    }
}
