//! A connection to a peer's gateway, with our own device and never more rights than it takes to talk.

use jiff::Timestamp;
use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::SCOPE_WRITE;
use openclaw_client::protocol::methods::info::GatewayIdentityGet;
use openclaw_client::{Access, Challenged, Client, ConnectError, Credential, Early, Link, Secret, Trace};
use tokio::time::{Duration, Instant, sleep};

use crate::device::DeviceKey;
use crate::error::MeshError;
use crate::filed::PairRequest;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::route::recognize;
use crate::secrets::DeviceToken;

/// The first pause between two attempts to connect, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The credential we would show a peer: the token its gateway gave our device, else the shared one. Who ever gave us one
/// of our own is not shown the shared one again, unless the user asks for it with `pair`.
pub(crate) fn credential(mesh: &Mesh, peer: &Peer) -> Result<Credential, MeshError> {
    if let Some(token) = mesh.device_token(&peer.to.email_prefix)? {
        return Ok(Credential::Device(token.token.clone()));
    }
    if mesh.has_issued(&peer.to.email_prefix)? {
        return Err(MeshError::TokenOfAnotherDevice { to: peer.to.clone() });
    }
    let shared = mesh.shared_token(&peer.to.email_prefix)?;
    Ok(shared.map_or(Credential::None, |token| Credential::Shared(token.clone())))
}

/// The same, where there has to be one: or a request of ours, at a gateway that took it without any. If that was approved,
/// our device is enough, and the gateway gives it a token.
pub(crate) fn credential_to_talk(mesh: &Mesh, peer: &Peer) -> Result<Credential, MeshError> {
    match credential(mesh, peer).map_err(|error| asked(mesh, peer).unwrap_or(error))? {
        Credential::None => match no_credential(mesh, peer) {
            MeshError::Filed { .. } => Ok(Credential::None),
            error => Err(error),
        },
        credential => Ok(credential),
    }
}

/// Connects with our device, to talk.
async fn connect(
    mesh: &Mesh,
    peer: &Peer,
    credential: Credential,
    deadline: Instant,
) -> Result<Client, MeshError> {
    let client = match connect_with(mesh, peer, credential, deadline, &mut Trace::default()).await {
        // It is the one of before, and the invite brings another.
        Err(error) if error.refusal() == Some(Fault::DeviceTokenMismatch) => {
            return Err(asked(mesh, peer).unwrap_or(error));
        }
        connected => connected?,
    };
    // Protocol 3 says nothing of rights: there the first call shows.
    match &client.hello().auth {
        Some(granted) if !granted.allows(SCOPE_WRITE) => {
            Err(MeshError::Scope { to: peer.to.clone(), missing: SCOPE_WRITE.to_owned() })
        }
        _ => Ok(client),
    }
}

/// We have nothing to show a peer: how far we came with him before.
pub(crate) fn no_credential(mesh: &Mesh, peer: &Peer) -> MeshError {
    let filed = || filed(mesh, peer);
    asked(mesh, peer).or_else(filed).unwrap_or_else(|| MeshError::NoCredential { to: peer.to.clone() })
}

/// Whether it is a request that has to be approved.
pub(crate) fn filed(mesh: &Mesh, peer: &Peer) -> Option<MeshError> {
    let PairRequest { request_id, at, denied, .. } = mesh.filed().at(&peer.to, &peer.endpoint.to_string())?;
    Some(MeshError::Filed { to: peer.to.clone(), request_id, at, denied })
}

/// Whether it is an invite that has to be given again.
fn asked(mesh: &Mesh, peer: &Peer) -> Option<MeshError> {
    let request = mesh.asked().of(&peer.to)?;
    Some(MeshError::Asked { to: peer.to.clone(), at: request.at })
}

/// Connects as [`connect`] does, and tries again while the gateway says that it is starting or restarting.
pub(crate) async fn connect_ready(
    mesh: &Mesh,
    peer: &Peer,
    credential: Credential,
    deadline: Instant,
) -> Result<Client, MeshError> {
    retry(mesh, peer, credential, deadline, |error| busy(error).is_some()).await
}

/// Connects as [`connect`] does, and tries again while the gateway cannot be reached, too: it was there before.
pub(crate) async fn connect_patiently(
    mesh: &Mesh,
    peer: &Peer,
    credential: Credential,
    deadline: Instant,
) -> Result<Client, MeshError> {
    retry(mesh, peer, credential, deadline, |error| busy(error).is_some() || error.is_unreachable()).await
}

