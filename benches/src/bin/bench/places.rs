//! Where the binaries are.

use std::path::{Path, PathBuf};

use clap::Args;

/// The project, and what was built of it: the script `./bench` says so in the environment.
#[derive(Debug, Args)]
pub struct Places {
    /// The folder with `bench` in it
    #[arg(long, env = "BENCH_ROOT", hide = true)]
    pub root: PathBuf,
    /// The product
    #[arg(long, env = "AGENT_MESH_BIN", hide = true)]
    pub agent_mesh: PathBuf,
    /// The folder of the benches' own programs
    #[arg(long, env = "BENCH_BIN", hide = true)]
    bench_bin: PathBuf,
    /// The bash skill's script, where it is at hand
    #[arg(long, env = "BASH_SKILL", value_name = "FILE")]
    pub bash_skill: Option<PathBuf>,
}

impl Places {
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
