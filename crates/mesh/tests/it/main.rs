//! The operations against a scripted gateway that shares none of our wire types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod addresses;
mod cuts;
mod doctor;
mod letting_in;
mod looking;
mod many;
mod outbox;
mod recognizing;
mod relay;
mod sending;
mod team;
mod trusting;
mod turned_away;
mod warm;
mod warm_cuts;
