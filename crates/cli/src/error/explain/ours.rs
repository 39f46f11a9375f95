//! What stands in the way on our side: files, names, limits.

use std::io::ErrorKind;
use std::path::Path;

use agent_team_mesh::archive::ArchiveError;
use agent_team_mesh::device::DeviceKeyError;
use agent_team_mesh::guard::Refusal;
use agent_team_mesh::identity::IdentityError;
use agent_team_mesh::invite::InviteError;
use agent_team_mesh::message::MessageError;
use agent_team_mesh::pins::PinsError;
use agent_team_mesh::private_file::{PrivateFileError, shell_word};
use agent_team_mesh::record::To;
use agent_team_mesh::registry::{Candidate, LookupError, RegistryError};
use agent_team_mesh::secrets::SecretsError;
use agent_team_mesh::sync::{Broken, SyncError};

use super::{Meaning, hint};
use crate::error::Exit;

/// What a registry holds.
const REGISTRY_SHAPE: &str = "the least that it holds is {\"agents\": [{\"name\": \"Bob\", \"emailPrefix\": \"bob\", \"ip\": \"10.0.0.11\"}]}. \
     Or move the file away: agent-mesh init makes a new one";

pub(super) fn registry(error: &RegistryError) -> Meaning {
    match error {
        RegistryError::Missing { .. } => Meaning(
            Exit::Usage,
            "registry-missing",
            hint("agent-mesh init writes one; --registry names another place"),
        ),
        RegistryError::Unreadable { .. } => Meaning(
            Exit::Usage,
            "registry-unreadable",
            hint("it has to be a file that you may read; --registry names another"),
        ),
        RegistryError::Malformed { .. } => Meaning(
            Exit::Usage,
            "registry-malformed",
            hint(format!("put that place right by hand; {REGISTRY_SHAPE}")),
        ),
        RegistryError::InvalidField { .. } => Meaning(
            Exit::Usage,
            "registry-invalid",
            hint(format!("put that field right by hand; {REGISTRY_SHAPE}")),
        ),
        RegistryError::Duplicate { .. } => {
            Meaning(Exit::Usage, "registry-duplicate", hint("give each teammate an emailPrefix of their own"))
        }
        RegistryError::Write(error) => file(error),
        _ => Meaning(Exit::Failed, "registry", hint("agent-mesh doctor looks at everything on our side")),
    }
}

pub(super) fn sync(error: &SyncError) -> Meaning {
    match error {
        SyncError::NoSources => Meaning(
            Exit::Usage,
            "sync-no-source",
            hint("name one with --from, or as [[sync]] in config.toml"),
        ),
        SyncError::FeatureAbsent { feature } => Meaning(
            Exit::Usage,
            "feature-absent",
            hint(format!("released binaries have it; else build with --features {feature}")),
        ),
        SyncError::Bearer { .. } => Meaning(
            Exit::Usage,
            "sync-bearer",
            hint(
                "bearer-file under [[sync]] in config.toml names a file with the source's token, and nothing else in it",
            ),
        ),
        SyncError::File(error) => file(error),
        SyncError::Empty { .. } => Meaning(
            Exit::Policy,
            "sync-source-empty",
            hint("the registry is as it was; --allow-empty if nobody is meant"),
        ),
        SyncError::Broken { source: Broken::Status(401 | 403), .. } => Meaning(
            Exit::Policy,
            "sync-source-broken",
            hint(
                "the registry is as it was; a token for the source goes into a file: bearer-file under [[sync]]",
            ),
        ),
        _ => Meaning(Exit::Policy, "sync-source-broken", hint("the registry is as it was")),
    }
}

pub(super) fn id_in_use(id: &str, sent_to: Option<&To>) -> Meaning {
    let text = match sent_to {
        Some(to) => format!(
            "nothing was sent: agent-mesh wait {id} tells what became of the message to {}; another message needs another id, \
             or none",
            to.name
        ),
        None => "nothing was sent: give another id, or none".to_owned(),
    };
    Meaning(Exit::Usage, "id-in-use", hint(text))
}

