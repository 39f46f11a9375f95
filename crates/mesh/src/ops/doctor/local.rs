//! What is on our side: files, and our own gateway.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use jiff::Timestamp;
use openclaw_client::ConnectError;
use serde_json::json;
use tokio::time::Instant;

use super::{Check, Finding, Fix, Side, chain, millis};
use crate::device::DeviceKey;
use crate::error::{MeshError, with_cause};
use crate::git_exposure::git_exposure;
use crate::identity::IdentityError;
use crate::mesh::Mesh;
use crate::own_gateway::{self, OwnGateway};
use crate::pins::PinsError;
use crate::private_file::{PrivateFileError, folder_of, shell_word, wide_folder};
use crate::record::To;
use crate::registry::RegistryError;
use crate::secrets::SecretsError;

/// Everything that needs no network.
pub(super) fn files(mesh: &Mesh) -> Vec<Check> {
    let tokens = &mesh.config().tokens;
    let device_tokens = mesh.device_token_store().path().to_owned();
    let pins = mesh.pins().path();
    let mut checks = vec![
        timed("identity", || identity(mesh)),
        timed("registry", || registry(mesh)),
        timed("own-entry", || own_entry(mesh)),
        timed("registry-tokens", || inline_tokens(mesh)),
        timed("tokens", || token_file(tokens, mesh.token_store().all().map(|tokens| tokens.len()))),
        timed("tokens-folder", || folder(tokens)),
        timed("tokens-git", || git(&[tokens])),
        timed("device-key", || device_key(mesh)),
        timed("device-tokens", || {
            token_file(&device_tokens, mesh.device_token_store().prefixes().map(|prefixes| prefixes.len()))
        }),
        timed("pins", || pin_file(pins, mesh.pins().all().map(|pins| pins.len()))),
        timed("state-folder", || state_folder(mesh)),
        timed("state-git", || git(&[&mesh.device_key_path(), &device_tokens])),
    ];
    checks.extend(
        mesh.asked().all().iter().map(|(to, request)| timed("invite", || unfinished(to, request.at))),
    );
    checks
}

/// An invite that was given, and did not let us in yet: who sent it may not be in the registry.
fn unfinished(to: &To, at: Timestamp) -> Finding {
    let error = MeshError::Asked { to: to.clone(), at };
    Finding::warn(
        error.to_string(),
        Some(Fix::new(Side::Ours, "agent-mesh join -").when("with the same invite")),
    )
}

fn timed(name: &'static str, look: impl FnOnce() -> Finding) -> Check {
    let start = Instant::now();
    let finding = look();
    finding.about_us(name, millis(start.elapsed()))
}

fn identity(mesh: &Mesh) -> Finding {
    match mesh.require_identity() {
        Ok(me) => match &me.path {
            Some(path) => Finding::ok(format!("{} ({})", me.email, path.display())),
            None => Finding::ok(me.email.clone()),
        },
        Err(MeshError::IdentityUnknown { searched }) => Finding::warn(
            format!("no e-mail address of ours was found in {}", searched.join(", ")),
            Fix::ours("export MESH_MY_EMAIL=you@example.com"),
        ),
        Err(MeshError::Identity(error)) => {
            let fix = match &error {
                IdentityError::Unreadable { path, .. } | IdentityError::MalformedSso { path, .. } => {
                    Some(Fix::edit(path))
                }
                IdentityError::NotAnAddress { .. } => Fix::ours("export MESH_MY_EMAIL=you@example.com"),
            };
            Finding::fail(with_cause(&error), fix)
        }
        Err(error) => Finding::fail(chain(&error), None),
    }
}

fn registry(mesh: &Mesh) -> Finding {
    let path = mesh.config().registry.display();
    match mesh.registry() {
        Ok(registry) => Finding::ok(format!("{} agents in {path}", registry.agents.len())),
        Err(error @ MeshError::Registry(RegistryError::Missing { .. })) => {
            Finding::fail(chain(&error), Fix::ours("agent-mesh init"))
        }
        Err(error) => Finding::fail(chain(&error), Some(Fix::edit(&mesh.config().registry))),
    }
}

fn own_entry(mesh: &Mesh) -> Finding {
    match (mesh.identity(), mesh.registry()) {
        (Ok(Some(me)), Ok(registry)) => match registry.agents.iter().find(|agent| mesh.is_me(agent)) {
            Some(agent) => Finding::ok(agent.name.clone()),
            None => {
                let entry = json!({ "name": me.email_prefix, "emailPrefix": me.email_prefix, "ip": "" });
                let fix = Fix::edit(&mesh.config().registry).when(format!("add {entry} to agents"));
                Finding::warn(format!("{} is not in the registry", me.email_prefix), Some(fix))
            }
        },
        _ => Finding::ok("not looked for"),
    }
}

/// Tokens in the registry are never used, but everybody who gets the registry can read them.
fn inline_tokens(mesh: &Mesh) -> Finding {
    let agents = mesh.registry().map(|registry| registry.agents.as_slice()).unwrap_or_default();
    let holders = agents.iter().filter(|agent| agent.has_inline_token());
    let holders: Vec<&str> = holders.map(|agent| agent.email_prefix.as_str()).collect();
    let Some(first) = holders.first() else { return Finding::ok("none in the registry") };
    let detail = format!("the registry holds tokens, which are not used: {}", holders.join(", "));
    Finding::warn(detail, Fix::ours(format!("agent-mesh token set {} < FILE", shell_word(Path::new(first)))))
}

fn token_file(path: &Path, count: Result<usize, SecretsError>) -> Finding {
    match count {
        Ok(_) if !path.exists() => Finding::ok(format!("no {} yet", path.display())),
        Ok(count) => Finding::ok(format!("{count} in {}", path.display())),
        Err(SecretsError::File(error)) => refused(&error),
        Err(error) => Finding::fail(with_cause(&error), Some(Fix::edit(path))),
    }
}

