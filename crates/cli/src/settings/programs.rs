//! Whether a program is there.

use std::env::split_paths;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Settings;

/// Where the system looks without a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

impl Settings {
    /// What this starts: a path, or a name that a folder of PATH has.
    pub fn program(&self, name: &OsStr) -> Program {
        if name.as_bytes().contains(&b'/') {
            return look(Path::new(name));
        }
        if name.is_empty() {
            return Program::Missing;
        }
        let folders = self.env.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        let mut first = Program::Missing;
        for found in split_paths(folders).map(|folder| look(&folder.join(name))) {
            match (found, &first) {
                (Program::Ready, _) => return Program::Ready,
                (found, Program::Missing) => first = found,
                _ => {}
            }
        }
        first
    }
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// It can be started.
    Ready,
    /// This file, which nobody may execute.
    NotExecutable(PathBuf),
    /// There is no such file.
    Missing,
}

fn look(path: &Path) -> Program {
    match path.metadata() {
        Ok(about) if !about.is_file() => Program::Missing,
        Ok(about) if about.permissions().mode() & 0o111 != 0 => Program::Ready,
        Ok(_) => Program::NotExecutable(path.to_owned()),
        Err(_) => Program::Missing,
    }
}
