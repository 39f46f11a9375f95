//! What each failure means to the user, and what to do about it: on our side, or on theirs.

use agent_team_mesh::archive::ArchiveError;
use agent_team_mesh::client::protocol::{ErrorShape, Fault};
use agent_team_mesh::client::{CallError, ConnectError};
use agent_team_mesh::device::DeviceKeyError;
use agent_team_mesh::guard::Refusal;
use agent_team_mesh::identity::IdentityError;
use agent_team_mesh::invite::{InviteError, SentError};
use agent_team_mesh::message::MessageError;
use agent_team_mesh::ops::pair::approve_commands;
use agent_team_mesh::pins::{Mark, PinnedBy, PinsError};
use agent_team_mesh::private_file::PrivateFileError;
use agent_team_mesh::record::To;
use agent_team_mesh::registry::{Candidate, LookupError, RegistryError};
use agent_team_mesh::secrets::SecretsError;
use agent_team_mesh::sync::{Broken, SyncError};
use agent_team_mesh::{A2aError, MeshError};

use super::{CliError, Exit, chain};

/// Code, exit code and hint of a failure.
struct Meaning(Exit, &'static str, Option<String>);

pub fn explain(error: &MeshError) -> CliError {
    let Meaning(exit, code, hint) = meaning(error);
    let mut shown = CliError::new(exit, code, chain(error));
    shown.hint = hint;
    shown
}

fn meaning(error: &MeshError) -> Meaning {
    match error {
        MeshError::Registry(error) => registry(error),
        MeshError::Lookup(error) => lookup(error),
        MeshError::Identity(error) => identity(error),
        MeshError::IdentityUnknown { searched } => Meaning(
            Exit::Policy,
            "identity-unknown",
            hint(format!("set MESH_MY_EMAIL=you@example.com; looked at: {}", searched.join(", "))),
        ),
        MeshError::Secrets(error) => secrets(error),
        MeshError::Device(error) => device(error),
        MeshError::Invite(error) => invite(error),
        MeshError::SentInvites(SentError::File(error)) => file(error),
        MeshError::SentInvites(_) => Meaning(
            Exit::Usage,
            "invites-malformed",
            hint("remove the file: who holds an open invite then needs pair approve by hand"),
        ),
        MeshError::Pins(error) => pins(error),
        MeshError::File(error) => file(error),
        MeshError::Message(error) => message(error),
        MeshError::Guard(refusal) => guard(refusal),
        MeshError::NotReceived { .. } => Meaning(
            Exit::Usage,
            "no-such-message",
            hint(
                "give the id of a message that came in here, or the whole first line of its header, in quotes",
            ),
        ),
        MeshError::Usage(_) => Meaning(Exit::Usage, "usage", None),
        MeshError::Nobody => Meaning(
            Exit::Unreachable,
            "reached-nobody",
            hint("agent-mesh list shows the team; ourselves are left out"),
        ),
        MeshError::NoAddress { to, .. } => Meaning(
            Exit::Unknown,
            "no-address",
            hint(format!("give {} an ip, hostname or url in the registry", to.name)),
        ),
        MeshError::PlainText { .. } => Meaning(
            Exit::Policy,
            "plain-text-refused",
            hint("use a wss:// url in the registry; --insecure sends in plain text all the same"),
        ),
        MeshError::NoCredential { to } => Meaning(Exit::Auth, "no-credential", hint(get_a_token(to))),
        MeshError::Connect { to, source } => connect(to, source),
        MeshError::IdentityChanged { to, mark, pinned_by, .. } => identity_changed(to, *mark, *pinned_by),
        MeshError::Scope { to, .. } => Meaning(
            Exit::Auth,
            "missing-scope",
            hint(format!(
                "a token alone gives no rights from another host: agent-mesh pair --to {}, then on their host {}",
                to.email_prefix,
                approve_commands("<request id>").join("  or  ")
            )),
        ),
        MeshError::Call { to, source } => call(to, source),
        MeshError::A2a { to, source } => a2a(to, source),
        MeshError::RunFailed { .. } => Meaning(Exit::Failed, "run-failed", None),
        MeshError::NoReply { merged: true, .. } => Meaning(
            Exit::Failed,
            "no-reply",
            hint("their session was busy and chat.send merges messages: send it again with --via agent"),
        ),
        MeshError::NoReply { .. } => {
            Meaning(Exit::Failed, "no-reply", hint("their agent chose to say nothing, or could not"))
        }
        MeshError::ReplyDeadline { id, .. } => Meaning(
            Exit::NoReply,
            "no-reply-in-time",
            hint(format!(
                "their agent has it and may still be at work: agent-mesh wait {id}; do not send it again"
            )),
        ),
        MeshError::Held { to, id } => Meaning(
            Exit::NoReply,
            "held",
            hint(format!(
                "{} decides with `agent-mesh inbox` on their host; then agent-mesh wait {id} has the reply; do not send it again",
                to.name
            )),
        ),
        MeshError::Unknown { id, .. } => Meaning(
            Exit::NoReply,
            "delivery-unknown",
            hint(format!(
                "agent-mesh wait {id} looks again; sending it anew may make their agent do the work twice"
            )),
        ),
        MeshError::TooOld { .. } => Meaning(Exit::Failed, "gateway-too-old", hint("use --via agent")),
        MeshError::Fallback { .. } => Meaning(Exit::Unreachable, "fallback-failed", None),
        MeshError::RefusedBefore { .. } => Meaning(Exit::Auth, "refused-before", None),
        MeshError::Archive(error) => archive(error),
        MeshError::NoSuchMessage { .. } => {
            Meaning(Exit::Usage, "no-such-message", hint("agent-mesh log lists messages and their ids"))
        }
        MeshError::Expired { .. } => Meaning(
            Exit::Failed,
            "expired",
            hint("agent-mesh outbox retry <id> puts it back, if it is still worth saying"),
        ),
        MeshError::StillQueued { .. } => Meaning(
            Exit::NoReply,
            "still-queued",
            hint("agent-mesh outbox flush tries it now; agent-mesh outbox run keeps trying"),
        ),
        MeshError::NotInOutbox { id, .. } => {
            Meaning(Exit::Usage, "not-in-outbox", hint(format!("agent-mesh log show {id} tells its life")))
        }
        MeshError::Ended { .. } => Meaning(Exit::Failed, "ended", hint("agent-mesh log show <id> tells how")),
        MeshError::Sync(error) => sync(error),
        MeshError::OwnTokenMissing { searched } => Meaning(
            Exit::Auth,
            "own-token-missing",
            hint(format!("looked at {}; run this on the host of your own gateway", searched.join(", "))),
        ),
        MeshError::OpenClawSettings { .. } => Meaning(
            Exit::Usage,
            "openclaw-settings",
            hint("set OPENCLAW_GATEWAY_TOKEN to your own gateway's token"),
        ),
        MeshError::OwnGateway { source, .. } => own_gateway(source),
        MeshError::OwnAgent { .. } => Meaning(
            Exit::Failed,
            "own-agent-failed",
            hint("look at your own gateway's log; what was said so far stands"),
        ),
        MeshError::OwnGatewayCall { source } => own_call(source),
        MeshError::NotMinted { source } => not_minted(source),
        MeshError::InviteEnded { to } => Meaning(Exit::Auth, "invite-expired", hint(ask_for_an_invite(to))),
        MeshError::InviteElsewhere { to, .. } => Meaning(
            Exit::Policy,
            "invite-elsewhere",
            hint(format!(
                "ask {} by another way which one is right; --replace takes the invite's, agent-mesh sync the team's",
                to.name
            )),
        ),
        MeshError::NoDeviceToken { .. } => Meaning(Exit::Failed, "no-device-token", None),
        MeshError::TokenOfAnotherDevice { to } => {
            Meaning(Exit::Auth, "device-token-foreign", hint(come_back_in(to)))
        }
        MeshError::NotHeld { .. } => {
            Meaning(Exit::Usage, "not-held", hint("agent-mesh inbox list shows what is held"))
        }
        MeshError::NoSuchPairing { .. } => Meaning(
            Exit::Unknown,
            "no-such-device",
            hint("agent-mesh pair list shows who waits and who is in"),
        ),
        _ => Meaning(Exit::Failed, "failed", None),
    }
}

fn hint(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

fn get_a_token(to: &To) -> String {
    let prefix = &to.email_prefix;
    format!(
        "{}; or put the token of their gateway into a file and run: agent-mesh token set {prefix} < FILE; then agent-mesh pair --to {prefix}",
        ask_for_an_invite(to)
    )
}

fn ask_for_an_invite(to: &To) -> String {
    format!(
        "ask {} for an invite (on their host: agent-mesh invite NAME), then here: agent-mesh join -",
        to.name
    )
}

fn come_back_in(to: &To) -> String {
    format!(
        "{}; with the token of their gateway: agent-mesh pair --to {}",
        ask_for_an_invite(to),
        to.email_prefix
    )
}

fn invite(error: &InviteError) -> Meaning {
    match error {
        InviteError::TooNew => Meaning(Exit::Usage, "invite-too-new", hint("update agent-mesh")),
        _ => Meaning(
            Exit::Usage,
            "invite-malformed",
            hint("it is one line that begins with amesh1. (or a setup code of OpenClaw's): copy all of it"),
        ),
    }
}

fn not_minted(error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault() == Fault::Other => Meaning(
            Exit::Failed,
            "invite-refused",
            hint(
                "--url says where others reach this gateway: wss://…, or ws:// and a private address; it must listen \
                 beyond loopback, or a tunnel or proxy must lead to it",
            ),
        ),
        other => own_call(other),
    }
}

fn registry(error: &RegistryError) -> Meaning {
    match error {
        RegistryError::Missing { .. } => Meaning(
            Exit::Usage,
            "registry-missing",
            hint("agent-mesh init writes one; --registry names another place"),
        ),
        RegistryError::Unreadable { .. } => Meaning(Exit::Usage, "registry-unreadable", None),
        RegistryError::Malformed { .. } => Meaning(Exit::Usage, "registry-malformed", None),
        RegistryError::InvalidField { .. } => Meaning(Exit::Usage, "registry-invalid", None),
        RegistryError::Duplicate { .. } => {
            Meaning(Exit::Usage, "registry-duplicate", hint("give each teammate an emailPrefix of their own"))
        }
        RegistryError::Write(error) => file(error),
        _ => Meaning(Exit::Failed, "registry", None),
    }
}

fn sync(error: &SyncError) -> Meaning {
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
        SyncError::Bearer { .. } => Meaning(Exit::Usage, "sync-bearer", None),
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

fn archive(error: &ArchiveError) -> Meaning {
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
        ArchiveError::Exists => Meaning(
            Exit::Usage,
            "id-in-use",
            hint("it was not sent again: agent-mesh wait <id> tells what became of it"),
        ),
        ArchiveError::Locked { .. } => {
            Meaning(Exit::Busy, "archive-locked", hint("another program holds it: try again"))
        }
        ArchiveError::Taken => Meaning(Exit::Busy, "taken", hint("agent-mesh log shows what becomes of it")),
        ArchiveError::Full { .. } => Meaning(Exit::Failed, "disk-full", hint("make room, then send again")),
        ArchiveError::File(error) => file(error),
        _ => Meaning(Exit::Failed, "archive", None),
    }
}

fn lookup(error: &LookupError) -> Meaning {
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
        _ => Meaning(Exit::Unknown, "unknown-teammate", None),
    }
}