/// Tries again with growing pauses, or when the gateway says; never after an error that `again` does not name.
async fn retry(
    mesh: &Mesh,
    peer: &Peer,
    credential: Credential,
    deadline: Instant,
    again: impl Fn(&MeshError) -> bool,
) -> Result<Client, MeshError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match connect(mesh, peer, credential.clone(), deadline).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let wait = busy(&error).unwrap_or_default().max(jittered(pause));
        if !again(&error) || Instant::now() + wait >= deadline {
            return Err(error);
        }
        tracing::debug!(%error, ?wait, "trying again");
        sleep(wait).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// How long a gateway that is starting or restarting wants to be left alone.
fn busy(error: &MeshError) -> Option<Duration> {
    let MeshError::Connect { source, .. } = error else { return None };
    match &**source {
        ConnectError::Http(503) => Some(Duration::from_secs(1)),
        ConnectError::Refused(shape) => match shape.fault() {
            Fault::Unavailable { retry_after_ms, .. } => {
                Some(Duration::from_millis(retry_after_ms.unwrap_or(500)))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Half to all of a pause, so that many who lost one gateway do not come back at one moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness the middle is as good as any.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}

/// Connects with our device and this credential, makes sure that it is the gateway we know, and only then keeps the
/// device token if it gives one.
pub(crate) async fn connect_with(
    mesh: &Mesh,
    peer: &Peer,
    credential: Credential,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Client, MeshError> {
    let device = mesh.device()?;
    let access = Access::peer(credential.clone(), mesh.display_name()?);
    let dialled = dial(mesh, peer, access, device, deadline, trace).await.map_err(|error| peer.failed(error));
    if let Err(error) = &dialled {
        note_request(mesh, peer, error);
    }
    let (client, asked) = dialled?;
    recognize::check(mesh, peer, &client, asked, peer.extended(deadline)).await?;
    keep_device_token(mesh, peer, &client, &credential)?;
    Ok(client)
}

/// Remembers where a request of ours stands. If it cannot be, only who looks later knows less.
fn note_request(mesh: &Mesh, peer: &Peer, error: &MeshError) {
    let noted = match error.refusal() {
        Some(Fault::PairingRequired { request_id: Some(id), .. }) => {
            mesh.filed().note(&peer.to, &id, peer.endpoint.to_string())
        }
        Some(Fault::PolicyDenied { rule, .. }) => {
            mesh.filed().denied(&peer.to, rule.as_deref().unwrap_or("a rule"))
        }
        _ => Ok(()),
    };
    if let Err(error) = noted {
        tracing::debug!(%error, "where our request stands is not remembered");
    }
}

/// Dials, waits for the challenge, says who we are. Who has never been met has to be asked who he is, and is at once.
async fn dial(
    mesh: &Mesh,
    peer: &Peer,
    access: Access,
    device: &DeviceKey,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<(Client, Option<Early<GatewayIdentityGet>>), ConnectError> {
    let challenged = challenge(mesh, peer, deadline, trace).await?;
    let deadline = peer.extended(deadline);
    if recognize::is_stranger(mesh, peer) {
        let question = GatewayIdentityGet {};
        let asking = challenged.authenticate_asking(access, Some(device), &question, deadline, trace);
        return asking.await.map(|(client, asked)| (client, Some(asked)));
    }
    Ok((challenged.authenticate(access, Some(device), deadline, trace).await?, None))
}

/// Dials and waits for the challenge. Until it came, the connect timeout is in force too: an address where nobody lives
/// must not use up the time meant for the reply, nor the turn of another peer.
pub(crate) async fn challenge(
    mesh: &Mesh,
    peer: &Peer,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Challenged, ConnectError> {
    loop {
        let dialled = Box::pin(async {
            let early = peer.extended(deadline).min(Instant::now() + mesh.config().connect_timeout);
            let link = Link::dial(&peer.endpoint, &peer.dial, early, trace).await?;
            link.challenge(early, trace).await
        });
        let Some(turn) = &peer.turn else { return dialled.await };
        match turn.lend(dialled).await {
            (Ok(_), true) => trace.steps.clear(),
            (answer, _) => return answer,
        }
    }
}

/// Keeps the token that a gateway gave our device, if it is another than we have shown.
pub(crate) fn keep_device_token(
    mesh: &Mesh,
    peer: &Peer,
    client: &Client,
    shown: &Credential,
) -> Result<(), MeshError> {
    let Some(granted) = &client.hello().auth else { return Ok(()) };
    let Some(token) = &granted.device_token else { return Ok(()) };
    let token = Secret::new(token.clone());
    if matches!(shown, Credential::Device(known) if *known == token) {
        return Ok(());
    }
    let token = DeviceToken {
        token,
        device_id: mesh.device()?.id().to_owned(),
        scopes: granted.scopes.clone(),
        issued_at: Timestamp::now(),
        url: peer.endpoint.to_string(),
    };
    mesh.keep_device_token(&peer.to.email_prefix, token)?;
    Ok(mesh.filed().forget(&peer.to)?)
}
