//! What peers and strangers may try against the door, each attempt by itself, over real sockets: that nothing of others
//! leaks, that every refusal says what it is, and that the door stands afterwards. Frames are raw JSON and raw bytes.
//!
//! Addresses other than loopback are claimed: a socket comes to the gateway as from wherever the test says.
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod attributes;
mod credentials;
mod door;
mod frames;
mod guests;
mod handshake;
mod held;
mod http;
mod imitation;
mod known;
mod lockout;
mod methods;
mod pairing;
mod policy;
mod reload;
mod runs;
mod sessions;
mod signatures;
mod slash;
#[allow(dead_code, reason = "a part of it is for the other suite")]
#[path = "../it/support.rs"]
mod support;
mod unfinished;
mod websocket;
