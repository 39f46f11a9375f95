//! What helps when we do not get far with one peer.

use std::path::Path;

use openclaw_client::ConnectError;
use openclaw_client::protocol::Fault;

use super::{Fix, Side};
use crate::error::MeshError;
use crate::filed::PairRequest;
use crate::guard::short_name;
use crate::mesh::Mesh;
use crate::ops::pair::approve_commands;
use crate::pins::Mark;
use crate::private_file::shell_word;
use crate::record::To;
use crate::registry::Agent;

/// Prints what a `tlsFingerprint` in the registry has to be.
const SHOW_FINGERPRINT: &str =
    "openssl x509 -in ~/.openclaw/gateway/tls/gateway-cert.pem -noout -fingerprint -sha256";

/// What is known of a peer that makes one command better than another.
pub(super) struct Remedies<'a> {
    mesh: &'a Mesh,
    to: &'a To,
    /// Where its gateway is, as the registry says.
    address: String,
}

impl<'a> Remedies<'a> {
    pub(super) fn new(mesh: &'a Mesh, agent: &Agent, to: &'a To) -> Self {
        let address = agent.address().map(|endpoint| endpoint.to_string()).unwrap_or_default();
        Self { mesh, to, address }
    }

    /// The command that helps, if there is one.
    pub(super) fn against(&self, error: &MeshError) -> Option<Fix> {
        match error {
            MeshError::NoCredential { .. } | MeshError::TokenOfAnotherDevice { .. } => Some(self.invite()),
            MeshError::Asked { .. } => Some(self.join().when("with the same invite").also([self.invite()])),
            MeshError::Filed { .. } => Some(self.pair()),
            MeshError::RefusedBefore { .. } => Some(self.set_token()),
            MeshError::Scope { .. } => Some(self.pair()),
            MeshError::IdentityChanged { mark, .. } => Some(self.against_another(*mark)),
            MeshError::PlainText { .. } => Some(Fix::edit(&self.mesh.config().registry)),
            MeshError::Connect { source, .. } => self.against_no_connection(source),
            _ => None,
        }
    }

    fn against_no_connection(&self, error: &ConnectError) -> Option<Fix> {
        match error {
            ConnectError::Refused(shape) => match shape.fault() {
                Fault::TokenMismatch => Some(self.set_token()),
                Fault::TokenMissing => Some(self.invite()),
                Fault::DeviceTokenMismatch => Some(self.against_no_token()),
                Fault::PairingRequired { request_id: Some(id), .. } => Some(self.approve(&id)),
                Fault::PolicyDenied { rule, .. } => {
                    Some(self.change_policy(rule.as_deref().unwrap_or("mode")))
                }
                fault if fault.is_auth() && !matches!(fault, Fault::RateLimited { .. }) => Some(self.pair()),
                _ => None,
            },
            ConnectError::Untrusted { .. } => Fix::theirs(SHOW_FINGERPRINT),
            ConnectError::Resolve { .. } | ConnectError::PublicAddress { .. } => {
                Some(Fix::edit(&self.mesh.config().registry))
            }
            _ => Some(self.start()),
        }
    }

    /// Another gateway than the one we know: mostly, somebody else has the address now. What we know is given up last.
    fn against_another(&self, mark: Mark) -> Fix {
        let name = &self.to.name;
        let reset = Fix::new(Side::Ours, format!("agent-mesh trust reset {}", self.word()));
        let reset = reset.when(match mark {
            Mark::Identity => format!("only if {name} really has a new gateway"),
            Mark::Certificate => format!("only if {name} says that this is the new certificate"),
        });
        match mark {
            Mark::Identity => self.check_address().also([reset]),
            Mark::Certificate => Fix::new(Side::Theirs, SHOW_FINGERPRINT).also([reset]),
        }
    }

