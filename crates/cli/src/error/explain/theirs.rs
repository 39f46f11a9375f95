//! What a gateway or an agent says, theirs and our own, and what to do on which host.

use agent_team_mesh::A2aError;
use agent_team_mesh::client::protocol::{ErrorShape, Fault};
use agent_team_mesh::client::{CallError, ConnectError};
use agent_team_mesh::ops::pair::approve_commands;
use agent_team_mesh::pins::{Mark, PinnedBy};
use agent_team_mesh::record::To;

use super::{Meaning, hint};
use crate::error::{Exit, our_name};

pub(super) fn identity_changed(to: &To, mark: Mark, pinned_by: PinnedBy) -> Meaning {
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
    Meaning(Exit::Auth, "identity-changed", hint(text))
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

pub(super) fn connect(to: &To, error: &ConnectError) -> Meaning {
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
        ConnectError::Untrusted { .. } => Meaning(
            Exit::Auth,
            "tls-untrusted",
            hint(format!(
                "ask {} for the fingerprint of the certificate: tlsFingerprint in the registry",
                to.name
            )),
        ),
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
        _ => Meaning(Exit::Unreachable, "unreachable", look_closer(to)),
    }
}

/// The peer's gateway says no: to what we show, to what we ask, or to everybody just now.
pub(super) fn refused(to: &To, shape: &ErrorShape) -> Meaning {
    let prefix = &to.email_prefix;
    match shape.fault() {
        Fault::PolicyDenied { rule, limit, retry_after_ms } => denied(to, rule, limit, retry_after_ms),
        Fault::Unavailable { reason, .. } if reason.as_deref() == Some("paused") => Meaning(
            Exit::Busy,
            "paused-by-peer",
            hint(format!(
                "{} lets no new messages in just now: try again later, or send it with --queue",
                to.name
            )),
        ),
        Fault::Unavailable { .. } => {
            Meaning(Exit::Busy, "busy", hint("the gateway is starting or restarting: try again shortly"))
        }
        Fault::ProtocolMismatch { .. } => Meaning(
            Exit::Unreachable,
            "protocol-mismatch",
            hint("this version speaks gateway protocols 3 and 4"),
        ),
        Fault::Other => Meaning(
            Exit::Failed,
            "refused",
            hint(format!(
                "these are the words of {}'s gateway; agent-mesh doctor --to {prefix} looks closer",
                to.name
            )),
        ),
        fault => not_let_in(to, fault),
    }
}

/// What we show, or are, is not enough.
fn not_let_in(to: &To, fault: Fault) -> Meaning {
    let prefix = &to.email_prefix;
    match fault {
        Fault::TokenMismatch => Meaning(
            Exit::Auth,
            "token-mismatch",
            format!(
                "the token for {prefix} is wrong or was changed: agent-mesh token set {prefix} < FILE. Do not retry: ten failures lock your address out for five minutes"
            ),
        ),
        Fault::DeviceTokenMismatch => Meaning(Exit::Auth, "device-token-invalid", another_or_ended(to)),
        Fault::PairingRequired { request_id: Some(id), .. } => filed(to, &id, None),
        Fault::PairingRequired { .. } | Fault::DeviceIdentityRequired => {
            Meaning(Exit::Auth, "pairing-required", format!("agent-mesh pair --to {prefix}"))
        }
        Fault::ScopeMismatch => Meaning(
            Exit::Auth,
            "scope-mismatch",
            format!("{} approved this device for less: agent-mesh pair --to {prefix} asks again", to.name),
        ),
        Fault::RateLimited { retry_after_ms } => {
            let wait = retry_after_ms.unwrap_or(300_000) / 1000 + 1;
            Meaning(Exit::Auth, "locked-out", format!("too many failures from this address: wait {wait} s"))
        }
        Fault::BootstrapTokenInvalid => Meaning(
            Exit::Auth,
            "invite-invalid",
            format!("another device used it first, or it has ended: {}", ask_for_an_invite(to)),
        ),
        Fault::TokenMissing => Meaning(Exit::Auth, "no-credential", get_a_token(to)),
        Fault::DeviceAuth(_) => {
            Meaning(Exit::Auth, "device-refused", "does the clock of one of the hosts go wrong?".to_owned())
        }
        Fault::MissingScope(_) => {
            Meaning(Exit::Auth, "missing-scope", format!("agent-mesh pair --to {prefix}"))
        }
        _ => Meaning(
            Exit::Auth,
            "refused",
            format!("agent-mesh doctor --to {prefix} shows at which step, and what helps"),
        ),
    }
}

/// Our request waits, or was approved and something else keeps us out.
pub(super) fn filed(to: &To, request_id: &str, denied_by: Option<String>) -> Meaning {
    if denied_by.is_some() {
        return denied(to, denied_by, None, None);
    }
    let [ours, theirs] = [0, 1].map(|n| approve_commands(request_id)[n].clone());
    let text = format!("on {}'s host, run one of: {ours}  |  {theirs}; then send again", to.name);
    Meaning(Exit::Auth, "pairing-required", text)
}

