//! Our own gateway, as its owner: over loopback, with its own token, without a device.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::Method;
use openclaw_client::protocol::methods::agent::{Agent, InputProvenance, Outcome};
use openclaw_client::{
    Access, CallError, Challenged, Client, ConnectError, DialOptions, Endpoint, Events, Link, Lost, Secret,
    Trace,
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};
use uuid::Uuid;

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::private_file;

/// Our name in its lists.
const NAME: &str = "agent-mesh";
/// How long somebody on this machine may take to open a connection.
const KNOCK: Duration = Duration::from_millis(500);

/// A connection to our own gateway with the owner's rights.
pub struct OwnGateway {
    client: Client,
}

impl OwnGateway {
    /// Connects, with the first token that is accepted: the environment's alone if it names one, else OpenClaw's, else
    /// that of `agent-mesh serve`. Each is shown once.
    ///
    /// # Errors
    /// When no token is found, none opens the gateway, or the gateway is neither on this machine nor behind TLS.
    pub async fn connect(mesh: &Mesh, deadline: Instant) -> Result<Self, MeshError> {
        Self::connect_with(mesh, |token| Access::owner(token, NAME), deadline).await
    }

    /// Connects with all the rights there are, to make a one-time code.
    ///
    /// # Errors
    /// As [`OwnGateway::connect`].
    pub async fn connect_as_admin(mesh: &Mesh, deadline: Instant) -> Result<Self, MeshError> {
        Self::connect_with(mesh, |token| Access::admin(token, NAME), deadline).await
    }

