//! One file an operation. Each takes a [`Mesh`](crate::Mesh) and says what became of it; nothing below knows a terminal.

pub mod abort;
pub mod approving;
pub mod broadcast;
pub mod chain;
pub mod dialogue;
pub mod doctor;
pub mod inbox;
pub mod init;
pub mod invite;
pub mod join;
pub mod let_go;
pub mod limits;
pub mod list;
pub mod outbox;
pub mod pair;
pub mod ping;
mod probe;
pub mod relay;
pub mod send;
pub mod sync;
pub mod trust;
pub mod wait;
pub mod whoami;
