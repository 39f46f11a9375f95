//! Our client and protocol, and nothing of the mesh: what a send is with the journal off.

use std::path::Path;
use std::time::Duration;

use agent_mesh_benches::bare::{Failure, header};
use agent_team_mesh::client::protocol::methods::agent::{Agent, InputProvenance, Outcome};
use agent_team_mesh::client::{Access, Client, Credential, DialOptions, Link, Secret, Trace};
use agent_team_mesh::device::DeviceKey;
use tokio::time::Instant;
use uuid::Uuid;

use crate::Ask;
use crate::home::Home;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Wire(Client);

impl Wire {
    pub async fn open(home: &Path) -> Result<Self, Failure> {
        let home = Home::new(home);
        let teammate = home.teammate()?;
        let key = DeviceKey::load(&home.key())?.ok_or("no key")?;
        let (deadline, mut trace) = (Instant::now() + PATIENCE, Trace::default());
        let endpoint = format!("ws://{}", teammate.address).parse()?;
        let link = Link::dial(&endpoint, &DialOptions::default(), deadline, &mut trace).await?;
        let name = format!("agent-mesh:alice ({})", &key.id()[..8]);
        let access = Access::peer(Credential::Shared(Secret::new(teammate.token)), name);
        let challenged = link.challenge(deadline, &mut trace).await?;
        Ok(Self(challenged.authenticate(access, Some(&key), deadline, &mut trace).await?))
    }
}

impl Ask for Wire {
    async fn ask(&mut self, question: &str) -> Result<String, Failure> {
        let id = Uuid::now_v7();
        let call = Agent {
            message: header("alice", id) + question,
            idempotency_key: id.to_string(),
            session_key: Some("agent:main:mesh:alice".to_owned()),
            input_provenance: Some(InputProvenance {
                kind: "inter_session".to_owned(),
                source_session_key: Some("mesh:alice".to_owned()),
                source_channel: Some("agent-mesh".to_owned()),
                source_tool: Some("agent_mesh".to_owned()),
            }),
            ..Agent::default()
        };
        let deadline = Instant::now() + PATIENCE;
        match self.0.start(&call, deadline).await?.finished(deadline).await? {
            Outcome::Reply(text) => Ok(text),
            other => Err(format!("{other:?}").into()),
        }
    }
}
