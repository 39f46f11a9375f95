//! What every test needs: a team, its files in a folder of its own, and us in it.

use std::time::Duration;

use agent_mesh_testkit::{FakeGateway, Script};
use agent_team_mesh::Mesh;
use agent_team_mesh::client::Secret;
use agent_team_mesh::config::MeshConfig;
use agent_team_mesh::identity::IdentitySources;
use agent_team_mesh::ops::send::{SendRequest, send};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::record::Record;
use agent_team_mesh::registry::{Agent, Registry};
use agent_team_mesh::secrets::DeviceToken;

/// The shared token that each peer gave us.
pub const TOKEN: &str = "tok-shared";

pub struct Team {
    folder: tempfile::TempDir,
    pub mesh: Mesh,
}

impl Team {
    /// Alice, which is us, and these teammates with their addresses; an empty one is none.
    pub fn new<'a>(peers: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(config(&folder));
        let peers = peers
            .into_iter()
            .map(|(name, url)| Agent { url: Some(url), ..Agent::new(name, name.to_lowercase()) });
        let agents = std::iter::once(Agent::new("Alice", "alice")).chain(peers).collect();
        Registry { agents, ..Registry::default() }.save(&mesh.config().registry).unwrap();
        Self { folder, mesh }
    }

    /// Us and Bob, whose gateway plays this script. We hold his shared token.
    pub async fn with_bob(script: Script) -> (Self, FakeGateway) {
        let bob = FakeGateway::start(script).await;
        let team = Self::new([("Bob", bob.url())]);
        team.token_for("bob", TOKEN);
        (team, bob)
    }

    pub fn token_for(&self, name: &str, token: &str) {
        self.mesh.token_store().set(name, &Secret::new(token.into())).unwrap();
    }

    /// As if Bob had approved our device before.
    pub fn device_token_for(&self, name: &str, token: &str) {
        self.device_token_from(name, token, "");
    }

    /// The same, when his gateway was at this address.
    pub fn device_token_from(&self, name: &str, token: &str, url: &str) {
        let token = DeviceToken {
            token: Secret::new(token.into()),
            device_id: self.mesh.device().unwrap().id().to_owned(),
            scopes: ["operator.read", "operator.write"].map(str::to_owned).to_vec(),
            issued_at: "2026-11-23T10:00:00Z".parse().unwrap(),
            url: url.to_owned(),
        };
        self.mesh.device_token_store().set(name, &token).unwrap();
    }

    pub fn agent(&self, name: &str) -> &Agent {
        self.mesh.registry().unwrap().find(name).unwrap()
    }

    pub async fn send(&self, name: &str, request: &SendRequest) -> Record {
        send(&self.mesh, self.agent(name), request, &mut Unobserved).await.unwrap()
    }

    /// The next run of the program: the same files, nothing remembered.
    pub fn next_run(mut self, change: impl FnOnce(&mut MeshConfig)) -> Self {
        let mut config = config(&self.folder);
        change(&mut config);
        self.mesh = Mesh::new(config);
        self
    }
}

fn config(folder: &tempfile::TempDir) -> MeshConfig {
    let path = |name: &str| folder.path().join(name);
    let own = nobody().parse().unwrap();
    MeshConfig {
        identity: IdentitySources {
            flag: Some("alice".into()),
            domain: "example.com".into(),
            ..IdentitySources::default()
        },
        connect_timeout: Duration::from_secs(2),
        ..MeshConfig::new(path("config/registry.json"), path("config/tokens.json"), path("state"), own)
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("ws://{}", listener.local_addr().unwrap())
}

/// A message without our header, so that the scripted agent sees just that.
pub fn message(text: &str, timeout: Duration) -> SendRequest {
    SendRequest { header: false, timeout, ..SendRequest::new(text) }
}

pub const SOON: Duration = Duration::from_secs(10);
