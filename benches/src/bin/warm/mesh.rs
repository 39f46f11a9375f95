//! The library's own `send`, as a process that lives on uses it.

use std::path::Path;
use std::time::Duration;

use agent_mesh_benches::bare::Failure;
use agent_team_mesh::guard::{Caller, Rules};
use agent_team_mesh::identity::IdentitySources;
use agent_team_mesh::message::Limits;
use agent_team_mesh::ops::send::{SendRequest, send};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::{Mesh, MeshConfig, OwnGatewayConfig, PlainText};

use crate::Ask;
use crate::home::Home;

pub struct Sender {
    mesh: Mesh,
    teammate: String,
}

impl Sender {
    pub fn new(home: &Path) -> Result<Self, Failure> {
        let home = Home::new(home);
        let config = MeshConfig {
            registry: home.registry(),
            tokens: home.tokens(),
            state_dir: home.state(),
            identity: IdentitySources {
                flag: Some("alice@example.com".to_owned()),
                domain: "example.com".to_owned(),
                ..IdentitySources::default()
            },
            gateway: OwnGatewayConfig {
                endpoint: "ws://127.0.0.1:18789".parse()?,
                token: None,
                openclaw_json: None,
                serve_token: None,
            },
            limits: Limits::default(),
            rules: Rules::default(),
            caller: Caller::default(),
            fallback: None,
            connect_timeout: Duration::from_secs(5),
            plain_text: PlainText::PrivateAddresses,
        };
        Ok(Self { mesh: Mesh::new(config).keeping_connections(), teammate: home.teammate()?.name })
    }
}

impl Ask for Sender {
    async fn ask(&mut self, question: &str) -> Result<String, Failure> {
        let agent = self.mesh.registry()?.find(&self.teammate)?;
        let record = send(&self.mesh, agent, &SendRequest::new(question), &mut Unobserved).await?;
        if let Some(error) = record.error {
            return Err(error.into());
        }
        Ok(record.reply.ok_or("no reply")?.text)
    }
}
