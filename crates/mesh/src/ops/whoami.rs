//! Who we are to our team.

use std::path::PathBuf;

use serde::Serialize;

use crate::device::DeviceKeyError;
use crate::error::MeshError;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::registry::Agent;
use crate::secrets::SecretsError;

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
    /// Files that are broken: what they would say is missing above.
    #[serde(skip)]
    pub problems: Vec<MeshError>,
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

/// Says who we are. Needs no registry, creates no key, touches no network. A file that is malformed does not keep us from
/// knowing who we are.
///
/// # Errors
/// When no source says who we are, or a file with secrets is refused for its mode or owner.
pub fn whoami(mesh: &Mesh) -> Result<Whoami, MeshError> {
    let identity = mesh.require_identity()?.clone();
    let mut problems = Vec::new();
    let path = mesh.config().registry.clone();
    let registry = if path.exists() { known(mesh.registry().map(Some), &mut problems)? } else { None };
    let agents = registry.flatten().map_or(&[][..], |registry| &registry.agents);
    let entry = agents.iter().find(|agent| mesh.is_me(agent)).map(Agent::without_token);
    let tokens = known(mesh.token_store().prefixes().map_err(MeshError::from), &mut problems)?;
    let configured = tokens.is_some_and(|tokens| !tokens.is_empty());
    let id = known(mesh.device_id(), &mut problems)?.flatten();
    Ok(Whoami {
        identity,
        registry: OwnEntry { path, entry },
        token: TokenFile { path: mesh.config().tokens.clone(), configured },
        device: Device { id },
        problems,
    })
}

/// What a file says; a broken one says nothing, and is a problem. One that was refused is more than that.
fn known<T>(said: Result<T, MeshError>, problems: &mut Vec<MeshError>) -> Result<Option<T>, MeshError> {
    match said {
        Ok(said) => Ok(Some(said)),
        Err(
            error @ (MeshError::Secrets(SecretsError::File(_)) | MeshError::Device(DeviceKeyError::File(_))),
        ) => Err(error),
        Err(error) => {
            problems.push(error);
            Ok(None)
        }
    }
}
