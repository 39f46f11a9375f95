//! What stands in a home folder: the one teammate, his token, our key.

use std::fs;
use std::path::{Path, PathBuf};

use agent_mesh_benches::bare::Failure;
use serde_json::Value;

/// A home folder that agent-mesh was used in.
pub struct Home(PathBuf);

/// The one teammate.
pub struct Teammate {
    pub name: String,
    pub address: String,
    pub token: String,
}

impl Home {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn registry(&self) -> PathBuf {
        self.0.join(".config/agent-team-mesh/registry.json")
    }

    pub fn tokens(&self) -> PathBuf {
        self.0.join(".config/agent-team-mesh/tokens.json")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join(".local/state/agent-team-mesh")
    }

    /// The key that agent-mesh made here.
    pub fn key(&self) -> PathBuf {
        self.state().join("device.pem")
    }

    pub fn teammate(&self) -> Result<Teammate, Failure> {
        let read =
            |path: PathBuf| -> Result<Value, Failure> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let (registry, tokens) = (read(self.registry())?, read(self.tokens())?);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let agent = &registry["agents"][0];
        let name = text(&agent["emailPrefix"]).ok_or("no teammate")?;
        let address = text(&agent["ip"]).ok_or("no address")?;
        let token = text(&tokens["tokens"][&name]).ok_or("no token")?;
        Ok(Teammate { name, address, token })
    }
}
