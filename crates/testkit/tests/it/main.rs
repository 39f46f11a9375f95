//! The fake gateway, seen by a bare WebSocket client: none of our own types on either side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test helpers")]

mod chat;
mod door;
mod faults;
mod peer;
mod proxy;
mod runs;
