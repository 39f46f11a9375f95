//! The environment and the home folder, and nothing that is made of them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// The environment, taken once.
pub struct Env {
    pub(super) vars: HashMap<OsString, OsString>,
    pub(super) args: Vec<OsString>,
    pub(super) home: Option<PathBuf>,
    pub(super) exe: Option<PathBuf>,
}

impl Env {
    /// Of this process.
    #[allow(clippy::disallowed_methods)] // The one place that may.
    pub fn of_process() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
            args: std::env::args_os().collect(),
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            exe: std::env::current_exe().ok(),
        }
    }

    /// Of nobody.
    pub(super) fn empty() -> Self {
        Self { vars: HashMap::new(), args: Vec::new(), home: None, exe: None }
    }

    pub fn args(&self) -> impl Iterator<Item = OsString> {
        self.args.clone().into_iter()
    }

    /// A variable that is set to something.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, CliError> {
        self.get(name).map(|value| value.to_str().ok_or_else(|| invalid(name, "it is not UTF-8"))).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, CliError> {
        match self.text(name)? {
            None => Ok(None),
            Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
            Some("0" | "false" | "no" | "off") => Ok(Some(false)),
            Some(_) => Err(invalid(name, "expected 1 or 0")),
        }
    }

    /// `NO_COLOR`, whatever its value.
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some()
    }

    /// The same, as a layer.
    pub(super) fn set_no_color(&self) -> Option<bool> {
        self.no_color().then_some(true)
    }

    /// `MESH_JSON`.
    pub fn json(&self) -> Result<bool, CliError> {
        Ok(self.flag("MESH_JSON")?.unwrap_or(false))
    }

    pub(super) fn xdg(&self, name: &str, fallback: &str) -> PathBuf {
        // The specification: a relative path there is to be ignored.
        match self.get(name).map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(path) => path,
            None => self.home.as_deref().unwrap_or(Path::new("")).join(fallback),
        }
    }
}

pub(super) fn invalid(name: &str, why: &str) -> CliError {
    let hint = format!("correct {name}, or take it away: the default holds then");
    CliError::usage(format!("{name}: {why}")).hint(hint)
}
