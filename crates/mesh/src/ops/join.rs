//! Redeeming an invite: our device asks, the inviter's side lets it in, and from then on its own token is enough.

use jiff::{SignedDuration, Timestamp};
use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::SCOPE_WRITE;
use openclaw_client::protocol::methods::info::GatewayIdentityGet;
use openclaw_client::{Access, CallError, Client, ConnectError, Credential, Fingerprint, Trace};
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep};

use super::init::starter_entry;
use super::invite::{LONGEST, stranger};
use super::pair::POLL;
use crate::error::MeshError;
use crate::invite::Invite;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pins::{Mark, PinnedBy};
use crate::private_file;
use crate::progress::{Observer, Progress};
use crate::record::To;
use crate::registry::{Agent, LookupError, Registry, RegistryError};
use crate::route::{gateway, recognize};

/// Clocks differ: an invite that ended only so long ago, as ours says, is looked at by its gateway's. It is what a gateway
/// bears with, too.
const SKEW: SignedDuration = SignedDuration::from_mins(2);
/// So long it is tried at least, however little time the invite seems to have.
const AT_LEAST: Duration = Duration::from_secs(15);

/// How an invite is redeemed.
#[derive(Debug, Clone, Default)]
pub struct JoinOptions {
    /// Who sent it: for setup codes of OpenClaw's, which do not say.
    pub from: Option<String>,
    /// How long to wait for the approval; without it, as long as the invite is good.
    pub timeout: Option<Duration>,
    /// Whether the invite wins over what the registry says of its sender.
    pub replace: bool,
}

/// Where we stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// With whom.
    pub peer: To,
    /// Whether we are in.
    pub status: JoinStatus,
    /// Where their gateway is.
    pub address: String,
    /// What they approve; none once we are in.
    pub request_id: Option<String>,
    /// What became of the registry; none before we are in.
    pub registry: Option<Enrolled>,
}

/// Whether an invite let us in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinStatus {
    /// They have to approve the request.
    Pending,
    /// We are in by it.
    Approved,
    /// We were in before, and the gateway does not take this invite: they know us by what let us in then.
    AlreadyIn,
}

/// What the registry says of a teammate who let us in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Enrolled {
    /// They are in it now.
    Added,
    /// It knew them, and says this otherwise now.
    Changed {
        /// The fields.
        fields: Vec<&'static str>,
    },
    /// It said the same already.
    Unchanged,
}

/// Redeems an invite. Interrupted, or out of time, it can be done again: the code is our device's from the first time on.
///
/// # Errors
/// When the invite does not say who sent it and nobody else does, the gateway cannot be reached or is not the one that
/// was meant, or the code is over, used by another device, or wrong.
pub async fn join(
    mesh: &Mesh,
    invite: &Invite,
    options: &JoinOptions,
    observer: &mut dyn Observer,
) -> Result<Joined, MeshError> {
    let peer = Peer::new(mesh, &entry(mesh, invite, options)?)?;
    let peer = if invite.pin.is_some() { peer.pinned_by(PinnedBy::Invite) } else { peer };
    let deadline = Instant::now() + options.timeout.unwrap_or_else(|| time_left(invite));
    // The code is ours since we showed it, and the gateway takes it for its full time, whatever the invite says.
    let is_ours = mesh.asked().of(&peer.to).is_some_and(|request| request.url == peer.endpoint.to_string());
    if !is_ours && ended(invite, Timestamp::now() - SKEW) {
        return Err(MeshError::InviteEnded { to: peer.to });
    }
    let mut asked: Option<String> = None;
    let mut cut = false;
    loop {
        match knock(mesh, &peer, invite, is_ours || asked.is_some(), deadline).await {
            Ok(()) => return enter(mesh, peer, invite, options, JoinStatus::Approved),
            Err(error) => match (error.refusal(), &asked) {
                (Some(Fault::PairingRequired { request_id: Some(id), .. }), _) => {
                    if asked.as_ref() != Some(&id) {
                        mesh.asked().note(&peer.to, peer.endpoint.to_string())?;
                        observer.progress(Progress::PairingPending { to: &peer.to, request_id: &id });
                        asked = Some(id);
                    }
                }
                // A device that was in has a new name by the invite, and is called again by that.
                _ if !cut && was_cut(&error) => cut = true,
                // A gateway that was there before comes back.
                (Some(Fault::Unavailable { .. }), _) => tracing::debug!(%error, "trying again"),
                (_, Some(_)) if error.is_unreachable() => tracing::debug!(%error, "trying again"),
                _ if is_worthless(&error) && is_in(mesh, &peer, deadline).await? => {
                    return enter(mesh, peer, invite, options, JoinStatus::AlreadyIn);
                }
                // Nobody is there to say what time it is.
                _ if error.is_unreachable() && !is_ours && ended(invite, Timestamp::now()) => {
                    return Err(MeshError::InviteEnded { to: peer.to });
                }
                _ => return Err(error),
            },
        }
        if Instant::now() + POLL >= deadline {
            return Ok(not_yet(peer, asked));
        }
        sleep(POLL).await;
    }
}

