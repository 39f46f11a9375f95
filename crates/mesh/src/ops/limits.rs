//! How much was said, and how much may be.

use serde::Serialize;

use crate::archive::{Reset, Tally};
use crate::error::MeshError;
use crate::guard::{Refusal, Rules, Speaker};
use crate::mesh::Mesh;
use crate::registry::Agent;

/// What one kind of speaker said, beside what it may.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Who speaks.
    #[serde(skip)]
    pub speaker: Speaker,
    /// What it may say.
    #[serde(skip)]
    pub rules: Rules,
    /// What it said.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Agents first, then people; and when counting was begun anew.
///
/// # Errors
/// When the archive cannot be read.
pub async fn usage(mesh: &Mesh) -> Result<(Vec<Usage>, Vec<Reset>), MeshError> {
    let archive = mesh.archive()?;
    let mut all = Vec::new();
    for speaker in Speaker::ALL {
        let rules = mesh.config().rules.for_speaker(speaker);
        all.push(Usage { speaker, rules, tally: archive.tally(speaker).await? });
    }
    Ok((all, archive.resets().await?))
}

/// Counts anew, for one peer or for all. The archive keeps that it was done.
///
/// # Errors
/// When an agent asks for it, or the archive cannot be written.
pub async fn reset(mesh: &Mesh, peer: Option<&Agent>) -> Result<(), MeshError> {
    if mesh.config().caller.speaker() == Speaker::Agent {
        return Err(Refusal::OwnersOnly.into());
    }
    let prefix = peer.map(|agent| agent.email_prefix.as_str());
    Ok(mesh.archive()?.reset_limits(prefix).await?)
}
