//! One teammate, ready to be called.

use std::sync::Arc;

use openclaw_client::{ConnectError, DialOptions, Endpoint, Exposure, Fingerprint};
use tokio::time::{Duration, Instant};

use crate::config::PlainText;
use crate::crowd::Turn;
use crate::error::{MeshError, with_cause};
use crate::mesh::Mesh;
use crate::pins::{Mark, PinnedBy};
use crate::record::To;
use crate::registry::{Agent, Via};
use crate::route::a2a::context_id;

/// A teammate's gateway: where it is, and how we would know it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Whose.
    pub to: To,
    /// Where.
    pub endpoint: Endpoint,
    pub(crate) dial: DialOptions,
    /// The A2A endpoint, for a message that goes there in place of a gateway.
    pub(crate) a2a: Option<String>,
    /// Where it is one of many.
    pub(crate) turn: Option<Arc<Turn>>,
    pinned_by: PinnedBy,
}

impl Peer {
    /// Prepares a call to a teammate. Touches no network.
    ///
    /// # Errors
    /// When there is no usable address, the connection would be overheard, or a certificate is pinned and the address has
    /// none.
    pub fn new(mesh: &Mesh, agent: &Agent) -> Result<Self, MeshError> {
        let to = To::from(agent);
        let unusable = |reason: String| MeshError::NoAddress { to: to.clone(), reason };
        let endpoint = agent.address().map_err(|error| unusable(with_cause(&error)))?;
        let (pin, pinned_by) = pin(mesh, agent, &to, &endpoint)?;
        let mut dial = DialOptions { pin, tls: mesh.tls().clone(), ..DialOptions::default() };
        dial.private_only = private_only(&endpoint, mesh.config().plain_text)?;
        // Where it may not be dialled in plain text, there is only the first.
        if let Some(second) = agent.alternative()
            && let Ok(only) = private_only(&second, mesh.config().plain_text)
        {
            dial.private_only |= only;
            dial.alternatives.push(second);
        }
        Ok(Self { to, endpoint, dial, a2a: None, turn: None, pinned_by })
    }

    /// Prepares a message by this route. Touches no network.
    ///
    /// # Errors
    /// As [`Peer::new`].
    pub fn by_route(mesh: &Mesh, agent: &Agent, via: Via) -> Result<Self, MeshError> {
        if via != Via::A2a {
            return Self::new(mesh, agent);
        }
        let to = To::from(agent);
        let unusable = |reason: String| MeshError::NoAddress { to: to.clone(), reason };
        let url = agent.a2a_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| unusable("it has no a2aUrl".to_owned()))?;
        // The same host and port as a gateway's address would have them, for the same question: who may overhear it.
        let plain = url.strip_prefix("http").ok_or_else(|| unusable("a2aUrl".to_owned()))?;
        let endpoint: Endpoint = format!("ws{plain}")
            .parse()
            .map_err(|error| unusable(format!("a2aUrl: {}", with_cause(&error))))?;
        if private_only(&endpoint, mesh.config().plain_text)? {
            // What a name leads to is not looked at on this route.
            return Err(MeshError::PlainText { endpoint: url.to_owned() });
        }
        let (pin, pinned_by) = match is_pinned_there(agent, &endpoint) {
            true => pin(mesh, agent, &to, &endpoint)?,
            false => (None, PinnedBy::Us),
        };
        if let (Some(pin), false) = (pin, endpoint.is_tls()) {
            let (old, new) = (pin.to_string(), format!("none at {url}"));
            return Err(MeshError::IdentityChanged { to, mark: Mark::Certificate, old, new, pinned_by });
        }
        let (a2a, dial) = (Some(url.to_owned()), DialOptions { pin, ..DialOptions::default() });
        Ok(Self { to, endpoint, dial, a2a, turn: None, pinned_by })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn address(&self) -> String {
        self.a2a.clone().unwrap_or_else(|| self.endpoint.to_string())
    }

    /// The same, as one of many.
    pub(crate) fn in_turn(self, turn: Arc<Turn>) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// How long it waited for its turn since this was asked.
    pub(crate) fn waited(&self) -> Duration {
        self.turn.as_ref().map(|turn| turn.waited()).unwrap_or_default()
    }

    /// A deadline without the time that it waited for its turn.
    pub(crate) fn extended(&self, deadline: Instant) -> Instant {
        self.turn.as_ref().map_or(deadline, |turn| turn.extended(deadline))
    }

    /// The same, where somebody else said what certificate to expect.
    pub(crate) fn pinned_by(self, pinned_by: PinnedBy) -> Self {
        Self { pinned_by, ..self }
    }

    /// What it means that a connection to this teammate's gateway did not come to be.
    pub(crate) fn failed(&self, source: ConnectError) -> MeshError {
        let to = self.to.clone();
        match source {
            ConnectError::PinMismatch { expected, actual } => MeshError::IdentityChanged {
                to,
                mark: Mark::Certificate,
                old: expected.to_string(),
                new: actual.to_string(),
                pinned_by: self.pinned_by,
            },
            source => MeshError::Connect { to, source: Box::new(source) },
        }
    }
}

