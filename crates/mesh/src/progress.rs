//! What happens while an operation runs, for somebody who watches.

use crate::record::{Record, To};

/// One step.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The message is in the archive, and about to leave.
    Begun {
        /// Its id.
        id: &'a str,
    },
    /// The peer's gateway let us in.
    Reached,
    /// It confirmed the run.
    Accepted,
    /// The same, and the peer's owner has to let it run first.
    Held,
    /// The run entered a phase, such as `model`.
    Phase(&'a str),
    /// The reply grew by this.
    Text(&'a str),
    /// The reply so far is not what was shown: this is.
    Rewrite(&'a str),
    /// A round of several begins.
    Round {
        /// Which, from 1.
        number: u32,
        /// What is said.
        message: &'a str,
    },
    /// A round of several ended.
    RoundDone(&'a Record),
    /// One of several recipients is done.
    PeerDone(&'a Record),
    /// Somebody spoke in a dialogue.
    Said {
        /// Whether it was our own agent.
        ours: bool,
        /// What it said.
        text: &'a str,
    },
    /// A pairing request waits for the peer's approval.
    PairingPending {
        /// Whose approval.
        to: &'a To,
        /// The request.
        request_id: &'a str,
    },
}

/// Somebody who watches.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn progress(&mut self, step: Progress<'_>);

    /// Whether the reply should be shown while it grows; it costs the peer some events.
    fn wants_text(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: Progress<'_>) {}
}