/// Whether the gateway let us in and then ended the connection.
fn was_cut(error: &MeshError) -> bool {
    matches!(error, MeshError::Call { source: CallError::Lost(_) | CallError::Unsent(_), .. })
}

fn not_yet(peer: Peer, request_id: Option<String>) -> Joined {
    let (status, address) = (JoinStatus::Pending, peer.endpoint.to_string());
    Joined { peer: peer.to, status, address, request_id, registry: None }
}

/// The sender as a teammate, at the address of the invite. A registry that says otherwise is believed: whoever wrote the
/// invite could else put himself in somebody's place.
fn entry(mesh: &Mesh, invite: &Invite, options: &JoinOptions) -> Result<Agent, MeshError> {
    let registry = match mesh.registry() {
        Ok(registry) => registry.clone(),
        Err(MeshError::Registry(RegistryError::Missing { .. })) => Registry::default(),
        Err(error) => return Err(error),
    };
    let to = sender(&registry, invite, options.from.as_deref())?;
    if mesh.identity()?.is_some_and(|me| me.email_prefix.eq_ignore_ascii_case(&to.email_prefix)) {
        return Err(MeshError::Usage("this invite is our own".to_owned()));
    }
    let known = registry.by_prefix(&to.email_prefix);
    let pinned = known.and_then(|agent| agent.tls_pin().ok().flatten());
    if !options.replace {
        agree(&to, known, pinned, invite)?;
    }
    let pin = if options.replace { invite.pin.or(pinned) } else { pinned.or(invite.pin) };
    Ok(Agent {
        url: Some(invite.url.to_string()),
        tls_fingerprint: pin.map(|pin| pin.to_string()),
        ..Agent::new(to.name, to.email_prefix)
    })
}

fn agree(
    to: &To,
    known: Option<&Agent>,
    pinned: Option<Fingerprint>,
    invite: &Invite,
) -> Result<(), MeshError> {
    let elsewhere = |agent: &&Agent| agent.alternative().as_ref() != Some(&invite.url);
    let address = known.filter(elsewhere).and_then(|agent| agent.address().ok());
    if let Some(address) = address.filter(|known| *known != invite.url) {
        let (registry, invite) = (address.to_string(), invite.url.to_string());
        return Err(MeshError::InviteElsewhere { to: to.clone(), registry, invite });
    }
    match (pinned, invite.pin) {
        (Some(known), Some(new)) if known != new => Err(MeshError::IdentityChanged {
            to: to.clone(),
            mark: Mark::Certificate,
            old: known.to_string(),
            new: new.to_string(),
            pinned_by: PinnedBy::Registry,
        }),
        _ => Ok(()),
    }
}

/// Who sent it: whom the user names, else whom the invite names, else who lives at its address.
fn sender(registry: &Registry, invite: &Invite, from: Option<&str>) -> Result<To, MeshError> {
    if let Some(name) = from {
        return match registry.find(name) {
            Ok(agent) => Ok(To::from(agent)),
            Err(LookupError::Unknown { .. }) => stranger(name),
            Err(error) => Err(error.into()),
        };
    }
    if let Some(from) = &invite.from {
        let known = registry.by_prefix(&from.email_prefix);
        return Ok(known.map_or_else(|| from.clone(), To::from));
    }
    let mut there = registry.agents.iter().filter(|agent| agent.address().ok().as_ref() == Some(&invite.url));
    match (there.next(), there.next()) {
        (Some(agent), None) => Ok(To::from(agent)),
        _ => Err(MeshError::Usage("this code does not say who sent it: add --from NAME".to_owned())),
    }
}

fn is_of(agent: &Agent, to: &To) -> bool {
    agent.email_prefix.eq_ignore_ascii_case(&to.email_prefix)
}

/// Whether an invite has ended at this time.
fn ended(invite: &Invite, now: Timestamp) -> bool {
    invite.expires_at.is_some_and(|end| end <= now)
}

fn time_left(invite: &Invite) -> Duration {
    let Some(end) = invite.expires_at else { return LONGEST };
    Duration::try_from(end - Timestamp::now()).unwrap_or_default().max(AT_LEAST)
}