fn pin_file(path: &Path, count: Result<usize, PinsError>) -> Finding {
    match count {
        Ok(_) if !path.exists() => Finding::ok(format!("no {} yet", path.display())),
        Ok(count) => Finding::ok(format!("{count} gateways in {}", path.display())),
        Err(PinsError::File(error)) => refused(&error),
        Err(error) => Finding::fail(with_cause(&error), Some(Fix::edit(path))),
    }
}

fn refused(error: &PrivateFileError) -> Finding {
    match error {
        PrivateFileError::WideMode { path, mode, fix } => {
            let detail = format!("{} has mode {mode:04o}, wider than 0600", path.display());
            Finding::fail(detail, Fix::ours(fix.as_str()))
        }
        error => Finding::fail(with_cause(error), None),
    }
}

fn folder(file: &Path) -> Finding {
    match wide_folder(file) {
        Some(wide) => {
            let detail = format!("{} has mode {:04o}, wider than 0700", wide.path.display(), wide.mode);
            Finding::warn(detail, Fix::ours(wide.fix))
        }
        None => Finding::ok(folder_of(file).display().to_string()),
    }
}

fn git(files: &[&Path]) -> Finding {
    match files.iter().find_map(|file| git_exposure(file)) {
        Some(exposure) => {
            let (path, tree) = (exposure.path.display(), exposure.work_tree.display());
            Finding::warn(format!("{path} is not ignored by git in {tree}"), Fix::ours(exposure.fix))
        }
        None => Finding::ok("git would not publish it"),
    }
}

fn device_key(mesh: &Mesh) -> Finding {
    use crate::device::DeviceKeyError;
    match DeviceKey::load(&mesh.device_key_path()) {
        Ok(Some(key)) => Finding::ok(key.id()),
        Ok(None) => Finding::ok("none yet; the first send makes one"),
        Err(DeviceKeyError::File(error)) => refused(&error),
        Err(error) => {
            let path = mesh.device_key_path();
            let away = Fix::ours(format!("mv {0} {0}.broken", shell_word(&path)));
            let fix = away.map(|fix| fix.when("if there is no copy of it; then pair with everybody anew"));
            Finding::fail(with_cause(&error), fix)
        }
    }
}

/// Whether a message could be written down before it is sent. The file that is tried has no name, so that nothing is left
/// behind; a folder that does not exist yet would be made where its parent is.
fn state_folder(mesh: &Mesh) -> Finding {
    let wanted = &mesh.config().state_dir;
    let Ok(path) = std::path::absolute(wanted) else { return Finding::ok(wanted.display().to_string()) };
    let Some(existing) = path.ancestors().find(|folder| folder.exists()) else {
        return Finding::fail(format!("{} cannot be made", wanted.display()), None);
    };
    if let Err(error) = try_writing(existing) {
        let look = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => "df -h",
            _ => "ls -ld",
        };
        let detail = format!("{} cannot be written to: {error}", existing.display());
        return Finding::fail(detail, Fix::ours(format!("{look} {}", shell_word(existing))));
    }
    folder(&mesh.device_key_path())
}

/// Writes so much as a message takes in the archive and its log, and waits until it is on the disk.
fn try_writing(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&[0; 64 * 1024])?;
    file.sync_all()
}

/// Our own gateway, which we need only for pairing; and by how many milliseconds our clock is ahead of its.
pub(super) async fn own_gateway(mesh: &Mesh, deadline: Instant) -> (Finding, Option<i64>) {
    let endpoint = &mesh.config().gateway.endpoint;
    let ahead_ms = match own_gateway::challenge(mesh, deadline).await {
        Ok(challenged) => challenged.ahead_ms(),
        Err(error) => {
            let detail =
                format!("{endpoint} does not answer, so nobody can be let in: {}", with_cause(&error));
            return match own_gateway::elsewhere(mesh).await {
                None => (Finding::warn(detail, Some(start(mesh))), None),
                Some(address) => {
                    let detail =
                        format!("{detail}; agent-mesh serve listens at {address}: --gateway {address}");
                    (Finding::warn(detail, Fix::ours(format!("export MESH_GATEWAY_URL={address}"))), None)
                }
            };
        }
    };
    let finding = match OwnGateway::connect(mesh, deadline).await {
        Ok(own) => {
            own.close().await;
            Finding::ok(format!("{endpoint} takes our token"))
        }
        Err(error @ MeshError::OwnTokenMissing { .. }) => {
            Finding::warn(format!("{endpoint} answers, but {error}"), Fix::ours(NAME_TOKEN))
        }
        Err(MeshError::OwnGateway { source, .. }) if matches!(*source, ConnectError::Refused(_)) => {
            Finding::fail(format!("{endpoint}: {source}"), Fix::ours(NAME_TOKEN))
        }
        Err(error) => Finding::fail(chain(&error), None),
    };
    (finding, Some(ahead_ms))
}

/// What makes our own gateway answer: OpenClaw's, where it has been set up, else ours.
fn start(mesh: &Mesh) -> Fix {
    let has_openclaw = mesh.config().gateway.openclaw_json.as_ref().is_some_and(|path| path.exists());
    let serve = Fix::new(Side::Ours, "agent-mesh serve");
    if has_openclaw { Fix::new(Side::Ours, "openclaw gateway status") } else { serve }
        .when("if teammates shall reach you; to send, none is needed")
}

const NAME_TOKEN: &str = "export OPENCLAW_GATEWAY_TOKEN=\"$(cat FILE)\"";
