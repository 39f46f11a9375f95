//! What each failure means to the user, and what to do about it: on our side, or on theirs.

use agent_team_mesh::MeshError;
use agent_team_mesh::invite::SentError;
use agent_team_mesh::ops::pair::approve_commands;

use super::{CliError, Exit, SEE_HELP, chain, our_name};

mod ours;
mod theirs;

pub use ours::machine;

use ours::{
    archive, device, file, guard, id_in_use, identity, invite, lookup, message, pins, registry, secrets, sync,
};
use theirs::{
    a2a, ask_for_an_invite, call, come_back_in, connect, filed, get_a_token, identity_changed, not_minted,
    own_call, own_gateway,
};

/// Exit code, code and hint of a failure. There is none without a hint: whoever reads it wants to know what to do.
struct Meaning(Exit, &'static str, String);

pub fn explain(error: &MeshError) -> CliError {
    let Meaning(exit, code, mut hint) = meaning(error);
    if let MeshError::NoAddress { to, .. } | MeshError::NoCredential { to } = error
        && to.email_prefix.eq_ignore_ascii_case(our_name())
    {
        hint = "that is yourself: --to names a teammate; agent-mesh list shows them".to_owned();
    }
    let mut shown = CliError::new(exit, code, chain(error));
    shown.hint = Some(hint);
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
        MeshError::Usage(_) => Meaning(Exit::Usage, "usage", hint(SEE_HELP)),
        MeshError::NothingToImport { .. } => Meaning(
            Exit::Usage,
            "usage",
            hint(
                "--from takes the folder of a bash skill, such as ~/.openclaw/workspace/skills/agent-team-mesh",
            ),
        ),
        MeshError::NoCertificate { to, .. } => Meaning(
            Exit::Usage,
            "usage",
            hint(format!(
                "without TLS there is nothing to pin; {0}'s gateway is known by its identity from the first message on: \
                 agent-mesh trust show {0}",
                to.email_prefix
            )),
        ),
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
        MeshError::RunFailed { to, .. } => Meaning(
            Exit::Failed,
            "run-failed",
            hint(format!(
                "their agent has seen the message: agent-mesh log has what is known, and {}'s own log has the cause. Sent \
                 again, it is a new run",
                to.name
            )),
        ),
        MeshError::NoReply { merged: true, .. } => Meaning(
            Exit::Failed,
            "no-reply",
            hint("their session was busy and chat.send merges messages: send it again with --via agent"),
        ),
        MeshError::NoReply { .. } => {
            Meaning(Exit::Failed, "no-reply", hint("their agent chose to say nothing, or could not"))
        }
        MeshError::Away { id, .. } => Meaning(
            Exit::NoReply,
            "away",
            hint(format!(
                "what became of it is known when they are back: agent-mesh wait {id}; do not send it again"
            )),
        ),
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
        MeshError::Fallback { .. } => Meaning(
            Exit::Unreachable,
            "fallback-failed",
            hint(
                "run the script of MESH_IM_FALLBACK by hand to see what it lacks; the message reached nobody",
            ),
        ),
        MeshError::RefusedBefore { to } => Meaning(
            Exit::Auth,
            "refused-before",
            hint(format!("agent-mesh doctor --to {} says why it is refused", to.email_prefix)),
        ),
        MeshError::Asked { to, .. } => Meaning(
            Exit::Auth,
            "join-unfinished",
            hint(format!(
                "give the same invite again: agent-mesh join - goes on where it was, once {0} has run agent-mesh pair \
                 approve --invited. If it has ended: {1}",
                to.name,
                ask_for_an_invite(to)
            )),
        ),
        MeshError::Filed { to, request_id, denied, .. } => filed(to, request_id, denied.clone()),
        MeshError::Archive(error) => archive(error),
        MeshError::NoSuchMessage { .. } => {
            let text = "agent-mesh log lists messages and their ids; eight characters are the least";
            Meaning(Exit::Usage, "no-such-message", hint(text))
        }
        MeshError::Expired { id, .. } => Meaning(
            Exit::Failed,
            "expired",
            hint(format!("agent-mesh outbox retry {id} puts it back, if it is still worth saying")),
        ),
        MeshError::StillQueued { .. } => Meaning(
            Exit::NoReply,
            "still-queued",
            hint("agent-mesh outbox flush tries it now; agent-mesh outbox run keeps trying"),
        ),
        MeshError::NotInOutbox { id, .. } => {
            Meaning(Exit::Usage, "not-in-outbox", hint(format!("agent-mesh log show {id} tells its life")))
        }
        MeshError::Ended { id, .. } => {
            Meaning(Exit::Failed, "ended", hint(format!("agent-mesh log show {id} tells how")))
        }
        MeshError::IdInUse { id, sent } => id_in_use(id, sent.as_ref().map(|(to, _)| to)),
        MeshError::Sync(error) => sync(error),
        MeshError::OwnTokenMissing { searched } => Meaning(
            Exit::Auth,
            "own-token-missing",
            hint(format!(
                "looked at {}. Run this on the host of your own gateway; where there is none, agent-mesh serve is one, \
                 and makes its token",
                searched.join(", ")
            )),
        ),
        MeshError::OpenClawSettings { .. } => Meaning(
            Exit::Usage,
            "openclaw-settings",
            hint("set OPENCLAW_GATEWAY_TOKEN to your own gateway's token"),
        ),
        MeshError::OwnGateway { source, elsewhere, .. } => own_gateway(source, elsewhere.as_deref()),
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
        MeshError::NoDeviceToken { to } => Meaning(
            Exit::Failed,
            "no-device-token",
            hint(format!("{}'s gateway keeps no device tokens; its version is in agent-mesh ping", to.name)),
        ),
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
        _ => Meaning(Exit::Failed, "failed", hint("agent-mesh doctor looks at everything on our side")),
    }
}

fn hint(text: impl Into<String>) -> String {
    text.into()
}
