//! Inviting somebody: a one-time code of our own gateway, and whatever else they need.

use std::path::PathBuf;

use jiff::Timestamp;
use openclaw_client::protocol::methods::device::{MintSetupCode, PendingDevice, SetupCode};
use openclaw_client::protocol::methods::info::GatewayIdentityGet;
use openclaw_client::{CallError, Endpoint, Fingerprint};
use tokio::time::{Duration, Instant};

use crate::error::{MeshError, with_cause};
use crate::invite::proof::Proof;
use crate::invite::{Invite, InviteError, Standing, decode_setup_code};
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;
use crate::record::To;
use crate::registry::{Agent, LookupError, NoAddress, RegistryError, check_device_id};

/// How long a gateway lets a one-time code live. It cannot be asked for more.
pub const LONGEST: Duration = Duration::from_secs(600);

/// What an invite shall say.
#[derive(Debug, Clone)]
pub struct InviteOptions {
    /// Where they reach our gateway, if it is not what the registry says of ourselves.
    pub url: Option<Endpoint>,
    /// How long it is good for; at most [`LONGEST`].
    pub expires: Duration,
}

/// An invite that was made. It is remembered here for whom.
#[derive(Debug, Clone)]
pub struct Sent {
    /// For whom.
    pub to: To,
    /// Whether the registry knows them.
    pub is_known: bool,
    /// The invite.
    pub invite: Invite,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The devices that showed an invite of ours, those that show one while they wait among them, and whose they are. That
/// they were let in is our gateway's to say.
///
/// # Errors
/// When the file of invites cannot be used.
pub fn guests(mesh: &Mesh, waiting: &[PendingDevice]) -> Result<Vec<(String, To)>, MeshError> {
    let (guests, now) = (mesh.sent_invites().read()?, Timestamp::now());
    let shows = |row: &PendingDevice| match guests.standing(row.display_name.as_deref()?, &row.device_id, now)
    {
        Some(Standing::Open(to)) => Some((row.device_id.clone(), to)),
        _ => None,
    };
    let known = guests.devices().map(|(id, to)| (id.to_owned(), to));
    Ok(known.chain(waiting.iter().filter_map(shows)).collect())
}

/// Gives an open invite of ours to a device that is in already and shows it by its name: it is called so from then on.
///
/// # Errors
/// As [`guests`].
pub fn shown(mesh: &Mesh, device_id: &str, name: &str) -> Result<(), MeshError> {
    let invites = mesh.sent_invites();
    if let Some(Standing::Open(_)) = invites.read()?.standing(name, device_id, Timestamp::now()) {
        invites.bind(name, device_id)?;
    }
    Ok(())
}

/// The file that [`guests`] reads.
#[must_use]
pub fn guests_path(mesh: &Mesh) -> PathBuf {
    mesh.sent_invites().path().to_owned()
}

/// Makes an invite for a teammate, or for somebody who is none yet.
///
/// # Errors
/// When nothing says who we are, the name fits several teammates, or our own gateway makes no code.
pub async fn invite(
    mesh: &Mesh,
    name: &str,
    options: &InviteOptions,
    deadline: Instant,
) -> Result<Sent, MeshError> {
    let (to, is_known) = guest(mesh, name)?;
    let us = ourselves(mesh)?;
    let chosen = match &options.url {
        Some(url) => Some(url.clone()),
        None => own_address(&us)?,
    };
    let own = OwnGateway::connect_as_admin(mesh, deadline).await?;
    let made = async {
        let code = mint(&own, chosen.as_ref(), deadline).await?;
        Ok::<_, MeshError>((code, identity(&own, deadline).await))
    };
    let made = made.await;
    own.close().await;
    let (code, gateway_id) = made?;

    let url = match chosen {
        Some(url) => url,
        None => code.url.parse().map_err(InviteError::Url)?,
    };
    let proof = Proof::generate().map_err(crate::device::DeviceKeyError::NoEntropy)?;
    let expires_at = end(&code, options.expires);
    let invite = Invite {
        from: Some(To::from(&us)),
        pin: pin(&us, &code, &url)?,
        url,
        expires_at: Some(expires_at),
        gateway_id,
        code: openclaw_client::Secret::new(code.bootstrap_token),
        proof: Some(proof.clone()),
    };
    mesh.sent_invites().add(&to, &proof, expires_at)?;
    Ok(Sent { to, is_known, invite, expires_at })
}

/// Whom a name means. Somebody who is not in the registry may be invited, too: under the name as it stands.
fn guest(mesh: &Mesh, name: &str) -> Result<(To, bool), MeshError> {
    let found = match mesh.registry() {
        Ok(registry) => registry.find(name).map(To::from),
        Err(MeshError::Registry(RegistryError::Missing { .. })) => {
            return Ok((stranger(name)?, false));
        }
        Err(error) => return Err(error),
    };
    let (to, is_known) = match found {
        Ok(to) => (to, true),
        Err(LookupError::Unknown { .. }) => (stranger(name)?, false),
        Err(error) => return Err(error.into()),
    };
    let me = mesh.require_identity()?;
    if me.email_prefix.eq_ignore_ascii_case(&to.email_prefix) {
        return Err(MeshError::Usage(format!("{} is ourselves", to.name)));
    }
    Ok((to, is_known))
}

/// Somebody the registry does not know, by a name or an e-mail address.
pub(super) fn stranger(name: &str) -> Result<To, MeshError> {
    let prefix = name.split('@').next().unwrap_or_default();
    let agent = Agent::new(prefix, prefix.to_lowercase());
    match agent.check() {
        Ok(()) => Ok(To::from(&agent)),
        Err((_, error)) => Err(MeshError::Usage(format!("`{name}` cannot be a teammate's name: {error}"))),
    }
}

/// What the registry says of ourselves; at least the name.
fn ourselves(mesh: &Mesh) -> Result<Agent, MeshError> {
    let me = mesh.require_identity()?;
    let entry = match mesh.registry() {
        Ok(registry) => registry.agents.iter().find(|agent| mesh.is_me(agent)).cloned(),
        Err(MeshError::Registry(RegistryError::Missing { .. })) => None,
        Err(error) => return Err(error),
    };
    Ok(entry.unwrap_or_else(|| Agent::new(&me.email_prefix, &me.email_prefix)))
}

fn own_address(us: &Agent) -> Result<Option<Endpoint>, MeshError> {
    match us.address() {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(NoAddress::Unknown { .. }) => Ok(None),
        Err(error) => Err(MeshError::NoAddress { to: To::from(us), reason: with_cause(&error) }),
    }
}

/// A gateway that knows where it is reached says so, and what certificate it shows; one that does not is told.
async fn mint(
    own: &OwnGateway,
    chosen: Option<&Endpoint>,
    deadline: Instant,
) -> Result<SetupCode, MeshError> {
    let made = match (own.try_call(&MintSetupCode::limited(None), deadline).await, chosen) {
        (Err(CallError::Refused(_)), Some(url)) => {
            own.try_call(&MintSetupCode::limited(Some(url.to_string())), deadline).await
        }
        (made, _) => made,
    };
    let made = made.map_err(|source| MeshError::NotMinted { source })?;
    Ok(decode_setup_code(&made.setup_code)?)
}

/// The gateway's own name for itself; old ones have none.
async fn identity(own: &OwnGateway, deadline: Instant) -> Option<String> {
    let identity = own.call(&GatewayIdentityGet {}, deadline).await.ok()?;
    check_device_id(&identity.device_id).is_ok().then_some(identity.device_id)
}

fn end(code: &SetupCode, expires: Duration) -> Timestamp {
    let now = Timestamp::now();
    let asked = now.checked_add(expires.min(LONGEST)).unwrap_or(Timestamp::MAX);
    let given = code.expires_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    given.map_or(asked, |given| given.min(asked))
}

/// The certificate they will see: the one the registry has for us, or the gateway's own where it is the gateway itself
/// that answers at this address, which we take its port for.
fn pin(us: &Agent, code: &SetupCode, url: &Endpoint) -> Result<Option<Fingerprint>, MeshError> {
    let damaged = |_| MeshError::from(InviteError::Damaged("tlsFingerprint"));
    if !url.is_tls() {
        return Ok(None);
    }
    if let Ok(Some(pin)) = us.tls_pin() {
        return Ok(Some(pin));
    }
    let same_port = code.url.parse::<Endpoint>().is_ok_and(|own| own.port() == url.port());
    code.tls_fingerprint.as_deref().filter(|_| same_port).map(str::parse).transpose().map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(url: &str) -> SetupCode {
        SetupCode { url: url.into(), tls_fingerprint: Some("ab".repeat(32)), ..SetupCode::default() }
    }

    #[test]
    fn the_pin_is_of_what_answers_at_the_address() {
        let us = Agent::new("Bob", "bob");
        let listed = Agent { tls_fingerprint: Some("cd".repeat(32)), ..us.clone() };
        let direct = code("wss://10.0.0.11:18789");
        let pin_at = |us: &Agent, url: &str| {
            pin(us, &direct, &url.parse().unwrap()).unwrap().map(|pin| pin.to_string()[..2].to_owned())
        };
        assert_eq!(pin_at(&us, "wss://bob.example.com:18789").as_deref(), Some("ab"));
        assert_eq!(pin_at(&us, "wss://bob.example.com"), None, "a proxy has a certificate of its own");
        assert_eq!(pin_at(&us, "ws://10.0.0.11:18789"), None);
        assert_eq!(pin_at(&listed, "wss://bob.example.com").as_deref(), Some("cd"));
    }

    #[test]
    fn an_invite_ends_with_its_code_or_sooner() {
        let in_ms = |ms: i64| Timestamp::now().as_millisecond() + ms;
        let code = SetupCode { expires_at_ms: Some(in_ms(600_000)), ..SetupCode::default() };
        let left =
            |code: &SetupCode, secs| (end(code, Duration::from_secs(secs)) - Timestamp::now()).get_seconds();
        assert!((290..=300).contains(&left(&code, 300)));
        assert!((590..=600).contains(&left(&code, 3600)));
        assert!((590..=600).contains(&left(&SetupCode::default(), 3600)), "an old gateway does not say");
    }

    #[test]
    fn a_stranger_has_a_name_that_a_registry_would_take() {
        assert_eq!(stranger("Carol@example.com").unwrap().email_prefix, "carol");
        for bad in ["", "@example.com", "two words", "a\u{7}"] {
            assert!(matches!(stranger(bad), Err(MeshError::Usage(_))), "{bad:?}");
        }
    }
}