fn identity(error: &IdentityError) -> Meaning {
    match error {
        IdentityError::NotAnAddress { .. } => Meaning(Exit::Usage, "identity-invalid", None),
        IdentityError::Unreadable { .. } => Meaning(Exit::Usage, "identity-unreadable", None),
        _ => Meaning(Exit::Usage, "identity-malformed", None),
    }
}

fn secrets(error: &SecretsError) -> Meaning {
    match error {
        SecretsError::File(error) => file(error),
        SecretsError::Empty { .. } | SecretsError::ControlCharacter { .. } => {
            Meaning(Exit::Usage, "token-invalid", None)
        }
        _ => Meaning(Exit::Usage, "tokens-malformed", None),
    }
}

fn device(error: &DeviceKeyError) -> Meaning {
    match error {
        DeviceKeyError::File(error) => file(error),
        DeviceKeyError::Malformed { .. } => Meaning(
            Exit::Usage,
            "device-key-malformed",
            hint("restore it from a backup; without it, remove it and pair again with every peer"),
        ),
        _ => Meaning(Exit::Failed, "device-key", None),
    }
}

fn file(error: &PrivateFileError) -> Meaning {
    match error {
        PrivateFileError::Locked { .. } => {
            Meaning(Exit::Busy, "locked", hint("another agent-mesh is at work or stuck: try again"))
        }
        PrivateFileError::WideMode { fix, .. } => Meaning(Exit::Policy, "unsafe-file", hint(fix)),
        PrivateFileError::Symlink { .. }
        | PrivateFileError::NotAFile { .. }
        | PrivateFileError::ForeignOwner { .. } => Meaning(Exit::Policy, "unsafe-file", None),
        _ => Meaning(Exit::Failed, "io", None),
    }
}

