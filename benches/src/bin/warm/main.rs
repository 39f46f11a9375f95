//! Question and answer over a connection that stands: so many as each line on standard input says, and then one line of JSON:
//! the microseconds that each of them took, and how often memory was asked for in all of them. Whoever asks several of these
//! in turn compares them on one machine.
//!
//! - `warm mesh HOME`: the library's own `send`, with the archive, the guards, the registry;
//! - `warm wire HOME`: our client alone, `agent` calls without an archive;
//! - `warm bare HOME [--commits ARCHIVE.db]`: the bare client, without and with two commits;
//! - `warm nats SERVER`: request and reply through a NATS server, answered by `warm nats-answer SERVER`.
//!
//! `HOME` is the home folder of somebody with one teammate, who echoes. Every reply is looked at.
#![allow(clippy::print_stdout)]

use std::alloc::System;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use agent_mesh_benches::bare::Failure;
use clap::{Parser, Subcommand};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

mod bare;
mod home;
mod mesh;
mod nats;
mod wire;

/// The system's allocator, which counts what it is asked for. SQLite asks elsewhere.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What everybody asks; the number makes each question another one.
const QUESTION: &str = "please check why the build of main failed after the merge";

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    who: Who,
}

#[derive(Debug, Subcommand)]
enum Who {
    /// The library's `send`
    Mesh { home: PathBuf },
    /// Our client, without an archive
    Wire { home: PathBuf },
    /// The bare client
    Bare {
        home: PathBuf,
        #[arg(long, value_name = "ARCHIVE.db")]
        commits: Option<PathBuf>,
    },
    /// A NATS client that asks
    Nats { server: String },
    /// A NATS client that echoes
    NatsAnswer { server: String },
}

/// Somebody who can be asked.
trait Ask {
    /// The answer.
    async fn ask(&mut self, question: &str) -> Result<String, Failure>;
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.who {
            Who::Mesh { home } => answer(mesh::Sender::new(&home)?).await,
            Who::Wire { home } => answer(wire::Wire::open(&home).await?).await,
            Who::Bare { home, commits } => answer(bare::Bare::open(&home, commits.as_deref()).await?).await,
            Who::Nats { server } => answer(nats::Requester::open(&server).await?).await,
            Who::NatsAnswer { server } => nats::echo(&server).await,
        }
    })
}

/// Asks as often as each line says.
async fn answer(mut somebody: impl Ask) -> Result<(), Failure> {
    let mut orders = BufReader::new(stdin()).lines();
    let mut number = 0;
    while let Some(order) = orders.next_line().await? {
        let mut micros = Vec::new();
        let region = Region::new(ALLOCATOR);
        for _ in 0..order.trim().parse()? {
            number += 1;
            let question = format!("{QUESTION} {number}");
            let start = Instant::now();
            let answer = somebody.ask(&question).await?;
            micros.push(u64::try_from(start.elapsed().as_micros())?);
            if !answer.ends_with(&question) {
                return Err(format!("asked {question:?}, heard {answer:?}").into());
            }
        }
        let asked = region.change();
        let allocations = asked.allocations + asked.reallocations;
        println!("{}", serde_json::json!({ "micros": micros, "allocations": allocations }));
        std::io::stdout().flush()?;
    }
    Ok(())
}
