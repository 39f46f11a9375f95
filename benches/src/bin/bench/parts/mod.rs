//! What can be measured, one file a part.

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use clap::ValueEnum;

use crate::Size;
use crate::places::Places;

mod broadcast;
mod code;
mod list;
mod nats;
mod node;
mod outside;
mod send;
mod skill;

/// A part of the table, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// `list` of 1,000 and 10,000 peers, and with black holes
    List,
    /// `broadcast` to 100, 1,000 and 10,000 peers
    Broadcast,
    /// One message and its reply, beside a bare client that makes two commits
    Send,
    /// The same, on the real OpenClaw
    Real,
    /// The reference Node client
    Node,
    /// NATS request and reply
    Nats,
    /// The bash skill, where BASH_SKILL says where its script is
    Skill,
    /// Frames, archive and registry by themselves
    Code,
    /// A network where each round trip takes a tenth of a second
    Slow,
    /// `serve`: memory, idle connections, calls a second
    Door,
    /// What `serve --agent openclaw` adds to a turn
    DoorDelay,
    /// Search, listing and the journal, in 1,000,000 messages
    Archive,
    /// `sync` of 5,000 teammates
    Sync,
    /// An hour of mixed load
    Soak,
}

impl Part {
    /// Those that a run has when none is named.
    pub fn usual(size: Size) -> &'static [Self] {
        match size {
            Size::Full => Self::value_variants(),
            // What needs no more than Rust, and some seconds.
            Size::Short => &[Self::List, Self::Broadcast, Self::Send],
        }
    }

    /// Its name in the table.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Measures it. Those that have no short form are measured in full.
    pub fn rows(self, places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
        let product = places.product();
        let program = |name: &str, args: &[&str]| outside::program(places, &self.name(), name, args);
        match (self, size) {
            (Self::List, _) => list::rows(places, size),
            (Self::Broadcast, _) => broadcast::rows(places, size),
            (Self::Send, _) => send::rows(places, size),
            (Self::Real, _) => outside::script(places, "send"),
            (Self::Node, _) => node::rows(places, size),
            (Self::Nats, _) => nats::rows(places, size),
            (Self::Skill, _) => skill::rows(places),
            (Self::Code, _) => code::rows(places),
            (Self::Slow, Size::Full) => program("slow", &[&product, "--json"]),
            (Self::Slow, Size::Short) => program("slow", &[&product, "--json", "--rounds", "3"]),
            (Self::Door, _) => program("door", &[&product]),
            (Self::DoorDelay, _) => outside::script(places, "door-delay"),
            (Self::Archive, _) => program("archive-cost", &[]),
            (Self::Sync, _) => program("sync-cost", &[]),
            (Self::Soak, Size::Full) => program("soak", &[&product, "--json"]),
            (Self::Soak, Size::Short) => program("soak", &[&product, "--json", "--seconds", "60"]),
        }
    }
}
