//! What stands between us and a peer's gateway or agent, what it says, and what to do on which host.

use agent_team_mesh::client::protocol::{ErrorShape, Fault};
use agent_team_mesh::client::{CallError, ConnectError};
use agent_team_mesh::ops::pair::approve_commands;
use agent_team_mesh::pins::{Mark, PinnedBy};
use agent_team_mesh::record::To;
use agent_team_mesh::{A2aError, MeshError, policy_of_peer};

use super::{Meaning, means, protocol_mismatch};
use crate::error::{Exit, our_name};
use crate::text::one_line;

pub(super) fn meaning(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::Connect { to, source } => connect(to, source),
        MeshError::IdentityChanged { to, mark, pinned_by, .. } => identity_changed(to, *mark, *pinned_by),
        MeshError::Call { to, source } => call(to, source),
        MeshError::A2a { to, source } => a2a(to, source),
        MeshError::TooOld { .. } => means(Exit::Failed, "gateway-too-old", "use --via agent"),
        _ => return address(error).or_else(|| access(error)),
    })
}

/// There is no way to them, or not that one.
fn address(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::NoAddress { to, reason } if reason.contains("a2aUrl") => {
            means(Exit::Unknown, "no-address", format!("give {} an a2aUrl in the registry", to.name))
        }
        MeshError::NoAddress { to, .. } => means(
            Exit::Unknown,
            "no-address",
            unless_us(to, format!("give {} an ip, hostname or url in the registry", to.name)),
        ),
        MeshError::PlainText { .. } => means(
            Exit::Policy,
            "plain-text-refused",
            "use a wss:// url in the registry; --insecure sends in plain text all the same",
        ),
        MeshError::NoCertificate { to, .. } => means(
            Exit::Usage,
            "usage",
            format!(
                "without TLS there is nothing to pin; {0}'s gateway is known by its identity from the first message on: \
                 agent-mesh trust show {0}",
                to.email_prefix
            ),
        ),
        MeshError::InviteElsewhere { to, .. } => means(
            Exit::Policy,
            "invite-elsewhere",
            format!(
                "ask {} by another way which one is right; --replace takes the invite's, agent-mesh sync the team's",
                to.name
            ),
        ),
        MeshError::Fallback { .. } => means(
            Exit::Unreachable,
            "fallback-failed",
            "run the script of MESH_IM_FALLBACK by hand to see what it lacks; the message reached nobody",
        ),
        _ => return None,
    })
}

/// We have nothing to come in with, or what we have is not enough.
fn access(error: &MeshError) -> Option<Meaning> {
    Some(match error {
        MeshError::NoCredential { to } => means(Exit::Auth, "no-credential", unless_us(to, get_a_token(to))),
        MeshError::Filed { to, request_id, denied, .. } => filed(to, request_id, denied.as_deref()),
        MeshError::Scope { to, .. } => means(
            Exit::Auth,
            "missing-scope",
            format!(
                "a token alone gives no rights from another host: agent-mesh pair --to {}, then on their host {}",
                to.email_prefix,
                approve_commands("<request id>").join("  or  ")
            ),
        ),
        MeshError::RefusedBefore { to } => means(
            Exit::Auth,
            "refused-before",
            format!("agent-mesh doctor --to {} says why it is refused", to.email_prefix),
        ),
        MeshError::Asked { to, .. } => means(
            Exit::Auth,
            "join-unfinished",
            format!(
                "give the same invite again: agent-mesh join - goes on where it was, once {0} has run agent-mesh pair \
                 approve --invited. If it has ended: {1}",
                to.name,
                ask_for_an_invite(to)
            ),
        ),
        MeshError::InviteEnded { to } => means(Exit::Auth, "invite-expired", ask_for_an_invite(to)),
        MeshError::NoDeviceToken { to } => means(
            Exit::Failed,
            "no-device-token",
            format!("{}'s gateway keeps no device tokens; its version is in agent-mesh ping", to.name),
        ),
        MeshError::TokenOfAnotherDevice { to } => means(Exit::Auth, "device-token-foreign", come_back_in(to)),
        _ => return None,
    })
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
        (Mark::Identity, PinnedBy::Us) => {
            format!("{OTHER_GATEWAY}. Only if {name} really has a new one: agent-mesh trust reset {prefix}")
        }
    };
    means(Exit::Auth, "identity-changed", text)
}

/// Why a gateway may be another than before, and what then helps.
const OTHER_GATEWAY: &str =
    "another gateway may have this address now: check it in the registry, or agent-mesh sync";

