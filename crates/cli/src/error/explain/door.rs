//! What keeps `serve` from serving.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use agent_mesh_gateway::{BindError, ShortToken};

use crate::error::{CliError, Exit, chain};

/// Why it cannot listen, and where it could.
impl From<BindError> for CliError {
    fn from(error: BindError) -> Self {
        let kind = match &error {
            BindError::Listen { source, .. } => Some(source.kind()),
            _ => None,
        };
        Self::new(Exit::Failed, "cannot-serve", chain(&error)).hint(match kind {
            Some(ErrorKind::AddrNotAvailable) => {
                "this machine has no such address: 0.0.0.0 takes all that it has, 127.0.0.1 is for itself alone"
            }
            Some(ErrorKind::PermissionDenied) => "ports below 1024 need a privilege: take a higher one",
            Some(ErrorKind::AddrInUse) => {
                "--listen 127.0.0.1:0 takes a free port; a running OpenClaw gateway uses 18789"
            }
            _ => "agent-mesh doctor tells whether the state folder can be used",
        })
    }
}

/// A policy that says something else than a policy can.
pub fn policy_malformed(path: &Path, why: &dyn Display) -> CliError {
    CliError::new(Exit::Usage, "policy-malformed", format!("{}: {why}", path.display()))
        .hint("docs/policy.md has every key, with an example")
}

/// A token that could be guessed, and where it was given.
pub fn token_too_short(place: &Path, error: ShortToken) -> CliError {
    CliError::usage(format!("{}: {error}", place.display()))
        .hint("head -c 32 /dev/urandom | base64 prints a good one; with no token given, one is made")
}
