//! Who may come in and what they may do, from the owner's files; read again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_mesh_gateway::{Access, Member, Policy, Reload, Roster};
use agent_team_mesh::client::protocol::methods::device::PendingDevice;
use agent_team_mesh::ops::invite;
use agent_team_mesh::private_file;
use agent_team_mesh::registry::{Registry, RegistryError};
use agent_team_mesh::{Mesh, MeshError};
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

use crate::error::{CliError, Exit, policy_malformed};
use crate::settings::{Settings, Source};
use crate::ui::Ui;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The files that say it.
pub struct Files {
    policy: PathBuf,
    registry: PathBuf,
    /// For the invites that were sent from here.
    mesh: Mesh,
    /// Whether there has to be a policy: somebody named it, or there was one before.
    needs_policy: bool,
    seen: Marks,
}

/// What tells one state of a file from another.
type Mark = (SystemTime, u64, u64);

/// Of the policy, the registry, the invites.
type Marks = [Option<Mark>; 3];

impl Files {
    pub fn new(settings: &Settings) -> Result<Self, CliError> {
        Ok(Self {
            policy: settings.policy.value.clone(),
            registry: settings.registry.value.clone(),
            mesh: settings.mesh(false)?,
            needs_policy: settings.policy.source != Source::Default,
            seen: Marks::default(),
        })
    }

    /// Reads them. A registry and invites are not needed; a policy is, once there was one: to lose it must not open the
    /// door.
    pub fn read(&mut self) -> Result<Access, CliError> {
        self.seen = self.marks();
        let policy = match policy(&self.policy)? {
            Some(policy) => {
                self.needs_policy = true;
                policy
            }
            None if self.needs_policy => {
                let message = format!("there is no policy at {}", self.policy.display());
                return Err(CliError::new(Exit::Usage, "policy-missing", message)
                    .hint("docs/policy.md has an example; without --policy, and with no policy.toml, whoever has a token comes in"));
            }
            None => Policy::open(),
        };
        Ok(Access { policy, roster: roster(&self.registry)?.with_guests(guests(&self.mesh, &[])?) })
    }

    fn marks(&self) -> Marks {
        [mark(&self.policy), mark(&self.registry), mark(&invite::guests_path(&self.mesh))]
    }

    fn have_changed(&self) -> bool {
        self.seen != self.marks()
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len(), about.ino()))
}

/// The policy of a file; none without one.
pub fn policy(path: &Path) -> Result<Option<Policy>, CliError> {
    let Some(bytes) = private_file::read(path).map_err(MeshError::from)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|_| policy_malformed(path, &"it is not UTF-8"))?;
    Policy::parse(text).map(Some).map_err(|error| policy_malformed(path, &error))
}

/// The members of the team; none without a registry.
fn roster(path: &Path) -> Result<Roster, CliError> {
    let registry = match Registry::load(path) {
        Ok(registry) => registry,
        Err(RegistryError::Missing { .. }) => return Ok(Roster::default()),
        Err(error) => return Err(MeshError::from(error).into()),
    };
    Ok(Roster::new(registry.agents.into_iter().map(|agent| Member {
        key: agent.email_prefix,
        name: agent.name,
        device_id: agent.device_id.map(|id| id.trim().to_lowercase()).filter(|id| !id.is_empty()),
        tags: agent.tags,
    })))
}

/// Those who showed an invite of ours, or show one while they wait.
fn guests(mesh: &Mesh, waiting: &[PendingDevice]) -> Result<Vec<Member>, CliError> {
    let guests = invite::guests(mesh, waiting)?.into_iter();
    Ok(guests
        .map(|(device, to)| Member {
            key: to.email_prefix,
            name: to.name,
            device_id: Some(device),
            ..Member::default()
        })
        .collect())
}

/// Who is who, as `serve` has it; who waits and shows an invite has a name, too. A policy or a registry that cannot be
/// read is done without, which is said.
pub fn book(
    settings: &Settings,
    mesh: &Mesh,
    waiting: &[PendingDevice],
    ui: &Ui,
) -> Result<Access, CliError> {
    let unread = |error: CliError| ui.warn(format!("names may be wrong: {}", error.message));
    let policy = policy(&settings.policy.value).map_err(unread).ok().flatten();
    let roster = roster(&settings.registry.value).map_err(unread).unwrap_or_default();
    let roster = roster.with_guests(guests(mesh, waiting)?);
    Ok(Access { policy: policy.unwrap_or_default(), roster })
}

/// Reads the files again whenever they change, a device is approved or a SIGHUP comes, for ever. What cannot be read
/// changes nothing.
pub async fn watch(mut files: Files, reload: Reload, mut hangup: Signal, ui: &Ui) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => if !files.have_changed() { continue },
            () = reload.approved() => {
                for (device, name) in reload.redeemed() {
                    if let Err(error) = invite::shown(&files.mesh, &device, &name) {
                        ui.warn(format!("a device has no name: {}", CliError::from(error).message));
                    }
                }
                if !files.have_changed() { continue }
            }
            _ = hangup.recv() => {}
        }
        let before = files.seen;
        match files.read() {
            Ok(access) => {
                reload.access(access);
                // Each invite changes its file several times, and its owner has just been told of it.
                if files.seen[..2] != before[..2] || files.seen == before {
                    ui.note("the policy and the registry were read again");
                }
            }
            Err(error) => ui.warn(format!("the rules are as they were: {}", error.message)),
        }
    }
}