fn pins(error: &PinsError) -> Meaning {
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
        _ => Meaning(Exit::Failed, "failed", None),
    }
}

fn identity_changed(to: &To, mark: Mark, pinned_by: PinnedBy) -> Meaning {
    let (name, prefix) = (&to.name, &to.email_prefix);
    let text = match (mark, pinned_by) {
        (_, PinnedBy::Invite) => {
            format!(
                "somebody else may be at the address in this invite: ask {name}, by another way than it came"
            )
        }
        (_, PinnedBy::Registry) => format!(
            "somebody else may be at this address: ask {name}. If it is theirs, change tlsFingerprint in the registry, and agent-mesh trust reset {prefix}"
        ),
        (Mark::Certificate, PinnedBy::Us) => format!(
            "somebody else may be at this address: ask {name}. If it is theirs: agent-mesh trust reset {prefix}, then agent-mesh trust add {prefix}"
        ),
        (Mark::Identity, PinnedBy::Us) => format!(
            "another gateway may have this address now: agent-mesh sync. If {name} has a new one: agent-mesh trust reset {prefix}"
        ),
    };
    Meaning(Exit::Auth, "identity-changed", hint(text))
}

fn message(error: &MessageError) -> Meaning {
    match error {
        MessageError::TooLarge { .. } => {
            Meaning(Exit::Policy, "message-too-large", hint("shorten it, or raise MESH_MSG_HARD_LIMIT"))
        }
        _ => Meaning(Exit::Usage, "message-invalid", None),
    }
}

