//! The floor for many: the same number of bare connections as `agent-mesh list` or `agent-mesh broadcast` makes, so many at
//! once, and nothing else: no registry, no archive, no table.
//!
//! `bare-crowd AGENTS.txt [--ask KEY.pem MESSAGE] [--at-once 256]`, with the `agents.txt` that `fleet` writes. Without
//! `--ask` it reads each challenge and hangs up. Prints how many answered as they should; exits 1 unless all did.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use agent_mesh_benches::bare::{Caller, Failure, Line};
use clap::Parser;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use futures_util::{StreamExt, stream};
use uuid::Uuid;

#[derive(Debug, Parser)]
struct Args {
    /// One agent a line: its name, its address, its token
    agents: PathBuf,
    /// Also comes in with this key, asks each agent this, and waits for its reply
    #[arg(long, num_args = 2, value_names = ["KEY.pem", "MESSAGE"])]
    ask: Vec<String>,
    /// So many at once
    #[arg(long, default_value_t = 256)]
    at_once: usize,
}

fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let agents = std::fs::read_to_string(&args.agents)?;
    let question = match args.ask.as_slice() {
        [key, message] => {
            Some((SigningKey::from_pkcs8_pem(&std::fs::read_to_string(key)?)?, message.as_str()))
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answers = runtime.block_on(async {
        let calls = agents.lines().map(|agent| call(agent, question.as_ref()));
        stream::iter(calls).buffer_unordered(args.at_once).collect::<Vec<_>>().await
    });
    let good = answers.iter().filter(|answer| matches!(answer, Ok(true))).count();
    println!("{good} of {} answered", answers.len());
    if let Some(Err(error)) = answers.iter().find(|answer| answer.is_err()) {
        println!("one of the others: {error}");
    }
    Ok(if good == answers.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the agent answered what it should.
async fn call(agent: &str, question: Option<&(SigningKey, &str)>) -> Result<bool, Failure> {
    let mut fields = agent.split(' ');
    let (Some(_), Some(address), Some(token)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("expected: NAME ADDRESS TOKEN".into());
    };
    let mut line = Line::open(address).await?;
    let Some((key, message)) = question else { return Ok(true) };
    let (key, secret, name) = (key.clone(), token.to_owned(), "alice".to_owned());
    line.enter(&Caller { key, by_device: false, secret, name }).await?;
    let reply = line.ask("alice", Uuid::now_v7(), "agent:main:mesh:alice", message).await?;
    line.close().await?;
    Ok(reply.ends_with(message))
}
