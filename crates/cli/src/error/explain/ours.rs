//! What stands in the way on our side: files, names, settings, limits.

use std::io::ErrorKind;
use std::path::Path;

use agent_team_mesh::MeshError;
use agent_team_mesh::archive::ArchiveError;
use agent_team_mesh::device::DeviceKeyError;
use agent_team_mesh::guard::Refusal;
use agent_team_mesh::identity::IdentityError;
use agent_team_mesh::invite::{InviteError, SentError};
use agent_team_mesh::message::MessageError;
use agent_team_mesh::pins::PinsError;
use agent_team_mesh::private_file::{PrivateFileError, shell_word};
use agent_team_mesh::registry::{Candidate, LookupError, RegistryError};
use agent_team_mesh::secrets::SecretsError;
use agent_team_mesh::sync::{Broken, SyncError};

use super::{ASK_DOCTOR, Meaning, means};
use crate::error::{Exit, SEE_HELP};

pub(super) fn meaning(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::Registry(error) => registry(error),
        MeshError::Lookup(error) => lookup(error),
        MeshError::Identity(error) => identity(error),
        MeshError::IdentityUnknown { searched } => means(
            Exit::Policy,
            "identity-unknown",
            format!("set MESH_MY_EMAIL=you@example.com; looked at: {}", searched.join(", ")),
        ),
        MeshError::Secrets(error) => secrets(error),
        MeshError::Device(error) => device(error),
        MeshError::Pins(error) => pins(error),
        MeshError::File(error) | MeshError::SentInvites(SentError::File(error)) => file(error),
        MeshError::SentInvites(_) => means(
            Exit::Usage,
            "invites-malformed",
            "remove the file: who holds an open invite then needs pair approve by hand",
        ),
        MeshError::Archive(error) => archive(error),
        MeshError::Sync(error) => sync(error),
        MeshError::Invite(error) => invite(error),
        MeshError::Message(error) => message(error),
        MeshError::Guard(refusal) => guard(refusal),
        MeshError::Usage(_) => means(Exit::Usage, "usage", SEE_HELP),
        MeshError::NothingToImport { .. } => means(
            Exit::Usage,
            "usage",
            "--from takes the folder of a bash skill, such as ~/.openclaw/workspace/skills/agent-team-mesh",
        ),
        MeshError::Nobody => means(
            Exit::Unreachable,
            "reached-nobody",
            "agent-mesh list shows the team; ourselves are left out",
        ),
        _ => return None,
    })
}

/// What a registry holds.
const REGISTRY_SHAPE: &str = "the least that it holds is {\"agents\": [{\"name\": \"Bob\", \"emailPrefix\": \"bob\", \"ip\": \"10.0.0.11\"}]}. \
     Or move the file away: agent-mesh init makes a new one";

fn registry(error: &RegistryError) -> Meaning {
    match error {
        RegistryError::Missing { .. } => means(
            Exit::Usage,
            "registry-missing",
            "agent-mesh init writes one; --registry names another place",
        ),
        RegistryError::Unreadable { .. } => means(
            Exit::Usage,
            "registry-unreadable",
            "it has to be a file that you may read; --registry names another",
        ),
        RegistryError::Malformed { .. } => means(
            Exit::Usage,
            "registry-malformed",
            format!("put that place right by hand; {REGISTRY_SHAPE}"),
        ),
        RegistryError::InvalidField { .. } => {
            means(Exit::Usage, "registry-invalid", format!("put that field right by hand; {REGISTRY_SHAPE}"))
        }
        RegistryError::Duplicate { .. } => {
            means(Exit::Usage, "registry-duplicate", "give each teammate an emailPrefix of their own")
        }
        RegistryError::Write(error) => file(error),
        _ => means(Exit::Failed, "registry", ASK_DOCTOR),
    }
}

fn sync(error: &SyncError) -> Meaning {
    match error {
        SyncError::NoSources => {
            means(Exit::Usage, "sync-no-source", "name one with --from, or as [[sync]] in config.toml")
        }
        SyncError::FeatureAbsent { feature } => means(
            Exit::Usage,
            "feature-absent",
            format!("released binaries have it; else build with --features {feature}"),
        ),
        SyncError::Bearer { .. } => means(
            Exit::Usage,
            "sync-bearer",
            "bearer-file under [[sync]] in config.toml names a file with the source's token, and nothing else in it",
        ),
        SyncError::File(error) => file(error),
        SyncError::Empty { .. } => means(
            Exit::Policy,
            "sync-source-empty",
            "the registry is as it was; --allow-empty if nobody is meant",
        ),
        SyncError::Broken { source: Broken::Status(401 | 403), .. } => means(
            Exit::Policy,
            "sync-source-broken",
            "the registry is as it was; a token for the source goes into a file: bearer-file under [[sync]]",
        ),
        _ => means(Exit::Policy, "sync-source-broken", "the registry is as it was"),
    }
}

