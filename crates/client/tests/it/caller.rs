//! What every test needs: a key, a way in, a turn to ask for.

use agent_mesh_testkit::FakeGateway;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use openclaw_client::protocol::handshake::DeviceSigner;
use openclaw_client::protocol::methods::agent::{Agent, Outcome};
use openclaw_client::{Access, CallError, Client, ConnectError, Credential, Link, Secret, Trace};
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant};

pub const TOKEN: &str = "device-token-of-alice";

/// A device with a real key.
pub struct Key {
    key: SigningKey,
    id: String,
    public: String,
}

impl Key {
    pub fn new() -> Self {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key();
        let id = Sha256::digest(public).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, public: URL_SAFE_NO_PAD.encode(public), key }
    }
}

impl DeviceSigner for Key {
    fn id(&self) -> &str {
        &self.id
    }

    fn public_key(&self) -> &str {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.key.sign(message).to_bytes())
    }
}

pub fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub fn access() -> Access {
    Access::peer(Credential::Device(Secret::new(TOKEN.to_owned())), "agent-mesh:alice")
}

/// From a link to a client.
pub async fn admitted(link: Link, deadline: Instant) -> Result<Client, ConnectError> {
    let mut trace = Trace::default();
    let challenged = link.challenge(deadline, &mut trace).await?;
    challenged.authenticate(access(), Some(&Key::new()), deadline, &mut trace).await
}

/// A connection over an in-memory pipe.
pub async fn connect(gateway: &FakeGateway, deadline: Instant) -> Result<Client, ConnectError> {
    let link = Link::over(gateway.dial(), deadline, &mut Trace::default()).await?;
    admitted(link, deadline).await
}

/// A connection over TCP.
pub async fn connect_to(url: &str, deadline: Instant) -> Result<Client, ConnectError> {
    let link =
        Link::dial(&url.parse().unwrap(), &Default::default(), deadline, &mut Trace::default()).await?;
    admitted(link, deadline).await
}

/// A turn in a session of its own.
pub fn turn(key: &str, message: &str) -> Agent {
    Agent {
        message: message.to_owned(),
        idempotency_key: key.to_owned(),
        session_key: Some(format!("agent:main:mesh:{key}")),
        ..Agent::default()
    }
}

/// A turn from start to end.
pub async fn ask(client: &Client, key: &str, message: &str, deadline: Instant) -> Result<Outcome, CallError> {
    client.start(&turn(key, message), deadline).await?.finished(deadline).await
}
