//! Requests and their answers, one file per family.
//!
//! Every request type implements [`Method`], so that a caller names the method once, by its type.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod agent;
pub mod chat;
pub mod device;
pub mod inbox;
pub mod info;
pub mod sessions;

/// Read sessions, status and history.
pub const SCOPE_READ: &str = "operator.read";
/// Start and abort runs; implies read.
pub const SCOPE_WRITE: &str = "operator.write";
/// List and approve devices.
pub const SCOPE_PAIRING: &str = "operator.pairing";
/// Everything.
pub const SCOPE_ADMIN: &str = "operator.admin";

/// A request: its name on the wire, and what its answer holds.
pub trait Method: Serialize {
    /// The method's name.
    const NAME: &'static str;
    /// What a good answer holds.
    type Payload: DeserializeOwned;
}
