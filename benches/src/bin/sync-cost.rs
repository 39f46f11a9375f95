//! What a sync of a large team costs: asking a file, the difference, and the new registry on the disk.
//!
//! `cargo run --release -p agent-mesh-benches --bin sync-cost [-- --teammates N --rounds N --slack X | --strict]`
//! Rows of `./bench` on stdout, a table that says more on stderr.
#![allow(clippy::print_stderr)]

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent_mesh_benches::{Judge, Row, Spread, ms, spread};
use agent_team_mesh::config::MeshConfig;
use agent_team_mesh::ops::sync::{SyncOptions, sync};
use agent_team_mesh::sync::Source;
use agent_team_mesh::{Mesh, MeshError};
use clap::Parser;
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

/// Must hold: what issue 5 asks for, with 5,000 teammates.
const SYNC: Duration = Duration::from_millis(200);

/// What a sync of a large team costs
#[derive(Debug, Parser)]
struct Args {
    /// How many teammates
    #[arg(long, default_value_t = 5_000)]
    teammates: usize,
    /// How often each is measured
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Fail only beyond so many times what must hold
    #[arg(long, default_value_t = 2.0)]
    slack: f64,
    /// Fail beyond what must hold: `--slack 1`
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Csv,
}

/// What a round finds.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    /// There is no registry yet.
    First,
    /// The list is as it was.
    Same,
    /// Every address rolled, ten teammates left and ten came.
    Rolled,
}

struct Team {
    folder: tempfile::TempDir,
    teammates: usize,
    format: Format,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let mut judge = Judge::new(if args.strict { 1.0 } else { args.slack });
    eprintln!("\n## A sync of {} teammates from a file ({} rounds)\n", args.teammates, args.rounds);
    eprintln!(
        "| source | what is different | ask and compare | write | both, median / p99 | bare parse and write, median | ratio | must hold: at most 200 ms |"
    );
    eprintln!("|---|---|---|---|---|---|---|---|");
    for (format, name) in [(Format::Json, "JSON"), (Format::Csv, "CSV")] {
        for (case, what) in
            [(Case::First, "everything is new"), (Case::Same, "nothing"), (Case::Rolled, "every address")]
        {
            let team = Team { folder: tempfile::tempdir()?, teammates: args.teammates, format };
            let [planned, written, both, bare] = team.measure(case, args.rounds).await?;
            let verdict = judge.verdict(&format!("{name}, {what}"), both.median, SYNC);
            let ratio = both.median.as_secs_f64() / bare.median.as_secs_f64();
            eprintln!(
                "| {name} | {what} | {} | {} | {} / {} | {} | {ratio:.2} | {verdict} |",
                ms(planned.median),
                ms(written.median),
                ms(both.median),
                ms(both.p99),
                ms(bare.median),
            );
            let what = format!("{} teammates as {name}, new: {what}", args.teammates);
            Row::new("sync", what, "target/release/sync-cost", both.median.as_secs_f64() * 1e3, "ms")
                .beside("parsed and written by bare serde_json", bare.median.as_secs_f64() * 1e3)
                .must_hold("at most 200 ms", both.median <= SYNC)
                .print();
        }
    }
    Ok(judge.conclude())
}

impl Team {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The team's list as it is at a time: addresses roll with it, and ten teammates go and come.
    fn publish(&self, time: usize) -> Result<(), Failure> {
        let entries = (time * 10..time * 10 + self.teammates).map(|n| {
            let ip = format!("10.{}.{}.{}", time % 2, n / 250, n % 250);
            json!({ "name": format!("Teammate {n}"), "emailPrefix": format!("user.{n}"), "ip": ip,
                "hostname": format!("agent-{n}.agents.team.svc"), "note": "a word or two", "tags": { "team": "infra" } })
        });
        let list = match self.format {
            Format::Json => Value::from(entries.collect::<Vec<_>>()).to_string(),
            Format::Csv => {
                let row = |entry: Value| {
                    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
                    let [name, prefix] = [text("name"), text("emailPrefix")];
                    let [ip, hostname] = [text("ip"), text("hostname")];
                    format!("{name},{prefix}@example.com,{ip},{hostname},a word or two,team=infra\n")
                };
                format!("Name,Email,IP,Hostname,Note,Tags\n{}", entries.map(row).collect::<String>())
            }
        };
        Ok(fs::write(self.path("list"), list)?)
    }

    /// Ask and compare; write; both; and the same work done barely.
    async fn measure(&self, case: Case, rounds: usize) -> Result<[Spread; 4], Failure> {
        self.publish(0)?;
        self.sync().await?;
        let mut times: [Vec<Duration>; 4] = Default::default();
        for round in 1..=rounds {
            match case {
                Case::First => fs::remove_file(self.path("registry.json"))?,
                Case::Same => {}
                Case::Rolled => self.publish(round)?,
            }
            let (planned, written) = self.sync().await?;
            let bare = self.bare(case != Case::Same)?;
            for (list, time) in times.iter_mut().zip([planned, written, planned + written, bare]) {
                list.push(time);
            }
        }
        Ok(times.map(spread))
    }

    async fn sync(&self) -> Result<(Duration, Duration), Failure> {
        let uri = format!("file:{}", self.path("list").display()).parse()?;
        let options = SyncOptions {
            sources: vec![Source { uri, bearer_file: None }],
            prefer_source: false,
            allow_empty: false,
            dry_run: false,
            timeout: Duration::from_secs(60),
        };
        let mesh = Mesh::new(self.config()?);
        let start = Instant::now();
        let plan = sync(&mesh, &options).await?;
        let planned = start.elapsed();
        let start = Instant::now();
        plan.write()?;
        Ok((planned, start.elapsed()))
    }

    /// Reads the list and the registry as JSON of any shape; where a sync would write, writes what it wrote once more, as
    /// surely.
    fn bare(&self, writes: bool) -> Result<Duration, Failure> {
        let start = Instant::now();
        let list = fs::read(self.path("list"))?;
        if matches!(self.format, Format::Json) {
            std::hint::black_box(serde_json::from_slice::<Value>(&list)?);
        }
        let registry: Value = serde_json::from_slice(&fs::read(self.path("registry.json"))?)?;
        if writes {
            let json = serde_json::to_vec_pretty(&registry)?;
            write_surely(self.folder.path(), &json)?;
        }
        Ok(start.elapsed())
    }

    fn config(&self) -> Result<MeshConfig, MeshError> {
        let own = "ws://127.0.0.1:1".parse().map_err(|_| MeshError::Nobody)?;
        Ok(MeshConfig::new(self.path("registry.json"), self.path("tokens.json"), self.path("state"), own))
    }
}

/// A temporary file, on the disk, under its name, and the folder on the disk.
fn write_surely(folder: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(folder.join("bare.json"))?;
    Ok(File::open(folder)?.sync_all()?)
}