/// What the peer's policy says. What passes by itself is no refusal of us.
pub(super) fn denied(
    to: &To,
    rule: Option<String>,
    limit: Option<u64>,
    retry_after_ms: Option<u64>,
) -> Meaning {
    let is_mode = rule.as_deref() == Some("mode");
    let rule = rule.unwrap_or_else(|| "a rule".to_owned());
    let limit = limit.map(|limit| format!(" = {limit}")).unwrap_or_default();
    let rule = format!("{}'s policy: {}{limit}", to.name, crate::text::one_line(&rule));
    match retry_after_ms {
        Some(wait) => {
            let wait = wait / 1000 + 1;
            Meaning(Exit::Busy, "denied-by-peer", hint(format!("{rule}; it passes in {wait} s")))
        }
        None if is_mode => Meaning(
            Exit::Auth,
            "denied-by-peer",
            hint(format!(
                "{rule}; only {0} can change that: ask {0} to add [peers.{1}] with mode = \"allow\" to the policy.toml there, \
                 or under [peers.dev-…] while their agent-mesh pair list has no TEAMMATE for our device",
                to.name,
                our_name()
            )),
        ),
        None => {
            Meaning(Exit::Auth, "denied-by-peer", hint(format!("{rule}; only {} can change that", to.name)))
        }
    }
}

pub(super) fn call(to: &To, error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) => refused(to, shape),
        CallError::TooLarge { .. } => Meaning(
            Exit::Policy,
            "message-too-large",
            hint("their gateway takes no more at once: shorten it"),
        ),
        CallError::Deadline => Meaning(
            Exit::NoReply,
            "no-reply-in-time",
            hint("--timeout gives it more time; agent-mesh log has its id"),
        ),
        CallError::Lost(_) | CallError::Unsent(_) => {
            Meaning(Exit::Unreachable, "unreachable", look_closer(to))
        }
        _ => Meaning(Exit::Failed, "bad-answer", look_closer(to)),
    }
}

pub(super) fn a2a(to: &To, error: &A2aError) -> Meaning {
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
        A2aError::Deadline => Meaning(
            Exit::Unreachable,
            "unreachable",
            hint(format!("nothing came from the a2aUrl of {prefix}: --timeout gives it more time")),
        ),
        A2aError::Rpc { .. } => {
            Meaning(Exit::Failed, "refused", hint(format!("these are the words of {}'s agent", to.name)))
        }
        _ => Meaning(
            Exit::Failed,
            "bad-answer",
            hint(format!("the a2aUrl of {prefix} has to lead to an agent that speaks A2A 1.0 over JSON-RPC")),
        ),
    }
}

/// Nobody answers where our own gateway should.
const NOT_RUNNING: &str = "is your own gateway running on this host? openclaw gateway status says so of OpenClaw's; without \
     OpenClaw, agent-mesh serve is one. --gateway names another address, wss://127.0.0.1:18789 if it has TLS";

/// `elsewhere`: where `agent-mesh serve` of this state folder listens, if we called another address.
pub(super) fn own_gateway(error: &ConnectError, elsewhere: Option<&str>) -> Meaning {
    let there = elsewhere.map(|address| {
        hint(format!(
            "your agent-mesh serve listens at {address}: --gateway {address} calls it there, and MESH_GATEWAY_URL={address} from \
             now on"
        ))
    });
    match error {
        ConnectError::Refused(shape) => match shape.fault() {
            Fault::Unavailable { .. } => {
                Meaning(Exit::Busy, "busy", hint("your gateway is starting: try again shortly"))
            }
            Fault::ProtocolMismatch { .. } => Meaning(
                Exit::Unreachable,
                "protocol-mismatch",
                hint("this version speaks gateway protocols 3 and 4"),
            ),
            _ => Meaning(
                Exit::Auth,
                "own-token-refused",
                there.unwrap_or_else(|| {
                    hint("set OPENCLAW_GATEWAY_TOKEN to your own gateway's token, or MESH_GATEWAY_URL to your own gateway")
                }),
            ),
        },
        _ => Meaning(
            Exit::Unreachable,
            "own-gateway-unreachable",
            there.unwrap_or_else(|| hint(NOT_RUNNING)),
        ),
    }
}

pub(super) fn own_call(error: &CallError) -> Meaning {
    match error {
        CallError::Refused(shape) if shape.fault().is_auth() => Meaning(
            Exit::Auth,
            "own-token-refused",
            hint("this must run on your own gateway's host, over loopback, with the gateway's token"),
        ),
        CallError::Refused(_) => Meaning(
            Exit::Failed,
            "refused",
            hint("these are the words of your own gateway; its log may say more"),
        ),
        _ => Meaning(Exit::Unreachable, "own-gateway-unreachable", hint(NOT_RUNNING)),
    }
}

pub(super) fn not_minted(error: &CallError) -> Meaning {
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

pub(super) fn get_a_token(to: &To) -> String {
    let prefix = &to.email_prefix;
    format!(
        "{}; or put the token of their gateway into a file and run: agent-mesh token set {prefix} < FILE; then agent-mesh pair --to {prefix}",
        ask_for_an_invite(to)
    )
}

pub(super) fn ask_for_an_invite(to: &To) -> String {
    format!(
        "ask {} for an invite (on their host: agent-mesh invite {}), then here: agent-mesh join -",
        to.name,
        our_name()
    )
}

pub(super) fn come_back_in(to: &To) -> String {
    format!(
        "{}; with the token of their gateway: agent-mesh pair --to {}",
        ask_for_an_invite(to),
        to.email_prefix
    )
}
