//! One `serve` a state folder: the approved devices have one master, and a second one would bring back what the first
//! revoked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agent_team_mesh::MeshError;
use agent_team_mesh::private_file::{self, Lock};

use crate::error::{CliError, Exit};

/// The sole right to serve from a state folder, for as long as this lives.
pub struct Alone {
    _lock: Lock,
    address: PathBuf,
}

impl Alone {
    pub fn in_folder(state: &Path, address: PathBuf) -> Result<Self, CliError> {
        let lock = private_file::try_lock(&state.join("gateway-devices.json")).map_err(MeshError::from)?;
        match lock {
            Some(lock) => Ok(Self { _lock: lock, address }),
            None => Err(taken(state, &address)),
        }
    }

    /// Leaves word where it listens, for whoever comes second. That word is a help and no more.
    pub fn say(&self, address: SocketAddr) {
        let text = format!("ws://{address}, process {}", std::process::id());
        if let Err(error) = private_file::write(&self.address, text.as_bytes()) {
            tracing::warn!(%error, "where this gateway listens could not be written down");
        }
    }
}

/// The address of the last that said one: the one that runs, unless it has only just begun.
fn taken(state: &Path, address: &Path) -> CliError {
    let known = private_file::read(address).ok().flatten();
    let known = known.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let first = known.map_or_else(String::new, |known| format!("it listens on {known}; "));
    CliError::new(
        Exit::Failed,
        "already-serving",
        format!("another agent-mesh serve uses {}", state.display()),
    )
    .hint(format!("{first}--state-dir gives each one a folder of its own"))
}