    async fn connect_with(
        mesh: &Mesh,
        access: fn(Secret) -> Access,
        deadline: Instant,
    ) -> Result<Self, MeshError> {
        let endpoint = &mesh.config().gateway.endpoint;
        if !endpoint.is_loopback() && !endpoint.is_tls() {
            // The owner's token opens everything: it never crosses a network in plain text, not even a private one.
            return Err(MeshError::PlainText { endpoint: endpoint.to_string() });
        }
        let mut refused = None;
        for token in tokens(mesh)? {
            match open(mesh, access(token), deadline).await {
                Ok(client) => return Ok(Self { client }),
                Err(ConnectError::Refused(shape)) if shape.fault() == Fault::TokenMismatch => {
                    refused = Some(ConnectError::Refused(shape));
                }
                Err(source) => return Err(failed(mesh, source).await),
            }
        }
        match refused {
            Some(source) => Err(failed(mesh, source).await),
            None => Err(MeshError::OwnTokenMissing { searched: searched(mesh) }),
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call<M: Method>(&self, request: &M, deadline: Instant) -> Result<M::Payload, MeshError> {
        self.try_call(request, deadline).await.map_err(|source| MeshError::OwnGatewayCall { source })
    }

    /// Calls a method whose failure means something to the caller.
    pub(crate) async fn try_call<M: Method>(
        &self,
        request: &M,
        deadline: Instant,
    ) -> Result<M::Payload, CallError> {
        self.client.call(request, deadline).await
    }

    /// Lets our own agent answer a text, and gives how that ended.
    pub(crate) async fn ask(
        &self,
        session_key: &str,
        message: String,
        provenance: Option<InputProvenance>,
        deadline: Instant,
    ) -> Result<Outcome, MeshError> {
        let request = Agent {
            message,
            idempotency_key: Uuid::now_v7().to_string(),
            session_key: Some(session_key.to_owned()),
            input_provenance: provenance,
            ..Agent::default()
        };
        let failed = |source| MeshError::OwnGatewayCall { source };
        let run = self.client.start(&request, deadline).await.map_err(failed)?;
        run.finished(deadline).await.map_err(failed)
    }

    /// Its events from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.client.events()
    }

    /// What it means that there are no more events.
    pub(crate) fn lost(&self) -> MeshError {
        let how = Lost::Dropped("it closed the connection".to_owned());
        MeshError::OwnGatewayCall { source: CallError::Lost(how) }
    }

    /// The connection itself, for whoever keeps it.
    pub(crate) fn into_client(self) -> Client {
        self.client
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.client.close().await;
    }
}

async fn failed(mesh: &Mesh, source: ConnectError) -> MeshError {
    let endpoint = mesh.config().gateway.endpoint.to_string();
    MeshError::OwnGateway { endpoint, elsewhere: elsewhere(mesh).await, source: Box::new(source) }
}

/// Where the `agent-mesh serve` of this state folder listens, if somebody does there, and we called another address. It is
/// named and not called: its token is for who was meant.
pub(crate) async fn elsewhere(mesh: &Mesh) -> Option<String> {
    let config = &mesh.config().gateway;
    let word = private_file::read(config.serve_address.as_ref()?).ok()??;
    let mut address = serve_address(std::str::from_utf8(&word).ok()?)?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let url = format!("ws://{address}");
    let is_other =
        address.ip().is_loopback() && url.parse().is_ok_and(|url: Endpoint| url != config.endpoint);
    // The word stays behind when it ends.
    let answers = || timeout(KNOCK, TcpStream::connect(address));
    (is_other && matches!(answers().await, Ok(Ok(_)))).then_some(url)
}

/// `ws://ADDRESS, process ID`
fn serve_address(word: &str) -> Option<SocketAddr> {
    word.split(',').next()?.strip_prefix("ws://")?.parse().ok()
}

async fn open(mesh: &Mesh, access: Access, deadline: Instant) -> Result<Client, ConnectError> {
    let deadline = deadline.min(Instant::now() + mesh.config().connect_timeout);
    let challenged = challenge(mesh, deadline).await?;
    challenged.authenticate(access, None, deadline, &mut Trace::default()).await
}

/// Knocks at our own gateway and waits for its challenge; shows nothing.
pub(crate) async fn challenge(mesh: &Mesh, deadline: Instant) -> Result<Challenged, ConnectError> {
    let deadline = deadline.min(Instant::now() + mesh.config().connect_timeout);
    let mut trace = Trace::default();
    let endpoint = &mesh.config().gateway.endpoint;
    let options = DialOptions { tls: mesh.tls().clone(), ..DialOptions::default() };
    let link = match Link::dial(endpoint, &options, deadline, &mut trace).await {
        // OpenClaw signs its certificate itself. On loopback that is as good as any other: whoever listens there gets the
        // token, as with ws://.
        Err(ConnectError::Untrusted { fingerprint: Some(shown), .. }) if endpoint.is_loopback() => {
            let options = DialOptions { pin: Some(shown), ..options };
            Link::dial(endpoint, &options, deadline, &mut trace).await?
        }
        link => link?,
    };
    link.challenge(deadline, &mut trace).await
}

fn searched(mesh: &Mesh) -> Vec<String> {
    let config = &mesh.config().gateway;
    let files = [&config.openclaw_json, &config.serve_token].into_iter().flatten();
    ["OPENCLAW_GATEWAY_TOKEN".to_owned(), "MESH_GATEWAY_TOKEN".to_owned()]
        .into_iter()
        .chain(files.map(|path| path.display().to_string()))
        .collect()
}

fn tokens(mesh: &Mesh) -> Result<Vec<Secret>, MeshError> {
    let config = &mesh.config().gateway;
    if let Some(token) = &config.token {
        return Ok(vec![token.clone()]);
    }
    let mut found = Vec::new();
    if let Some(path) = &config.openclaw_json {
        found.extend(openclaw_token(path)?);
    }
    if let Some(path) = &config.serve_token
        && let Some(bytes) = private_file::read(path)?
    {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        found.push(Secret::new(text));
    }
    // One token at two places is shown once.
    found.dedup();
    Ok(found)
}

/// `gateway.auth.token` of OpenClaw's settings (JSON5). The file's own mode is OpenClaw's business.
fn openclaw_token(path: &Path) -> Result<Option<Secret>, MeshError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Settings {
        gateway: Gateway,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Gateway {
        auth: Auth,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Auth {
        token: Option<serde_json::Value>,
    }
    let unusable =
        |reason: &str| MeshError::OpenClawSettings { path: path.to_owned(), reason: reason.to_owned() };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(&error.to_string())),
    };
    // The parser's own words are left out: they may quote the file, which holds secrets.
    let settings: Settings =
        json5::from_str(&text).map_err(|_| unusable("it is not JSON5 of the usual shape"))?;
    match settings.gateway.auth.token {
        None => Ok(None),
        Some(serde_json::Value::String(token)) => Ok(Some(Secret::new(token))),
        Some(_) => Err(unusable("gateway.auth.token refers to a secret elsewhere")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(text: &str) -> Result<Option<Secret>, MeshError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("openclaw.json");
        std::fs::write(&path, text).unwrap();
        openclaw_token(&path)
    }

    #[test]
    fn the_token_is_found_where_openclaw_keeps_it() {
        let text = "{ // comment\n gateway: { auth: { mode: 'token', token: 'tok-1', }, port: 18789 } }";
        assert_eq!(token_of(text).unwrap().unwrap().expose(), "tok-1");
        assert_eq!(token_of("{}").unwrap(), None);
    }

    #[test]
    fn a_secret_elsewhere_is_named_and_never_guessed() {
        let error = token_of("{gateway:{auth:{token:{source:'env',id:'X'}}}}").unwrap_err().to_string();
        assert!(error.ends_with("gateway.auth.token refers to a secret elsewhere"), "{error}");
        let error = token_of("{gateway:{auth:{token:'tok-secret'").unwrap_err().to_string();
        assert!(!error.contains("tok-secret"), "{error}");
    }
}
