//! What is wrong here, or on the other side, and the command that helps.
//!
//! It changes nothing: no file stays that was not there, no pairing request is filed, and each credential is shown at most
//! once.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join;
use serde::Serialize;
use tokio::time::Instant;

use super::list::millis;
use crate::crowd::Crowd;
use crate::descriptors;
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::private_file::shell_word;
use crate::record::To;
use crate::registry::Agent;

mod clock;
mod local;
mod peer;
mod remedy;

/// How many peers that answer are looked at at once.
const AT_ONCE: usize = 64;

/// What was found, in the order in which things depend on each other.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Ours first, then each peer's.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether nothing failed. Warnings do not count.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Fail)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name, such as `tokens` or `pairing`.
    pub name: &'static str,
    /// Whether it is about us or a peer.
    pub scope: Scope,
    /// Which peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<To>,
    /// How it is.
    pub status: Status,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// What was found.
    pub detail: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

/// Whom a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Us.
    Local,
    /// A peer.
    Peer,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but not as well as it should.
    Warn,
    /// It does not work.
    Fail,
}

/// A command that helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Who runs it.
    pub side: Side,
    /// Ready for a shell.
    pub command: String,
    /// When it helps, if that is not certain: "if Bob has a new gateway".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What comes next, or helps where this does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Self>,
}

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// We, on this host.
    Ours,
    /// The peer, on theirs.
    Theirs,
}

impl Fix {
    fn new(side: Side, command: impl Into<String>) -> Self {
        Self { side, command: command.into(), when: None, also: Vec::new() }
    }

    fn ours(command: impl Into<String>) -> Option<Self> {
        Some(Self::new(Side::Ours, command))
    }

    fn theirs(command: impl Into<String>) -> Option<Self> {
        Some(Self::new(Side::Theirs, command))
    }

    /// A file that only its owner can put right.
    fn edit(file: &Path) -> Self {
        Self::new(Side::Ours, format!("$EDITOR {}", shell_word(file)))
    }

    fn when(self, when: impl Into<String>) -> Self {
        Self { when: Some(when.into()), ..self }
    }

    fn also(mut self, also: impl IntoIterator<Item = Self>) -> Self {
        self.also.extend(also);
        self
    }
}

/// How something is, before it has a name.
struct Finding(Status, String, Option<Fix>);

impl Finding {
    fn ok(detail: impl Into<String>) -> Self {
        Self(Status::Ok, detail.into(), None)
    }

    fn warn(detail: impl Into<String>, fix: Option<Fix>) -> Self {
        Self(Status::Warn, detail.into(), fix)
    }

    fn fail(detail: impl Into<String>, fix: Option<Fix>) -> Self {
        Self(Status::Fail, detail.into(), fix)
    }

    fn about_us(self, name: &'static str, ms: f64) -> Check {
        let Self(status, detail, fix) = self;
        Check { name, scope: Scope::Local, to: None, status, ms, detail, fix }
    }

    fn about(self, to: &To, name: &'static str, ms: f64) -> Check {
        Check { scope: Scope::Peer, to: Some(to.clone()), ..self.about_us(name, ms) }
    }
}

/// Looks at everything here, and at one peer or all of them.
///
/// `timeout` counts for our own gateway and for each peer from the moment its turn comes.
pub async fn doctor(mesh: &Mesh, to: Option<&Agent>, timeout: Duration) -> Report {
    let mut checks = local::files(mesh);
    let peers = Crowd::new(AT_ONCE, descriptors::room().connections)
        .all(patients(mesh, to), |agent, turn| peer::examine(mesh, agent, timeout, turn));
    let (own, peers) = join(own_gateway(mesh, timeout), peers).await;
    let (own, own_clock) = own;
    let clocks: Vec<_> = peers.iter().filter_map(|examined| examined.clock.clone()).collect();
    checks.push(own);
    checks.push(clock::ours(&clocks, own_clock).about_us("clock", 0.0));
    for examined in peers {
        let theirs = examined.clock.and_then(|reading| clock::theirs(&reading, &clocks));
        let clock = theirs.map(|finding| finding.about(&examined.to, "clock", 0.0));
        checks.extend(examined.checks.into_iter().chain(clock));
    }
    Report { checks }
}

/// The peer asked for, or all in the registry but ourselves. A registry that cannot be read is found by its own check.
fn patients<'a>(mesh: &'a Mesh, to: Option<&'a Agent>) -> Vec<&'a Agent> {
    match (to, mesh.registry()) {
        (Some(agent), _) => vec![agent],
        (None, Ok(registry)) => registry.agents.iter().filter(|agent| !mesh.is_me(agent)).collect(),
        (None, Err(_)) => Vec::new(),
    }
}

/// Our own gateway, and how far our clock is ahead of it.
async fn own_gateway(mesh: &Mesh, timeout: Duration) -> (Check, Option<i64>) {
    let start = Instant::now();
    let (finding, ahead_ms) = local::own_gateway(mesh, start + timeout).await;
    (finding.about_us("own-gateway", millis(start.elapsed())), ahead_ms)
}

/// An error and all its causes.
fn chain(error: &MeshError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
