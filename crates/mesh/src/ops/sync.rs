//! Brings the registry up to date with the sources of the team.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::private_file::{self, Lock};
use crate::registry::{Registry, RegistryError};
use crate::sync::last::Named;
use crate::sync::{Answer, Changes, Fetch, LastSync, Source, SyncError, merge::merge};

/// What to sync from, and how.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// The sources, in the order that decides between them.
    pub sources: Vec<Source>,
    /// Whether the sources win over hand-made entries, too.
    pub prefer_source: bool,
    /// Whether a source may list nobody.
    pub allow_empty: bool,
    /// Whether nothing is to be written, whatever the outcome.
    pub dry_run: bool,
    /// How long one source may take.
    pub timeout: Duration,
}

/// What a sync is about to do. Nothing is written yet, so that it can be shown before.
#[derive(Debug)]
pub struct SyncPlan {
    /// What will be different.
    pub changes: Changes,
    registry: Registry,
    path: PathBuf,
    /// What is remembered of this sync, and in which folder.
    named: Named,
    memory: PathBuf,
    /// Held until the registry is written, so that two syncs do not undo each other's. None in a dry run.
    lock: Option<Lock>,
}

impl SyncPlan {
    /// Writes the registry, if anything is different and this is no dry run. Says whether it did.
    ///
    /// # Errors
    /// When the file cannot be written; it is then as it was.
    pub fn write(mut self) -> Result<bool, MeshError> {
        if self.lock.is_none() {
            return Ok(false);
        }
        let changed = self.changes.any();
        if changed {
            self.registry.synced_at = Some(format!("{:.0}", Timestamp::now()));
            self.registry.save(&self.path)?;
        }
        LastSync::new(&self.path, &self.registry, &self.named).save(&self.memory);
        Ok(changed)
    }
}

/// Asks all sources, and finds out what their answers change. When one of them is empty or broken, nothing changes.
///
/// # Errors
/// When a source cannot be asked, is empty or broken, or the registry cannot be used.
pub async fn sync(mesh: &Mesh, options: &SyncOptions) -> Result<SyncPlan, MeshError> {
    let how = Fetch {
        memory: mesh.sync_folder(),
        connect_timeout: mesh.config().connect_timeout,
        timeout: options.timeout,
        allow_empty: options.allow_empty,
        remember: !options.dry_run,
    };
    ask(&mesh.config().registry, options, &how).await
}

async fn ask(registry: &Path, options: &SyncOptions, how: &Fetch) -> Result<SyncPlan, MeshError> {
    if options.sources.is_empty() {
        return Err(SyncError::NoSources.into());
    }
    let answers = try_join_all(options.sources.iter().map(|source| source.fetch(how))).await?;
    // In our folder and not beside the registry, which is often in a work tree of git's.
    let lock = if options.dry_run { None } else { Some(private_file::lock(&how.memory.join("registry"))?) };
    plan(registry, answers, options.prefer_source, &how.memory, lock)
}

fn plan(
    path: &Path,
    answers: Vec<Answer>,
    prefer_source: bool,
    memory: &Path,
    lock: Option<Lock>,
) -> Result<SyncPlan, MeshError> {
    // Read here and not taken from the mesh: it may have changed while the sources were asked.
    let mut registry = match Registry::load(path) {
        Err(RegistryError::Missing { .. }) => Registry::default(),
        other => other?,
    };
    let named = Named::of(&answers);
    let changes = merge(&mut registry, answers, prefer_source);
    Ok(SyncPlan { changes, registry, path: path.to_owned(), named, memory: memory.to_owned(), lock })
}

#[cfg(test)]
mod tests;
