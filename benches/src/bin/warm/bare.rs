//! The bare client.

use std::fs;
use std::path::Path;

use agent_mesh_benches::bare::{Caller, Failure, Line};
use agent_mesh_benches::journal::Journal;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use uuid::Uuid;

use crate::Ask;
use crate::home::Home;

const SESSION: &str = "agent:main:mesh:alice";

pub struct Bare {
    line: Line,
    journal: Option<Journal>,
}

impl Bare {
    pub async fn open(home: &Path, archive: Option<&Path>) -> Result<Self, Failure> {
        let home = Home::new(home);
        let teammate = home.teammate()?;
        let mut line = Line::open(&teammate.address).await?;
        let caller = Caller {
            key: SigningKey::from_pkcs8_pem(&fs::read_to_string(home.key())?)?,
            by_device: false,
            secret: teammate.token,
            name: "alice".to_owned(),
        };
        line.enter(&caller).await?;
        Ok(Self { line, journal: archive.map(Journal::open).transpose()? })
    }
}

impl Ask for Bare {
    async fn ask(&mut self, question: &str) -> Result<String, Failure> {
        match &self.journal {
            Some(journal) => self.line.ask_on_record(journal, "alice", SESSION, question).await,
            None => self.line.ask("alice", Uuid::now_v7(), SESSION, question).await,
        }
    }
}
