//! The client against the scripted fake gateway, mostly over an in-memory pipe and a paused clock: what looks like a
//! wait below takes no real time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test helpers")]

mod answers;
mod caller;
mod connecting;
mod cuts;
mod faults;
mod resuming;
mod time;