pub(super) fn archive(error: &ArchiveError) -> Meaning {
    match error {
        ArchiveError::TooNew { .. } => {
            Meaning(Exit::Failed, "archive-too-new", hint("use the newer agent-mesh, or another --state-dir"))
        }
        ArchiveError::Damaged { path, .. } => Meaning(
            Exit::Failed,
            "archive-damaged",
            hint(format!(
                "nothing was sent and the file is as it was: move {} away, and a new one is made",
                path.display()
            )),
        ),
        ArchiveError::Exists => Meaning(Exit::Usage, "id-in-use", hint("it was not sent again")),
        ArchiveError::Ambiguous { .. } => Meaning(Exit::Usage, "ambiguous", hint("give more of the id")),
        ArchiveError::Locked { .. } => {
            Meaning(Exit::Busy, "archive-locked", hint("another program holds it: try again"))
        }
        ArchiveError::Taken => Meaning(Exit::Busy, "taken", hint("agent-mesh log shows what becomes of it")),
        ArchiveError::ReadOnly { path } => Meaning(
            Exit::Failed,
            "archive-read-only",
            hint(format!(
                "nothing was changed: give us the right to write to it and to its folder, or name another with --state-dir; \
                 ls -ld {0} {0}/* shows whose they are",
                shell_word(path.parent().unwrap_or(path))
            )),
        ),
        ArchiveError::Full { .. } => Meaning(Exit::Failed, "disk-full", hint("make room, then send again")),
        ArchiveError::File(error) => file(error),
        _ => Meaning(
            Exit::Failed,
            "archive",
            hint("nothing was sent; agent-mesh doctor looks at the state folder"),
        ),
    }
}

pub(super) fn lookup(error: &LookupError) -> Meaning {
    let list =
        |candidates: &[Candidate]| candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match error {
        LookupError::Ambiguous { candidates, .. } => {
            Meaning(Exit::Usage, "ambiguous", hint(format!("say which: {}", list(candidates))))
        }
        LookupError::Unknown { near, .. } if near.is_empty() => {
            Meaning(Exit::Unknown, "unknown-teammate", hint("agent-mesh list shows the team"))
        }
        LookupError::Unknown { near, .. } => {
            Meaning(Exit::Unknown, "unknown-teammate", hint(format!("did you mean {}?", list(near))))
        }
        _ => Meaning(Exit::Unknown, "unknown-teammate", hint("agent-mesh list shows the team")),
    }
}

pub(super) fn identity(error: &IdentityError) -> Meaning {
    match error {
        IdentityError::NotAnAddress { .. } => Meaning(
            Exit::Usage,
            "identity-invalid",
            hint("write your e-mail address there, or the part of it before the @"),
        ),
        IdentityError::Unreadable { .. } => Meaning(
            Exit::Usage,
            "identity-unreadable",
            hint("MESH_MY_EMAIL=you@example.com goes before that file"),
        ),
        _ => Meaning(
            Exit::Usage,
            "identity-malformed",
            hint("put that place right by hand; MESH_MY_EMAIL=you@example.com goes before that file"),
        ),
    }
}

pub(super) fn secrets(error: &SecretsError) -> Meaning {
    match error {
        SecretsError::File(error) => file(error),
        SecretsError::Empty { .. } | SecretsError::ControlCharacter { .. } => {
            let text = "a token is one line of text: agent-mesh token set NAME < FILE, where FILE holds nothing else";
            Meaning(Exit::Usage, "token-invalid", hint(text))
        }
        _ => Meaning(
            Exit::Usage,
            "tokens-malformed",
            hint(
                "put that place right by hand: {\"tokens\": {\"bob\": \"…\"}}; or move the file away, and give each token \
                 anew: agent-mesh token set bob < FILE",
            ),
        ),
    }
}

pub(super) fn device(error: &DeviceKeyError) -> Meaning {
    match error {
        DeviceKeyError::File(error) => file(error),
        DeviceKeyError::Malformed { .. } => Meaning(
            Exit::Usage,
            "device-key-malformed",
            hint("restore it from a backup; without it, remove it and pair again with every peer"),
        ),
        _ => Meaning(Exit::Failed, "device-key", hint("agent-mesh doctor looks at everything on our side")),
    }
}

