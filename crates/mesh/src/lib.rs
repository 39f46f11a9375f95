//! The mesh of teammates and their OpenClaw agents: who they are, how to reach them, and what may be sent.
//!
//! This crate has no terminal, no argument list and no environment: paths and values come in as arguments, and errors
//! state facts. Hints, exit codes and everything a user sees are the CLI's.
//!
//! [`Mesh`] is what every operation in [`ops`] starts from. `route` is how a message reaches a peer.

pub mod archive;
pub mod config;
mod crowd;
mod denial;
pub mod descriptors;
pub mod device;
pub mod error;
pub mod fallback;
mod filed;
mod gathered;
pub mod git_exposure;
pub mod guard;
pub mod identity;
pub mod invite;
mod merged;
mod mesh;
pub mod message;
pub mod ops;
mod own_gateway;
mod peer;
pub mod pins;
mod pool;
pub mod private_file;
mod process_group;
pub mod progress;
pub mod quoted;
pub mod record;
pub mod registry;
mod route;
pub mod secrets;
pub mod sync;

pub use config::{MeshConfig, OwnGatewayConfig, PlainText};
pub use denial::policy_of_peer;
pub use error::MeshError;
pub use merged::Merged;
pub use mesh::{Mesh, a2a_token_key};
pub use openclaw_client as client;
pub use own_gateway::OwnGateway;
pub use peer::{Peer, SessionChoice, session_key};
pub use route::a2a::A2aError;