/// A device token is refused by another gateway just as by the one that has ended it.
fn another_or_ended(to: &To) -> String {
    format!(
        "{OTHER_GATEWAY}. If it is {}'s, our access was rotated, revoked or removed: {}",
        to.name,
        ask_for_an_invite(to)
    )
}

fn look_closer(to: &To) -> String {
    format!("agent-mesh doctor --to {} shows at which step, and on whose side", to.email_prefix)
}

fn connect(to: &To, error: &ConnectError) -> Meaning {
    let prefix = &to.email_prefix;
    match error {
        ConnectError::Refused(shape) => refused(to, shape),
        ConnectError::Untrusted { fingerprint: Some(seen), .. } => means(
            Exit::Auth,
            "tls-untrusted",
            format!(
                "if {} confirms the fingerprint: agent-mesh trust add {prefix} --fingerprint {seen}; or as tlsFingerprint in the registry, for everybody",
                to.name
            ),
        ),
        ConnectError::Untrusted { .. } => means(
            Exit::Auth,
            "tls-untrusted",
            format!("ask {} for the fingerprint of the certificate: tlsFingerprint in the registry", to.name),
        ),
        ConnectError::PublicAddress { .. } => {
            means(Exit::Policy, "plain-text-refused", "use a wss:// url in the registry")
        }
        ConnectError::Tls(_) => means(Exit::Unreachable, "tls-failed", "does the gateway speak TLS there?"),
        ConnectError::NotAGateway { .. } => means(
            Exit::Unreachable,
            "not-a-gateway",
            format!("something else answers at the address of {prefix}: check the registry"),
        ),
        ConnectError::Http(503) => means(Exit::Busy, "busy", "the gateway is restarting: try again shortly"),
        _ => means(Exit::Unreachable, "unreachable", look_closer(to)),
    }
}

/// The peer's gateway says no: to what we show, to what we ask, or to everybody just now.
fn refused(to: &To, shape: &ErrorShape) -> Meaning {
    let prefix = &to.email_prefix;
    match shape.fault() {
        Fault::PolicyDenied { rule, limit, retry_after_ms } => {
            denied(to, rule.as_deref(), limit, retry_after_ms)
        }
        Fault::Unavailable { reason, .. } if reason.as_deref() == Some("paused") => means(
            Exit::Busy,
            "paused-by-peer",
            format!("{} lets no new messages in just now: try again later, or send it with --queue", to.name),
        ),
        Fault::Unavailable { .. } => {
            means(Exit::Busy, "busy", "the gateway is starting or restarting: try again shortly")
        }
        Fault::ProtocolMismatch { .. } => protocol_mismatch(),
        Fault::Other => means(
            Exit::Failed,
            "refused",
            format!(
                "these are the words of {}'s gateway; agent-mesh doctor --to {prefix} looks closer",
                to.name
            ),
        ),
        fault => not_let_in(to, fault),
    }
}

/// What we show is not enough.
fn not_let_in(to: &To, fault: Fault) -> Meaning {
    let prefix = &to.email_prefix;
    match fault {
        Fault::TokenMismatch => means(
            Exit::Auth,
            "token-mismatch",
            format!(
                "the token for {prefix} is wrong or was changed: agent-mesh token set {prefix} < FILE. Do not retry: ten failures lock your address out for five minutes"
            ),
        ),
        Fault::TokenMissing => means(Exit::Auth, "no-credential", get_a_token(to)),
        Fault::DeviceTokenMismatch => means(Exit::Auth, "device-token-invalid", another_or_ended(to)),
        Fault::BootstrapTokenInvalid => means(
            Exit::Auth,
            "invite-invalid",
            format!("another device used it first, or it has ended: {}", ask_for_an_invite(to)),
        ),
        Fault::RateLimited { retry_after_ms } => {
            let wait = retry_after_ms.unwrap_or(300_000) / 1000 + 1;
            means(Exit::Auth, "locked-out", format!("too many failures from this address: wait {wait} s"))
        }
        fault => not_approved(to, fault),
    }
}

/// What we are is not enough.
fn not_approved(to: &To, fault: Fault) -> Meaning {
    let To { name, email_prefix: prefix } = to;
    match fault {
        Fault::PairingRequired { request_id: Some(id), .. } => filed(to, &id, None),
        Fault::PairingRequired { .. } | Fault::DeviceIdentityRequired => {
            means(Exit::Auth, "pairing-required", format!("agent-mesh pair --to {prefix}"))
        }
        Fault::ScopeMismatch => means(
            Exit::Auth,
            "scope-mismatch",
            format!("{name} approved this device for less: agent-mesh pair --to {prefix} asks again"),
        ),
        Fault::MissingScope(_) => {
            means(Exit::Auth, "missing-scope", format!("agent-mesh pair --to {prefix}"))
        }
        Fault::DeviceAuth(_) => {
            means(Exit::Auth, "device-refused", "does the clock of one of the hosts go wrong?")
        }
        _ => means(
            Exit::Auth,
            "refused",
            format!("agent-mesh doctor --to {prefix} shows at which step, and what helps"),
        ),
    }
}