fn archive(error: &ArchiveError) -> Meaning {
    match error {
        ArchiveError::TooNew { .. } => {
            means(Exit::Failed, "archive-too-new", "use the newer agent-mesh, or another --state-dir")
        }
        ArchiveError::Damaged { path, .. } => means(
            Exit::Failed,
            "archive-damaged",
            format!(
                "nothing was sent and the file is as it was: move {} away, and a new one is made",
                path.display()
            ),
        ),
        ArchiveError::ReadOnly { path } => means(
            Exit::Failed,
            "archive-read-only",
            format!(
                "nothing was changed: give us the right to write to it and to its folder, or name another with --state-dir; \
                 ls -ld {0} {0}/* shows whose they are",
                shell_word(path.parent().unwrap_or(path))
            ),
        ),
        ArchiveError::Exists => means(Exit::Usage, "id-in-use", "it was not sent again"),
        ArchiveError::Ambiguous { .. } => means(Exit::Usage, "ambiguous", "give more of the id"),
        ArchiveError::Locked { .. } => {
            means(Exit::Busy, "archive-locked", "another program holds it: try again")
        }
        ArchiveError::Taken => means(Exit::Busy, "taken", "agent-mesh log shows what becomes of it"),
        ArchiveError::Full { .. } => means(Exit::Failed, "disk-full", "make room, then send again"),
        ArchiveError::File(error) => file(error),
        _ => means(Exit::Failed, "archive", "nothing was sent; agent-mesh doctor looks at the state folder"),
    }
}

fn lookup(error: &LookupError) -> Meaning {
    let list =
        |candidates: &[Candidate]| candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match error {
        LookupError::Ambiguous { candidates, .. } => {
            means(Exit::Usage, "ambiguous", format!("say which: {}", list(candidates)))
        }
        LookupError::Unknown { near, .. } if near.is_empty() => {
            means(Exit::Unknown, "unknown-teammate", "agent-mesh list shows the team")
        }
        LookupError::Unknown { near, .. } => {
            means(Exit::Unknown, "unknown-teammate", format!("did you mean {}?", list(near)))
        }
        _ => means(Exit::Unknown, "unknown-teammate", "agent-mesh list shows the team"),
    }
}

fn identity(error: &IdentityError) -> Meaning {
    match error {
        IdentityError::NotAnAddress { .. } => means(
            Exit::Usage,
            "identity-invalid",
            "write your e-mail address there, or the part of it before the @",
        ),
        IdentityError::Unreadable { .. } => {
            means(Exit::Usage, "identity-unreadable", "MESH_MY_EMAIL=you@example.com goes before that file")
        }
        _ => means(
            Exit::Usage,
            "identity-malformed",
            "put that place right by hand; MESH_MY_EMAIL=you@example.com goes before that file",
        ),
    }
}

fn secrets(error: &SecretsError) -> Meaning {
    match error {
        SecretsError::File(error) => file(error),
        SecretsError::Empty { .. } | SecretsError::ControlCharacter { .. } => {
            let text = "a token is one line of text: agent-mesh token set NAME < FILE, where FILE holds nothing else";
            means(Exit::Usage, "token-invalid", text)
        }
        SecretsError::Malformed { path, .. } if path.ends_with("device-tokens.json") => {
            let text = "put that place right by hand; or move the file away, and ask each gateway for access anew: agent-mesh pair \
                 --to NAME";
            means(Exit::Usage, "tokens-malformed", text)
        }
        _ => means(
            Exit::Usage,
            "tokens-malformed",
            "put that place right by hand: {\"tokens\": {\"bob\": \"…\"}}; or move the file away, and give each token \
                 anew: agent-mesh token set bob < FILE",
        ),
    }
}

fn device(error: &DeviceKeyError) -> Meaning {
    match error {
        DeviceKeyError::File(error) => file(error),
        DeviceKeyError::Malformed { .. } => means(
            Exit::Usage,
            "device-key-malformed",
            "restore it from a backup; without it, remove it and pair again with every peer",
        ),
        _ => means(Exit::Failed, "device-key", ASK_DOCTOR),
    }
}