fn a2a(to: &To, error: &A2aError) -> Meaning {
    let prefix = &to.email_prefix;
    match error {
        A2aError::Unreachable(_) => Meaning(
            Exit::Unreachable,
            "unreachable",
            hint(format!("is the a2aUrl of {prefix} right, and up?")),
        ),
        A2aError::Unauthorized(_) => Meaning(
            Exit::Auth,
            "a2a-unauthorized",
            hint(format!("ask {} for a token of yours: agent-mesh token set --a2a {prefix} < FILE", to.name)),
        ),
        A2aError::Card(_) => Meaning(
            Exit::Unreachable,
            "not-an-a2a-agent",
            hint(format!("the a2aUrl of {prefix} has to lead to an agent that speaks A2A 1.0 over JSON-RPC")),
        ),
        A2aError::Status(429 | 503) => Meaning(Exit::Busy, "busy", hint("try again shortly")),
        A2aError::Deadline => Meaning(Exit::Unreachable, "unreachable", None),
        A2aError::Rpc { .. } => Meaning(Exit::Failed, "refused", None),
        _ => Meaning(Exit::Failed, "bad-answer", None),
    }
}

/// The reader is most likely a model, which has to be told that trying harder is not what is asked of it.
fn guard(refusal: &Refusal) -> Meaning {
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
        _ => Meaning(Exit::Policy, "refused", None),
    }
}

