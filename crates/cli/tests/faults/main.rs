//! What must never happen, whatever breaks: a message lost, a turn run twice because of us, somebody else's reply.
//!
//! The witness is the ledger of the scripted gateway (what its agent really ran), never our own archive. The full form
//! is `FAULT_CUTS=1000 cargo test -p agent-mesh --test faults -- --nocapture`; `FAULT_SEED` repeats a run's choices and
//! `FAULT_ONLY=17` plays its trial 17 alone. (What the machine's scheduler adds to a SIGKILL cannot be repeated.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers outside of test functions stop the test the same way, and the totals are the point"
)]

mod all;
mod archive_files;
mod home;
mod message;
mod queue;
mod random;
mod storm;
mod strike;
mod totals;
mod trial;