/// Our request waits, or was approved and something else keeps us out.
fn filed(to: &To, request_id: &str, denied_by: Option<&str>) -> Meaning {
    if denied_by.is_some() {
        return denied(to, denied_by, None, None);
    }
    let either = approve_commands(request_id).join("  |  ");
    let text = format!("on {}'s host, run one of: {either}; then send again", to.name);
    means(Exit::Auth, "pairing-required", text)
}

/// What the peer's policy says. What passes by itself is no refusal of us.
fn denied(to: &To, rule: Option<&str>, limit: Option<u64>, retry_after_ms: Option<u64>) -> Meaning {
    let exit = if retry_after_ms.is_some() { Exit::Busy } else { Exit::Auth };
    let mut text = one_line(&policy_of_peer(to, rule, limit, retry_after_ms));
    if exit == Exit::Auth && rule == Some("mode") {
        text += &format!(
            ": ask {} to add [peers.{}] with mode = \"allow\" to the policy.toml there, or under [peers.dev-…] while their \
             agent-mesh pair list has no TEAMMATE for our device",
            to.name,
            our_name()
        );
    }
    means(exit, "denied-by-peer", text)
}

fn call(to: &To, error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) => refused(to, shape),
        CallError::TooLarge { .. } => {
            means(Exit::Policy, "message-too-large", "their gateway takes no more at once: shorten it")
        }
        CallError::Deadline => means(
            Exit::NoReply,
            "no-reply-in-time",
            "--timeout gives it more time; agent-mesh log has its id",
        ),
        CallError::Lost(_) | CallError::Unsent(_) => means(Exit::Unreachable, "unreachable", look_closer(to)),
        _ => means(Exit::Failed, "bad-answer", look_closer(to)),
    }
}

fn a2a(to: &To, error: &A2aError) -> Meaning {
    let prefix = &to.email_prefix;
    match error {
        A2aError::Unreachable(_) => {
            means(Exit::Unreachable, "unreachable", format!("is the a2aUrl of {prefix} right, and up?"))
        }
        A2aError::Unauthorized(_) => means(
            Exit::Auth,
            "a2a-unauthorized",
            format!("ask {} for a token of yours: agent-mesh token set --a2a {prefix} < FILE", to.name),
        ),
        A2aError::Card(_) => means(
            Exit::Unreachable,
            "not-an-a2a-agent",
            format!("the a2aUrl of {prefix} has to lead to an agent that speaks A2A 1.0 over JSON-RPC"),
        ),
        A2aError::Status(429 | 503) => means(Exit::Busy, "busy", "try again shortly"),
        A2aError::Deadline => means(
            Exit::Unreachable,
            "unreachable",
            format!("nothing came from the a2aUrl of {prefix}: --timeout gives it more time"),
        ),
        A2aError::Rpc { .. } => {
            means(Exit::Failed, "refused", format!("these are the words of {}'s agent", to.name))
        }
        _ => means(
            Exit::Failed,
            "bad-answer",
            format!("the a2aUrl of {prefix} has to lead to an agent that speaks A2A 1.0 over JSON-RPC"),
        ),
    }
}

/// What helps with a teammate; with ourselves, nothing.
fn unless_us(to: &To, hint: String) -> String {
    if to.email_prefix.eq_ignore_ascii_case(our_name()) {
        return "that is yourself: --to names a teammate; agent-mesh list shows them".to_owned();
    }
    hint
}

fn get_a_token(to: &To) -> String {
    let prefix = &to.email_prefix;
    format!(
        "{}; or put the token of their gateway into a file and run: agent-mesh token set {prefix} < FILE; then agent-mesh pair --to {prefix}",
        ask_for_an_invite(to)
    )
}

pub fn ask_for_an_invite(to: &To) -> String {
    format!(
        "ask {} for an invite (on their host: agent-mesh invite {}), then here: agent-mesh join -",
        to.name,
        our_name()
    )
}

fn come_back_in(to: &To) -> String {
    format!(
        "{}; with the token of their gateway: agent-mesh pair --to {}",
        ask_for_an_invite(to),
        to.email_prefix
    )
}
