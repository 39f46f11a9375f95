//! On what, and with what, the figures were taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::places::Places;

/// The host. Figures of two hosts are not put into one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory: String,
    pub kernel: String,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: format!("{} GiB", kib / 1024 / 1024),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

/// What takes part, where it is at hand.
pub fn versions(places: &Places) -> BTreeMap<String, String> {
    let product = places.product();
    let asked = [
        ("rustc", said("rustc", &["--version"], &places.root)),
        ("agent-mesh", said(&product, &["--version"], &places.root)),
        ("Node", said("node", &["--version"], &places.root)),
        ("nats-server", said("nats-server", &["--version"], &places.root)),
        ("OpenClaw", package(places, "openclaw")),
        ("@openclaw/gateway-client", package(places, "@openclaw/gateway-client")),
    ];
    let known = asked.into_iter().filter_map(|(name, version)| Some((name.to_owned(), version?)));
    known.collect()
}

/// Which commit is measured; a plus when the tree has more than that.
pub fn commit(root: &Path) -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"], root).unwrap_or_else(|| "unknown".to_owned());
    let is_changed = said("git", &["status", "--porcelain", "--untracked-files=no"], root).is_some();
    if is_changed { format!("{commit}+") } else { commit }
}

/// How many wanted a core, over the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The first line of what a command says, if it says anything.
pub fn said(command: &str, args: &[&str], folder: &Path) -> Option<String> {
    let output = Command::new(command).args(args).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

/// The version of an npm package that `interop/setup` installed.
fn package(places: &Places, name: &str) -> Option<String> {
    let path = places.root.join("interop/node_modules").join(name).join("package.json");
    let package: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(package["version"].as_str()?.to_owned())
}
