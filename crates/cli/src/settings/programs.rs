//! Whether a program is there.

use std::env::split_paths;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Settings;

/// Where the system looks without a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

impl Settings {
    /// Whether this can be started: a path, or a name that a folder of PATH has.
    pub fn has_program(&self, name: &OsStr) -> bool {
        if name.as_bytes().contains(&b'/') {
            return may_start(Path::new(name));
        }
        let folders = self.env.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        !name.is_empty() && split_paths(folders).any(|folder| may_start(&folder.join(name)))
    }
}

fn may_start(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
