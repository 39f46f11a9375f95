//! How many connections this process has file descriptors for.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Kept for what is no connection to a peer: the archive, state files, looking names up.
const RESERVE: usize = 32;
/// Taken to be open where the system does not tell.
const USUALLY_OPEN: usize = 16;

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Connections at once, on top of what is open now.
    pub connections: usize,
    /// The limit of this process that says so, `ulimit -n`.
    pub limit: usize,
}

/// What there is room for at this moment. Never nothing: a try shows.
#[must_use]
pub fn room() -> Room {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX);
    Room { connections: limit.saturating_sub(open() + RESERVE).max(1), limit }
}

/// How many this process has open.
fn open() -> usize {
    fs::read_dir("/dev/fd").map_or(USUALLY_OPEN, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_takes_room() {
        let before = room();
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = room();
        // Other tests of this process open and close some, too.
        assert!(before.connections.abs_diff(after.connections + files.len()) < 50, "{before:?} {after:?}");
        assert_eq!(before.limit, after.limit);
    }
}
