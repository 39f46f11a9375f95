//! The hot paths by themselves: `benches/benches/code.rs`, under criterion.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use serde_json::Value;

use crate::places::Places;

const COMMAND: &str = "cargo bench -p agent-mesh-benches";

pub fn rows(places: &Places) -> Result<Vec<Row>, Failure> {
    let home = tempfile::tempdir()?;
    let status = Command::new("cargo")
        .args(["bench", "--locked", "--quiet", "-p", "agent-mesh-benches", "--bench", "code"])
        .env("CRITERION_HOME", home.path())
        .current_dir(&places.root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("{COMMAND}: {status}").into());
    }
    let mut groups: Vec<_> = fs::read_dir(home.path())?.collect::<Result<_, _>>()?;
    groups.sort_by_key(fs::DirEntry::file_name);
    let rows = groups.iter().filter(|group| group.path().join("own").is_dir());
    rows.map(|group| {
        let about: Value = read(&group.path().join("own/new/benchmark.json"))?;
        let what = about["group_id"].as_str().ok_or("a group without a name")?;
        let (own, bare) = (micros(&group.path(), "own")?, micros(&group.path(), "bare")?);
        Ok(Row::new("code", what, COMMAND, own, "µs").beside(beside(what), bare))
    })
    .collect()
}

/// What `bare` is in each group.
fn beside(what: &str) -> &'static str {
    match what {
        what if what.starts_with("connect") => "bare ed25519 and serde_json::Value",
        what if what.starts_with("archive") => "two commits by bare rusqlite",
        _ => "serde_json::Value",
    }
}

fn micros(group: &Path, side: &str) -> Result<f64, Failure> {
    let estimates = read(&group.join(side).join("new/estimates.json"))?;
    let nanos = estimates["median"]["point_estimate"].as_f64().ok_or("criterion wrote no median")?;
    Ok(nanos / 1e3)
}

fn read(path: &Path) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
