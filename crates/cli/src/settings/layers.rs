//! Flag, variable, file, default: who says it first is believed.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::env::{Env, invalid};
use super::file::malformed_config;
use super::table::About;
use super::{Setting, Source};
use crate::args::duration;
use crate::error::CliError;

/// The three layers above the defaults.
pub(super) struct Layers<'a> {
    pub(super) env: &'a Env,
}

impl Layers<'_> {
    /// A path: flag, variable, file, default.
    pub(super) fn path(
        &self,
        about: &About,
        flag: Option<&PathBuf>,
        file: Option<PathBuf>,
        default: impl FnOnce() -> PathBuf,
    ) -> Setting<PathBuf> {
        first(about, flag.cloned(), self.env.get(about.env).map(PathBuf::from), file, default)
    }

    /// A path that may be left out; there is no option for it.
    pub(super) fn optional_path(&self, about: &About, file: Option<PathBuf>) -> Setting<Option<PathBuf>> {
        let env = self.env.get(about.env).map(|path| Some(PathBuf::from(path)));
        first(about, None, env, file.map(Some), || None)
    }

    /// A text that may be left out.
    pub(super) fn text(
        &self,
        about: &About,
        flag: Option<String>,
        file: Option<String>,
    ) -> Result<Setting<Option<String>>, CliError> {
        let env = self.env.text(about.env)?.map(|text| Some(text.to_owned()));
        Ok(first(about, flag.map(Some), env, file.map(Some), || None))
    }

    /// A value that a variable spells as text.
    pub(super) fn parsed<T: FromStr>(
        &self,
        about: &About,
        file: Option<T>,
        default: T,
        expected: &str,
    ) -> Result<Setting<T>, CliError> {
        let name = about.env;
        let env = self.env.text(name)?.map(|text| text.parse::<T>().map_err(|_| invalid(name, expected)));
        Ok(first(about, None, env.transpose()?, file, || default))
    }

    pub(super) fn duration(
        &self,
        about: &About,
        file: Option<InFile<'_>>,
        default: u64,
    ) -> Result<Setting<Duration>, CliError> {
        let env =
            self.env.text(about.env)?.map(|text| duration(text).map_err(|why| invalid(about.env, &why)));
        let file = file.map(|InFile(path, text)| {
            duration(&text).map_err(|why| malformed_config(path, &format!(": {}: {why}", about.name)))
        });
        Ok(first(about, None, env.transpose()?, file.transpose()?, || Duration::from_secs(default)))
    }

    /// A switch: an option without a value.
    pub(super) fn switch(
        &self,
        about: &About,
        flag: bool,
        file: Option<bool>,
    ) -> Result<Setting<bool>, CliError> {
        Ok(first(about, flag.then_some(true), self.env.flag(about.env)?, file, || false))
    }
}

/// A value of the settings file that is still text.
pub(super) struct InFile<'a>(pub(super) &'a Path, pub(super) String);

/// The strongest layer that says anything.
pub(super) fn first<T>(
    about: &About,
    flag: Option<T>,
    env: Option<T>,
    file: Option<T>,
    default: impl FnOnce() -> T,
) -> Setting<T> {
    let option = about.flag.unwrap_or_default();
    let layers = [(flag, Source::Flag(option)), (env, Source::Env(about.env)), (file, Source::File)];
    for (value, source) in layers {
        if let Some(value) = value {
            return Setting { value, source };
        }
    }
    Setting { value: default(), source: Source::Default }
}
