//! What each failure of a library means to the user, and what to do about it: one row a failure, by who can help. We
//! (`ours`), on our gateway's host (`own_gateway`), the peer (`theirs`), or nobody but time (`messages`). What keeps
//! `serve` from serving is in `door`.

use agent_team_mesh::MeshError;

use super::{CliError, Exit, chain};

mod door;
mod messages;
mod ours;
mod own_gateway;
mod theirs;

pub use door::{policy_malformed, token_too_short};
pub use ours::machine;
pub use own_gateway::relay_hint;
pub use theirs::ask_for_an_invite;

pub fn explain(error: &MeshError) -> CliError {
    let Meaning { exit, code, hint } = ours::meaning(error)
        .or_else(|| own_gateway::meaning(error))
        .or_else(|| theirs::meaning(error))
        .or_else(|| messages::meaning(error))
        .unwrap_or_else(|| means(Exit::Failed, "failed", ASK_DOCTOR));
    CliError::new(exit, code, chain(error)).hint(hint)
}

/// What helps where nothing better is known.
const ASK_DOCTOR: &str = "agent-mesh doctor looks at everything on our side";

/// Exit code, code and hint of a failure. There is none without a hint: whoever reads it wants to know what to do.
struct Meaning {
    exit: Exit,
    code: &'static str,
    hint: String,
}

/// A row. `tests/it/docs.rs` holds the codes of the guide to those that stand behind an exit code here.
fn means(exit: Exit, code: &'static str, hint: impl Into<String>) -> Meaning {
    Meaning { exit, code, hint: hint.into() }
}

/// The same of our own gateway and of a peer's.
fn protocol_mismatch() -> Meaning {
    means(Exit::Unreachable, "protocol-mismatch", "this version speaks gateway protocols 3 and 4")
}