/// Shows the code once; one that has ended only if it is our device's already. When we are let in, our own token is kept.
async fn knock(
    mesh: &Mesh,
    peer: &Peer,
    invite: &Invite,
    is_ours: bool,
    deadline: Instant,
) -> Result<(), MeshError> {
    let failed = |source| peer.failed(source);
    let mut trace = Trace::default();
    let challenged = gateway::challenge(mesh, peer, deadline, &mut trace).await.map_err(failed)?;
    // By their clock, which is the one that counts.
    let is_over = invite.expires_at.is_some_and(|end| end.as_millisecond() <= challenged.gateway_time_ms());
    if is_over && !is_ours {
        return Err(MeshError::InviteEnded { to: peer.to.clone() });
    }
    let device = mesh.device()?;
    let name = mesh.display_name()?;
    let name = invite.proof.as_ref().map_or(name.clone(), |proof| proof.sign(&name, device.id()));
    let code = Credential::Bootstrap(invite.code.clone());
    let access = Access::peer(code.clone(), name);
    let client = match challenged.authenticate(access, Some(device), deadline, &mut trace).await {
        Ok(client) => client,
        Err(ConnectError::Refused(shape)) if shape.fault() == Fault::BootstrapTokenInvalid => {
            return Err(if is_over {
                MeshError::InviteEnded { to: peer.to.clone() }
            } else {
                failed(ConnectError::Refused(shape))
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let checked = check(mesh, peer, invite, &client, deadline).await;
    let kept = checked.and_then(|()| gateway::keep_device_token(mesh, peer, &client, &code));
    client.close().await;
    kept
}

/// Whether it is the gateway that the invite is for, and the one we know, if we know it; and gives us what it promises.
async fn check(
    mesh: &Mesh,
    peer: &Peer,
    invite: &Invite,
    client: &Client,
    deadline: Instant,
) -> Result<(), MeshError> {
    let to = || peer.to.clone();
    match &client.hello().auth {
        Some(granted) if !granted.allows(SCOPE_WRITE) => {
            return Err(MeshError::Scope { to: to(), missing: SCOPE_WRITE.to_owned() });
        }
        Some(granted) if granted.device_token.is_some() => {}
        _ => return Err(MeshError::NoDeviceToken { to: to() }),
    }
    if let Some(expected) = &invite.gateway_id {
        let shown = client.call(&GatewayIdentityGet {}, deadline).await;
        let shown = shown.map_err(|source| MeshError::Call { to: to(), source })?.device_id;
        if !shown.eq_ignore_ascii_case(expected) {
            return Err(MeshError::IdentityChanged {
                to: to(),
                mark: Mark::Identity,
                old: expected.clone(),
                new: shown,
                pinned_by: PinnedBy::Invite,
            });
        }
    }
    recognize::check(mesh, peer, client, None, deadline).await
}

fn is_worthless(error: &MeshError) -> bool {
    error.refusal() == Some(Fault::BootstrapTokenInvalid)
}

/// Whether we came in before, so that an invite that is used up is no loss.
async fn is_in(mesh: &Mesh, peer: &Peer, deadline: Instant) -> Result<bool, MeshError> {
    let Some(token) = mesh.device_token(&peer.to.email_prefix)? else { return Ok(false) };
    let token = Credential::Device(token.token.clone());
    match gateway::connect_with(mesh, peer, token, deadline, &mut Trace::default()).await {
        Ok(client) => {
            client.close().await;
            Ok(true)
        }
        Err(error) if error.refusal().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

fn enter(
    mesh: &Mesh,
    peer: Peer,
    invite: &Invite,
    options: &JoinOptions,
    status: JoinStatus,
) -> Result<Joined, MeshError> {
    let registry = Some(enroll(mesh, &peer.to, invite, options.replace)?);
    mesh.asked().forget(&peer.to)?;
    let address = peer.endpoint.to_string();
    Ok(Joined { peer: peer.to, status, address, request_id: None, registry })
}

/// Puts the teammate into the registry, and before him ourselves if it lists nobody, as `init` does. What it says already
/// stays, unless `replace`; what it does not say is filled in.
fn enroll(mesh: &Mesh, peer: &To, invite: &Invite, replace: bool) -> Result<Enrolled, MeshError> {
    let path = &mesh.config().registry;
    let _lock = private_file::lock(&mesh.config().state_dir.join("sync/registry"))?;
    let mut registry = match Registry::load(path) {
        Err(RegistryError::Missing { .. }) => Registry::default(),
        other => other?,
    };
    if registry.agents.is_empty() {
        registry.agents.extend(mesh.identity()?.map(|me| starter_entry(&me.email_prefix)));
    }
    let (agent, is_new) = match registry.agents.iter().position(|agent| is_of(agent, peer)) {
        Some(index) => (&mut registry.agents[index], false),
        None => {
            registry.agents.push(Agent::new(&peer.name, &peer.email_prefix));
            let last = registry.agents.len() - 1;
            (&mut registry.agents[last], true)
        }
    };
    let fields = complete(agent, invite, replace);
    if !is_new && fields.is_empty() {
        return Ok(Enrolled::Unchanged);
    }
    registry.save(path)?;
    Ok(if is_new { Enrolled::Added } else { Enrolled::Changed { fields } })
}

/// Gives the names of the fields that changed.
fn complete(agent: &mut Agent, invite: &Invite, replace: bool) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let address = agent.address().ok();
    if address.is_none() || (replace && address.as_ref() != Some(&invite.url)) {
        agent.url = Some(invite.url.to_string());
        fields.push("url");
    }
    let pinned = agent.tls_pin().ok().flatten();
    if invite.pin.is_some() && invite.pin != pinned && (replace || pinned.is_none()) {
        agent.tls_fingerprint = invite.pin.map(|pin| pin.to_string());
        fields.push("tlsFingerprint");
    }
    fields
}

#[cfg(test)]
mod tests;
