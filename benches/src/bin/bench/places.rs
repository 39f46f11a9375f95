//! Where the binaries are.

use std::env;
use std::path::{Path, PathBuf};

use agent_mesh_benches::bare::Failure;

/// The project, and what was built of it.
#[derive(Debug)]
pub struct Places {
    /// The folder with `bench` in it.
    pub root: PathBuf,
    /// The product.
    pub agent_mesh: PathBuf,
    /// The folder of the benches' own programs.
    bench_bin: PathBuf,
    /// The bash skill's script, where it is at hand.
    pub bash_skill: Option<PathBuf>,
}

impl Places {
    /// As `./bench` found them.
    pub fn of_environment() -> Result<Self, Failure> {
        let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let needed = |name| path(name).ok_or_else(|| format!("{name} is not set: start ./bench instead"));
        Ok(Self {
            root: env::current_dir()?,
            agent_mesh: needed("AGENT_MESH_BIN")?,
            bench_bin: needed("BENCH_BIN")?,
            bash_skill: path("BASH_SKILL"),
        })
    }

    /// One of the benches' own programs.
    pub fn bench(&self, name: &str) -> String {
        text(&self.bench_bin.join(name))
    }

    /// The product, as an argument.
    pub fn product(&self) -> String {
        text(&self.agent_mesh)
    }
}

/// A path as an argument. Nobody builds this in a folder whose name is no text.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
