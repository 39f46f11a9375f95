//! Who we are to our team.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::MeshError;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::registry::Agent;

/// What `whoami` says.
#[derive(Debug, Serialize)]
pub struct Whoami {
    /// Our identity, and what named it.
    pub identity: Identity,
    /// Where the team stands, and our place in it.
    pub registry: OwnEntry,
    /// The tokens file.
    pub token: TokenFile,
    /// Our device key.
    pub device: Device,
}

/// Our entry in the registry.
#[derive(Debug, Serialize)]
pub struct OwnEntry {
    /// The file.
    pub path: PathBuf,
    /// Our entry; none when there is no registry, or we are not in it.
    pub entry: Option<Agent>,
}

/// The tokens file.
#[derive(Debug, Serialize)]
pub struct TokenFile {
    /// The file.
    pub path: PathBuf,
    /// Whether it holds any token.
    pub configured: bool,
}

/// Our device key.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Its id, 64 hex digits; none while there is no key.
    pub id: Option<String>,
}

/// Says who we are. Needs no registry, creates no key, touches no network.
///
/// # Errors
/// When no source says who we are, or a file that is there cannot be used.
pub fn whoami(mesh: &Mesh) -> Result<Whoami, MeshError> {
    let identity = mesh.require_identity()?.clone();
    let path = mesh.config().registry.clone();
    let entry = if path.exists() {
        mesh.registry()?.agents.iter().find(|agent| mesh.is_me(agent)).map(Agent::without_token)
    } else {
        None
    };
    let token = TokenFile {
        path: mesh.config().tokens.clone(),
        configured: !mesh.token_store().prefixes()?.is_empty(),
    };
    Ok(Whoami {
        identity,
        registry: OwnEntry { path, entry },
        token,
        device: Device { id: mesh.device_id()? },
    })
}