    /// It does not take our device token: it is another gateway, or the access that we had has ended. Nothing tells them
    /// apart before it lets us in, but where the token came from.
    fn against_no_token(&self) -> Fix {
        let invite = self.invite();
        let invite =
            invite.when(format!("if it is {}'s, our access was rotated, revoked or removed", self.to.name));
        self.check_address().also([invite])
    }

    fn check_address(&self) -> Fix {
        let (name, address) = (&self.to.name, &self.address);
        let registry = self.mesh.registry().ok();
        let is_synced = registry.is_some_and(|registry| registry.synced_at.is_some());
        let fix = match is_synced {
            true => Fix::new(Side::Ours, "agent-mesh sync"),
            false => Fix::edit(&self.mesh.config().registry),
        };
        let token = self.mesh.device_token(&self.to.email_prefix).ok().flatten();
        let before = token.map(|token| token.url.as_str()).filter(|url| !url.is_empty() && url != address);
        fix.when(match before {
            Some(before) => {
                format!("{name}'s was at {before} when it gave us our token: is {address} right?")
            }
            None => format!("if {address} is not {name}'s address any more"),
        })
    }

    /// Our own access, without anybody's token.
    fn invite(&self) -> Fix {
        let me = shell_word(Path::new(self.me()));
        let invite = Fix::new(Side::Theirs, format!("agent-mesh invite {me}"));
        invite.also([self.join()])
    }

    fn join(&self) -> Fix {
        Fix::new(Side::Ours, "agent-mesh join -")
    }

    /// What a peer's policy says, no command of ours changes.
    fn change_policy(&self, rule: &str) -> Fix {
        let me = self.me();
        let device = self.mesh.device_id().ok().flatten().map(|id| short_name(&id));
        let unnamed = device.map_or_else(String::new, |device| {
            format!("; [peers.{device}] if their agent-mesh pair list has no TEAMMATE for our device")
        });
        let key = if rule == "mode" { "mode = \"allow\"".to_owned() } else { format!("another {rule}") };
        Fix::new(Side::Theirs, "$EDITOR ~/.config/agent-team-mesh/policy.toml")
            .when(format!("{key} under [peers.{me}]{unnamed}"))
    }

    /// Lets our request in, whatever their gateway is.
    fn approve(&self, request_id: &str) -> Fix {
        let [ours, theirs] = [0, 1].map(|n| approve_commands(request_id)[n].clone());
        let ours = Fix::new(Side::Theirs, ours).when("with agent-mesh");
        Fix::new(Side::Theirs, theirs).when("with OpenClaw").also([ours])
    }

    /// Our device has to be let in: we asked for that, or have to ask.
    pub(super) fn pair(&self) -> Fix {
        let ask = Fix::new(Side::Ours, format!("agent-mesh pair --to {}", self.word()));
        match self.filed() {
            Some(PairRequest { denied: Some(rule), .. }) => self.change_policy(&rule),
            Some(PairRequest { request_id, .. }) => self.approve(&request_id).also([ask.when(
                "once they approved it, where a send does as well; or to ask anew, after five minutes",
            )]),
            None => ask,
        }
    }

    /// The request that we filed where the peer's gateway is now.
    pub(super) fn filed(&self) -> Option<PairRequest> {
        self.mesh.filed().at(self.to, &self.address)
    }

    fn me(&self) -> &str {
        self.mesh.identity().ok().flatten().map_or("NAME", |me| &me.email_prefix)
    }

    fn set_token(&self) -> Fix {
        Fix::new(Side::Ours, format!("agent-mesh token set {} < FILE", self.word()))
    }

    /// Whatever their gateway is.
    pub(super) fn start(&self) -> Fix {
        let serve = Fix::new(Side::Theirs, "agent-mesh serve").when("without OpenClaw");
        Fix::new(Side::Theirs, "openclaw gateway status").when("with OpenClaw").also([serve])
    }

    pub(super) fn has_device_token(&self) -> bool {
        self.mesh.device_token(&self.to.email_prefix).ok().flatten().is_some()
    }

    fn word(&self) -> String {
        shell_word(Path::new(&self.to.email_prefix))
    }
}