/// Whether what we know of a teammate's certificate is said of this A2A endpoint: where the gateway is, or where there is
/// none that it could be said of.
fn is_pinned_there(agent: &Agent, a2a: &Endpoint) -> bool {
    let place = |endpoint: &Endpoint| (endpoint.host().to_owned(), endpoint.port());
    agent.address().map_or(true, |gateway| place(&gateway) == place(a2a))
}

/// The certificate that a teammate has to show, and who says so.
fn pin(
    mesh: &Mesh,
    agent: &Agent,
    to: &To,
    endpoint: &Endpoint,
) -> Result<(Option<Fingerprint>, PinnedBy), MeshError> {
    let unusable = |reason: String| MeshError::NoAddress { to: to.clone(), reason };
    match agent.tls_pin().map_err(|error| unusable(format!("tlsFingerprint: {error}")))? {
        Some(pin) => Ok((Some(pin), PinnedBy::Registry)),
        None => Ok((our_pin(mesh, to, endpoint)?, PinnedBy::Us)),
    }
}

/// The certificate that was pinned here. With one, an address without TLS is another gateway's: whoever took it over
/// must not get in by asking for less.
fn our_pin(mesh: &Mesh, to: &To, endpoint: &Endpoint) -> Result<Option<Fingerprint>, MeshError> {
    let Some(pinned) = mesh.pins().get(&to.email_prefix)?.certificate else { return Ok(None) };
    match pinned.fingerprint.parse() {
        Ok(fingerprint) if endpoint.is_tls() => Ok(Some(fingerprint)),
        _ => Err(MeshError::IdentityChanged {
            to: to.clone(),
            mark: Mark::Certificate,
            old: pinned.fingerprint,
            new: format!("none at {endpoint}"),
            pinned_by: PinnedBy::Us,
        }),
    }
}

/// Whether plain text may go to this endpoint, and whether only if its name leads to private addresses.
fn private_only(endpoint: &Endpoint, allowed: PlainText) -> Result<bool, MeshError> {
    match (endpoint.exposure(), allowed) {
        (Exposure::Encrypted, _) | (_, PlainText::Anywhere) => Ok(false),
        // `.local` and `.ts.net` are private by their name, whatever address they have today.
        (Exposure::Private, _) => Ok(false),
        (Exposure::Name, PlainText::PrivateNames) => Ok(true),
        _ => Err(MeshError::PlainText { endpoint: endpoint.to_string() }),
    }
}

/// The session on the wire: `agent:<agent>:<session>`, unless the session given is in that form already. Over A2A it is
/// the context, one for each session.
#[must_use]
pub fn session_key(me: &str, agent: &Agent, choice: &SessionChoice, via: Via) -> String {
    let name = choice.agent.as_deref().or(agent.agent.as_deref()).unwrap_or("main");
    let session = choice.session.clone().or_else(|| agent.session.clone());
    let mut session = session.unwrap_or_else(|| format!("mesh:{me}"));
    if let Some(thread) = &choice.thread {
        session = format!("{session}:{thread}");
    }
    if via == Via::A2a {
        return context_id(&session);
    }
    // Gateways fold the case of keys; ours must compare equal to theirs.
    let key = if session.starts_with("agent:") { session } else { format!("agent:{name}:{session}") };
    key.to_lowercase()
}

/// What a user may say about the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionChoice {
    /// `--session`.
    pub session: Option<String>,
    /// `--thread`: a topic of its own beside the session.
    pub thread: Option<String>,
    /// `--agent`: which agent of the peer's gateway.
    pub agent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_key_follows_the_contract() {
        let plain = Agent::new("Bob", "bob");
        let main =
            Agent { session: Some("main".into()), agent: Some("Coder".into()), ..Agent::new("Bob", "bob") };
        let choice = |session: Option<&str>, thread: Option<&str>, agent: Option<&str>| SessionChoice {
            session: session.map(Into::into),
            thread: thread.map(Into::into),
            agent: agent.map(Into::into),
        };
        let cases = [
            (&plain, choice(None, None, None), "agent:main:mesh:alice"),
            (&plain, choice(None, Some("ci"), None), "agent:main:mesh:alice:ci"),
            (&plain, choice(Some("main"), None, None), "agent:main:main"),
            (&plain, choice(Some("agent:x:Y"), None, Some("z")), "agent:x:y"),
            (&main, choice(None, None, None), "agent:coder:main"),
            (&main, choice(Some("other"), None, Some("ops")), "agent:ops:other"),
        ];
        for (agent, choice, key) in cases {
            assert_eq!(session_key("alice", agent, &choice, Via::Agent), key);
        }
    }

    #[test]
    fn plain_text_goes_only_where_the_contract_allows() {
        let check = |url: &str, allowed| private_only(&url.parse().unwrap(), allowed).ok();
        use PlainText::{Anywhere, PrivateAddresses, PrivateNames};
        assert_eq!(check("ws://10.0.0.1", PrivateAddresses), Some(false));
        assert_eq!(check("wss://bob.example.com", PrivateAddresses), Some(false));
        assert_eq!(check("ws://bob.example.com", PrivateAddresses), None);
        assert_eq!(check("ws://bob.example.com", PrivateNames), Some(true));
        assert_eq!(check("ws://203.0.113.1", PrivateNames), None);
        assert_eq!(check("ws://203.0.113.1", Anywhere), Some(false));
    }
}
