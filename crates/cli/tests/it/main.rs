//! The binary as its users see it: argv and files in; stdout, stderr and an exit code out. The environment is empty, the
//! home folder fresh, and no address leads off this machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside of test functions stop the test the same way"
)]

mod a2a;
mod backends;
mod broadcast;
mod config;
mod demo;
mod dialogue;
mod docs;
mod door;
mod failures;
mod guards;
mod invite;
mod list_ping;
mod loops;
mod many;
mod mcp;
mod model;
mod named;
mod outbox;
mod output;
mod pair;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
mod relro;
mod send;
mod serve;
mod skill;
mod support;
mod sync;
mod token;
mod trust;
mod whoami;