pub(super) fn file(error: &PrivateFileError) -> Meaning {
    match error {
        PrivateFileError::Locked { .. } => {
            Meaning(Exit::Busy, "locked", hint("another agent-mesh is at work or stuck: try again"))
        }
        PrivateFileError::WideMode { fix, .. } => Meaning(Exit::Policy, "unsafe-file", hint(fix)),
        PrivateFileError::Symlink { .. } | PrivateFileError::NotAFile { .. } => Meaning(
            Exit::Policy,
            "unsafe-file",
            hint(
                "a file with secrets has to be a file of its own: put it there in place of what is there now",
            ),
        ),
        PrivateFileError::ForeignOwner { path, .. } => Meaning(
            Exit::Policy,
            "unsafe-file",
            hint(format!(
                "its owner can read it: make a new one, or take it over: chown \"$USER\" {}",
                path.display()
            )),
        ),
        PrivateFileError::Io { path, source, .. } => {
            Meaning(Exit::Failed, "io", machine(source.kind(), Some(path)))
        }
        _ => Meaning(Exit::Failed, "io", hint("agent-mesh doctor looks at everything on our side")),
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
        _ => "agent-mesh doctor looks at everything on our side",
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

pub(super) fn pins(error: &PinsError) -> Meaning {
    match error {
        PinsError::File(error) => file(error),
        PinsError::Malformed { path, .. } => Meaning(
            Exit::Usage,
            "pins-malformed",
            hint(format!(
                "restore {}; without it every gateway is met anew, and taken for the right one",
                path.display()
            )),
        ),
        _ => Meaning(Exit::Failed, "failed", hint("agent-mesh doctor looks at everything on our side")),
    }
}

pub(super) fn message(error: &MessageError) -> Meaning {
    match error {
        MessageError::TooLarge { .. } => {
            Meaning(Exit::Policy, "message-too-large", hint("shorten it, or raise MESH_MSG_HARD_LIMIT"))
        }
        _ => Meaning(
            Exit::Usage,
            "message-invalid",
            hint("give some text: --message TEXT, --message-file FILE, or pipe it in"),
        ),
    }
}

/// The reader is most likely a model, which has to be told that trying harder is not what is asked of it.
pub(super) fn guard(refusal: &Refusal) -> Meaning {
    match refusal {
        Refusal::TooFar { .. } => Meaning(
            Exit::Policy,
            "loop",
            hint(
                "stop here: do not send it in another way. Answer in this turn, or ask your owner what to do",
            ),
        ),
        Refusal::Visited { to, .. } => Meaning(
            Exit::Policy,
            "loop",
            hint(format!(
                "stop here: {} knows of it, and your answer in this turn goes back by itself. If {0} has to be asked, ask \
                 your owner first",
                to.name
            )),
        ),
        Refusal::Limit { measure, .. } => Meaning(
            Exit::Policy,
            "limit",
            hint(format!(
                "stop and ask your owner: agent-mesh limits shows what was sent; a person can run agent-mesh limits reset, \
                 or raise {} under [limits] in config.toml",
                measure.setting()
            )),
        ),
        Refusal::Repeated { id, .. } => Meaning(
            Exit::Policy,
            "repeated",
            hint(format!(
                "they have it: agent-mesh wait {id} tells the reply. Do not reword it; ask your owner if that is not enough"
            )),
        ),
        Refusal::Nameless => Meaning(Exit::Policy, "header-needed", hint("leave out --no-header")),
        Refusal::OwnersOnly => Meaning(Exit::Policy, "owner-only", hint("ask your owner to run it")),
        _ => Meaning(Exit::Policy, "refused", hint("ask your owner what to do")),
    }
}

pub(super) fn invite(error: &InviteError) -> Meaning {
    match error {
        InviteError::TooNew => Meaning(Exit::Usage, "invite-too-new", hint("update agent-mesh")),
        _ => Meaning(
            Exit::Usage,
            "invite-malformed",
            hint("it is one line that begins with amesh1. (or a setup code of OpenClaw's): copy all of it"),
        ),
    }
}