fn file(error: &PrivateFileError) -> Meaning {
    match error {
        PrivateFileError::Locked { .. } => {
            means(Exit::Busy, "locked", "another agent-mesh is at work or stuck: try again")
        }
        PrivateFileError::WideMode { fix, .. } => means(Exit::Policy, "unsafe-file", fix),
        PrivateFileError::Symlink { .. } | PrivateFileError::NotAFile { .. } => means(
            Exit::Policy,
            "unsafe-file",
            "a file with secrets has to be a file of its own: put it there in place of what is there now",
        ),
        PrivateFileError::ForeignOwner { path, .. } => means(
            Exit::Policy,
            "unsafe-file",
            format!(
                "its owner can read it: make a new one, or take it over: chown \"$USER\" {}",
                path.display()
            ),
        ),
        PrivateFileError::Io { path, source, .. } => {
            means(Exit::Failed, "io", machine(source.kind(), Some(path)))
        }
        _ => means(Exit::Failed, "io", ASK_DOCTOR),
    }
}

/// What helps when this machine says no, to what it is about if that is known.
pub fn machine(kind: ErrorKind, path: Option<&Path>) -> String {
    let text = match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room on that disk: df -h shows how full it is"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "nothing can be written there: --state-dir, --registry and --tokens name other places"
        }
        ErrorKind::PermissionDenied => return not_permitted(path),
        ErrorKind::NotFound => "there is no such file: look at how its name is spelled",
        ErrorKind::IsADirectory => "it is a folder: name a file in it",
        _ => ASK_DOCTOR,
    };
    text.to_owned()
}

/// Of what is not there yet, the folder is shown in which it would be.
fn not_permitted(path: Option<&Path>) -> String {
    let shown = path.and_then(|path| path.ancestors().find(|path| path.exists()));
    let shown = shown.map(|path| format!(" {}", shell_word(path))).unwrap_or_default();
    format!(
        "we may not: ls -ld{shown} shows whose it is; --state-dir, --registry and --tokens name other places"
    )
}

fn pins(error: &PinsError) -> Meaning {
    match error {
        PinsError::File(error) => file(error),
        PinsError::Malformed { path, .. } => means(
            Exit::Usage,
            "pins-malformed",
            format!(
                "restore {}; without it every gateway is met anew, and taken for the right one",
                path.display()
            ),
        ),
        _ => means(Exit::Failed, "failed", ASK_DOCTOR),
    }
}

fn message(error: &MessageError) -> Meaning {
    match error {
        MessageError::TooLarge { .. } => {
            means(Exit::Policy, "message-too-large", "shorten it, or raise MESH_MSG_HARD_LIMIT")
        }
        _ => means(
            Exit::Usage,
            "message-invalid",
            "give some text: --message TEXT, --message-file FILE, or pipe it in",
        ),
    }
}

/// The reader is most likely a model, which has to be told that trying harder is not what is asked of it.
fn guard(refusal: &Refusal) -> Meaning {
    match refusal {
        Refusal::TooFar { .. } => means(
            Exit::Policy,
            "loop",
            "stop here: do not send it in another way. Answer in this turn, or ask your owner what to do",
        ),
        Refusal::Visited { to, .. } => means(
            Exit::Policy,
            "loop",
            format!(
                "stop here: {} knows of it, and your answer in this turn goes back by itself. If {0} has to be asked, ask \
                 your owner first",
                to.name
            ),
        ),
        Refusal::Limit { measure, .. } => means(
            Exit::Policy,
            "limit",
            format!(
                "stop and ask your owner: agent-mesh limits shows what was sent; a person can run agent-mesh limits reset, \
                 or raise {} under [limits] in config.toml",
                measure.setting()
            ),
        ),
        Refusal::Repeated { id, .. } => means(
            Exit::Policy,
            "repeated",
            format!(
                "they have it: agent-mesh wait {id} tells the reply. Do not reword it; ask your owner if that is not enough"
            ),
        ),
        Refusal::Nameless => means(Exit::Policy, "header-needed", "leave out --no-header"),
        Refusal::OwnersOnly => means(Exit::Policy, "owner-only", "ask your owner to run it"),
        _ => means(Exit::Policy, "refused", "ask your owner what to do"),
    }
}

fn invite(error: &InviteError) -> Meaning {
    match error {
        InviteError::TooNew => means(Exit::Usage, "invite-too-new", "update agent-mesh"),
        _ => means(
            Exit::Usage,
            "invite-malformed",
            "it is one line that begins with amesh1. (or a setup code of OpenClaw's): copy all of it",
        ),
    }
}