fn connect(to: &To, error: &ConnectError) -> Meaning {
    let prefix = &to.email_prefix;
    match error {
        ConnectError::Refused(shape) => refused(to, shape),
        ConnectError::Untrusted { fingerprint: Some(seen), .. } => Meaning(
            Exit::Auth,
            "tls-untrusted",
            hint(format!(
                "if {} confirms the fingerprint: agent-mesh trust add {prefix} --fingerprint {seen}; or as tlsFingerprint in the registry, for everybody",
                to.name
            )),
        ),
        ConnectError::Untrusted { .. } => Meaning(Exit::Auth, "tls-untrusted", None),
        ConnectError::PublicAddress { .. } => {
            Meaning(Exit::Policy, "plain-text-refused", hint("use a wss:// url in the registry"))
        }
        ConnectError::Tls(_) => {
            Meaning(Exit::Unreachable, "tls-failed", hint("does the gateway speak TLS there?"))
        }
        ConnectError::NotAGateway { .. } => Meaning(
            Exit::Unreachable,
            "not-a-gateway",
            hint(format!("something else answers at the address of {prefix}: check the registry")),
        ),
        ConnectError::Http(503) => {
            Meaning(Exit::Busy, "busy", hint("the gateway is restarting: try again shortly"))
        }
        _ => Meaning(
            Exit::Unreachable,
            "unreachable",
            hint(format!("agent-mesh doctor --to {prefix} shows at which step, and on whose side")),
        ),
    }
}

fn refused(to: &To, shape: &ErrorShape) -> Meaning {
    let prefix = &to.email_prefix;
    match shape.fault() {
        Fault::TokenMismatch => Meaning(
            Exit::Auth,
            "token-mismatch",
            hint(format!(
                "the token for {prefix} is wrong or was changed: agent-mesh token set {prefix} < FILE. Do not retry: ten failures lock your address out for five minutes"
            )),
        ),
        Fault::DeviceTokenMismatch => Meaning(
            Exit::Auth,
            "device-token-invalid",
            hint(format!(
                "our access was rotated, revoked or removed, or another gateway has this address now: {}",
                come_back_in(to)
            )),
        ),
        Fault::PairingRequired { request_id: Some(id), .. } => {
            let [ours, theirs] = [0, 1].map(|n| approve_commands(&id)[n].clone());
            let text = format!("on {}'s host, run one of: {ours}  |  {theirs}; then send again", to.name);
            Meaning(Exit::Auth, "pairing-required", hint(text))
        }
        Fault::PairingRequired { .. } | Fault::DeviceIdentityRequired => {
            Meaning(Exit::Auth, "pairing-required", hint(format!("agent-mesh pair --to {prefix}")))
        }
        Fault::ScopeMismatch => Meaning(
            Exit::Auth,
            "scope-mismatch",
            hint(format!(
                "{} approved this device for less: agent-mesh pair --to {prefix} asks again",
                to.name
            )),
        ),
        Fault::RateLimited { retry_after_ms } => {
            let wait = retry_after_ms.unwrap_or(300_000) / 1000 + 1;
            Meaning(
                Exit::Auth,
                "locked-out",
                hint(format!("too many failures from this address: wait {wait} s")),
            )
        }
        Fault::BootstrapTokenInvalid => {
            let text = format!("another device used it first, or it has ended: {}", ask_for_an_invite(to));
            Meaning(Exit::Auth, "invite-invalid", hint(text))
        }
        Fault::TokenMissing => Meaning(Exit::Auth, "no-credential", hint(get_a_token(to))),
        Fault::Auth(_) => Meaning(Exit::Auth, "refused", None),
        Fault::DeviceAuth(_) => {
            Meaning(Exit::Auth, "device-refused", hint("does the clock of one of the hosts go wrong?"))
        }
        Fault::MissingScope(_) => {
            Meaning(Exit::Auth, "missing-scope", hint(format!("agent-mesh pair --to {prefix}")))
        }
        Fault::PolicyDenied { rule, limit, retry_after_ms } => denied(to, rule, limit, retry_after_ms),
        Fault::Unavailable { reason, .. } if reason.as_deref() == Some("paused") => Meaning(
            Exit::Busy,
            "paused-by-peer",
            hint(format!(
                "{} lets no new messages in just now: try again later, or send it with --queue",
                to.name
            )),
        ),
        Fault::ProtocolMismatch { .. } => Meaning(
            Exit::Unreachable,
            "protocol-mismatch",
            hint("this version speaks gateway protocols 3 and 4"),
        ),
        Fault::Unavailable { .. } => {
            Meaning(Exit::Busy, "busy", hint("the gateway is starting or restarting: try again shortly"))
        }
        _ => Meaning(Exit::Failed, "refused", None),
    }
}

