//! The gateway seen from outside: hand-written JSON over a raw WebSocket, none of our own protocol types, which would
//! agree with themselves even where they are wrong.
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod a2a;
mod auth;
mod events;
mod framing;
mod http;
mod invites;
mod lifecycle;
mod pairing;
mod runs;
mod sessions;
mod support;
