//! `agent-mesh trust`

use std::time::Duration;

use agent_team_mesh::client::Fingerprint;
use agent_team_mesh::ops::trust::{self, Trusted};
use agent_team_mesh::pins::PinnedBy;
use agent_team_mesh::registry::Agent;
use agent_team_mesh::{Mesh, MeshError};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::Instant;

use crate::args::duration;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::ui::Ui;

/// See and change which gateway we take for a teammate's
///
/// On first contact the gateway's identity is kept; another one is refused before any message leaves. Over TLS an
/// authority vouches for the gateway, or its certificate is pinned: by the registry, or with `trust add`. The identity
/// guards against mistakes such as a reused address; only the certificate guards against attackers.
#[derive(Debug, Args)]
pub struct TrustArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show by what we know everybody's gateway
    List,
    /// Show by what we know a teammate's gateway
    Show {
        /// The teammate
        name: String,
    },
    /// Pin the certificate that a teammate's gateway shows now, after its TLS handshake; no credential is shown
    Add {
        /// The teammate
        name: String,
        /// Pin only this one, as the teammate told it
        #[arg(long, value_name = "SHA256")]
        fingerprint: Option<Fingerprint>,
        /// How long that may take
        #[arg(long, value_parser = duration, default_value = "10", value_name = "TIME")]
        timeout: Duration,
    },
    /// Forget a teammate's gateway: the next contact is the first again
    Reset {
        /// The teammate
        name: String,
    },
}

pub async fn run(args: &TrustArgs, settings: &Settings, ui: &Ui) -> Result<Exit, CliError> {
    let mesh = super::open(settings, false, ui)?;
    match &args.action {
        Action::List => list(&mesh, ui),
        Action::Show { name } => show(&mesh, name, ui),
        Action::Add { name, fingerprint, timeout } => {
            add(&mesh, name, *fingerprint, Instant::now() + *timeout, ui).await
        }
        Action::Reset { name } => reset(&mesh, name, ui),
    }
}

fn find<'a>(mesh: &'a Mesh, name: &str) -> Result<&'a Agent, CliError> {
    Ok(mesh.registry()?.find(name).map_err(MeshError::from)?)
}

fn list(mesh: &Mesh, ui: &Ui) -> Result<Exit, CliError> {
    let peers = trust::list(mesh)?;
    let row = |peer: &Trusted| {
        let identity = peer.identity.as_ref().map_or("-", |identity| short(&identity.device_id));
        let certificate = peer.certificate.as_ref().map_or("-", |pinned| short(&pinned.fingerprint));
        let by = peer.certificate.as_ref().map_or("-", |pinned| by(pinned.pinned_by));
        let since =
            peer.identity.as_ref().map_or("-".to_owned(), |identity| format!("{:.0}", identity.since));
        [&peer.to.email_prefix, identity, &since, certificate, by].map(str::to_owned).to_vec()
    };
    if peers.is_empty() {
        ui.out("no gateway was met yet");
    } else {
        ui.table(
            &["PREFIX", "IDENTITY", "SINCE", "CERTIFICATE", "PINNED BY"],
            peers.iter().map(row).collect(),
        );
    }
    ui.document("trust", Exit::Done, json!({ "path": mesh.pins().path(), "peers": peers }));
    Ok(Exit::Done)
}

/// Enough of a fingerprint to tell two rows apart; `show` has all of it.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

fn by(pinned_by: PinnedBy) -> &'static str {
    match pinned_by {
        PinnedBy::Registry => "the registry",
        PinnedBy::Us => "trust add",
        PinnedBy::Invite => "an invite",
    }
}

fn show(mesh: &Mesh, name: &str, ui: &Ui) -> Result<Exit, CliError> {
    let peer = trust::show(mesh, find(mesh, name)?)?;
    tell(&peer, ui);
    ui.document("trust", Exit::Done, json!(peer));
    Ok(Exit::Done)
}

fn tell(peer: &Trusted, ui: &Ui) {
    match &peer.identity {
        Some(identity) => ui.out(format!("identity     {}  since {:.0}", identity.device_id, identity.since)),
        None => ui.out("identity     not known yet: the next message keeps it"),
    }
    match &peer.certificate {
        Some(pinned) => {
            ui.out(format!("certificate  {}  pinned by {}", pinned.fingerprint, by(pinned.pinned_by)));
        }
        None => ui.out("certificate  not pinned: over wss:// an authority has to vouch for it"),
    }
}

async fn add(
    mesh: &Mesh,
    name: &str,
    expected: Option<Fingerprint>,
    deadline: Instant,
    ui: &Ui,
) -> Result<Exit, CliError> {
    let agent = find(mesh, name)?;
    let peer = trust::add(mesh, agent, expected, deadline).await?;
    tell(&peer, ui);
    if expected.is_none() {
        ui.note(format!(
            "compare it with what {} sees; agent-mesh trust reset {} undoes it",
            agent.name, agent.email_prefix
        ));
    }
    ui.document("trust", Exit::Done, json!(peer));
    Ok(Exit::Done)
}

fn reset(mesh: &Mesh, name: &str, ui: &Ui) -> Result<Exit, CliError> {
    // Who has left the registry is forgotten by their prefix.
    let agent = find(mesh, name).ok();
    let prefix = agent.map_or(name, |agent| &agent.email_prefix).to_lowercase();
    let forgotten = trust::reset(mesh, &prefix)?;
    ui.out(match &forgotten {
        Some(_) => format!("forgot {prefix}'s gateway: the next contact is the first again"),
        None => format!("nothing was known of {prefix}'s gateway"),
    });
    if agent.is_some_and(|agent| agent.tls_pin().ok().flatten().is_some()) {
        ui.warn(format!("the registry still pins {prefix}'s certificate (tlsFingerprint)"));
    }
    let pin = forgotten.unwrap_or_default();
    let fields = json!({ "emailPrefix": prefix, "identity": pin.identity, "certificate": pin.certificate });
    ui.document("trust", Exit::Done, fields);
    Ok(Exit::Done)
}