/// What the peer's policy says. What passes by itself is no refusal of us.
fn denied(to: &To, rule: Option<String>, limit: Option<u64>, retry_after_ms: Option<u64>) -> Meaning {
    let rule = rule.unwrap_or_else(|| "a rule".to_owned());
    let limit = limit.map(|limit| format!(" = {limit}")).unwrap_or_default();
    let rule = format!("{}'s policy: {}{limit}", to.name, crate::text::one_line(&rule));
    match retry_after_ms {
        Some(wait) => {
            let wait = wait / 1000 + 1;
            Meaning(Exit::Busy, "denied-by-peer", hint(format!("{rule}; it passes in {wait} s")))
        }
        None => {
            Meaning(Exit::Auth, "denied-by-peer", hint(format!("{rule}; only {} can change that", to.name)))
        }
    }
}

fn call(to: &To, error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault() == Fault::Other => Meaning(Exit::Failed, "refused", None),
        CallError::Refused(shape) => refused(to, shape),
        CallError::TooLarge { .. } => Meaning(Exit::Policy, "message-too-large", None),
        CallError::Deadline => Meaning(Exit::NoReply, "no-reply-in-time", None),
        CallError::Lost(_) => Meaning(Exit::Unreachable, "unreachable", None),
        _ => Meaning(Exit::Failed, "bad-answer", None),
    }
}

fn own_gateway(error: &ConnectError) -> Meaning {
    match error {
        ConnectError::Refused(shape) => match shape.fault() {
            Fault::Unavailable { .. } => {
                Meaning(Exit::Busy, "busy", hint("your gateway is starting: try again shortly"))
            }
            Fault::ProtocolMismatch { .. } => Meaning(Exit::Unreachable, "protocol-mismatch", None),
            _ => Meaning(
                Exit::Auth,
                "own-token-refused",
                hint(
                    "set OPENCLAW_GATEWAY_TOKEN to your own gateway's token, or MESH_GATEWAY_URL to your own gateway",
                ),
            ),
        },
        _ => Meaning(
            Exit::Unreachable,
            "own-gateway-unreachable",
            hint(
                "is your own gateway running on this host? --gateway names another address, wss://127.0.0.1:18789 if it has TLS",
            ),
        ),
    }
}

fn own_call(error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault().is_auth() => Meaning(
            Exit::Auth,
            "own-token-refused",
            hint("this must run on your own gateway's host, over loopback, with the gateway's token"),
        ),
        CallError::Refused(_) => Meaning(Exit::Failed, "refused", None),
        _ => Meaning(Exit::Unreachable, "own-gateway-unreachable", None),
    }
}
