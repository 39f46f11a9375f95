//! The library's own `send`, as a process that lives on uses it.

use std::path::Path;

use agent_mesh_benches::bare::Failure;
use agent_team_mesh::identity::IdentitySources;
use agent_team_mesh::ops::send::{SendRequest, send};
use agent_team_mesh::progress::Unobserved;
use agent_team_mesh::{Mesh, MeshConfig};

use crate::Ask;
use crate::home::Home;

pub struct Sender {
    mesh: Mesh,
    teammate: String,
}

impl Sender {
    pub fn new(home: &Path) -> Result<Self, Failure> {
        let home = Home::new(home);
        let own = "ws://127.0.0.1:18789".parse()?;
        let config = MeshConfig {
            identity: IdentitySources {
                flag: Some("alice@example.com".to_owned()),
                domain: "example.com".to_owned(),
                ..IdentitySources::default()
            },
            ..MeshConfig::new(home.registry(), home.tokens(), home.state(), own)
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
