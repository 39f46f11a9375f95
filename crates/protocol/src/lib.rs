//! The OpenClaw gateway protocol (versions 3 and 4) as plain data: frames, the connect handshake, methods and events.
//!
//! This crate performs no IO and holds no key, clock or socket. Its facts were found by experiment against OpenClaw
//! 2026.9.6 and are held by the recorded frames in `tests/golden/`.
//!
//! - [`frame`]: what one WebSocket text message may be;
//! - [`connect`]: the first request and its answer (`hello-ok`);
//! - [`handshake`]: both halves of the handshake as state machines without IO;
//! - [`methods`]: one file per family of requests; every request type implements [`methods::Method`];
//! - [`event`]: what a gateway pushes;
//! - [`error`]: the error shape and what it means;
//! - [`attribution`]: agent-mesh's own header inside a message;
//! - [`imitation`]: text that imitates it;
//! - [`a2a`]: the Agent2Agent protocol, which has nothing to do with the others but the port;
//! - [`sse`]: server-sent events, as A2A and models stream.
//!
//! Unknown fields, events and error codes are accepted everywhere: a gateway may be newer than this crate.

pub mod a2a;
pub mod attribution;
pub mod connect;
pub mod error;
pub mod event;
pub mod frame;
pub mod handshake;
pub mod imitation;
pub mod methods;
pub mod sse;

pub use error::{ErrorShape, Fault};
pub use frame::{Frame, FrameError};

/// The oldest protocol version we speak (OpenClaw 2026.2 to 2026.5.7).
pub const MIN_PROTOCOL: u32 = 3;
/// The newest protocol version we speak (OpenClaw 2026.5.12 and later).
pub const MAX_PROTOCOL: u32 = 4;
/// The port a gateway listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 18789;
/// Largest frame the real gateway takes (`policy.maxPayload`, 25 MiB): a larger one closes the socket with 1009.
pub const MAX_PAYLOAD: usize = 26_214_400;
/// Largest frame the real gateway takes before authentication.
pub const MAX_PREAUTH_PAYLOAD: usize = 64 * 1024;
