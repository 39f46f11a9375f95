//! A company on one host: so many virtual agents, each an embedded gateway with an echo agent, an address in 127.0.0.0/8, a
//! key and a token of its own. In the folder it writes what a client needs: `registry.json`, `tokens.json`, and `agents.txt`
//! with one agent a line (name, address, token, `online` or `black-hole`). Then it says `ready` on stdout, and stays until
//! its standard input ends.
//!
//! `fleet FOLDER --agents 10000 [--black-holes PERCENT] [--port PORT]`. An agent costs two descriptors when it is called, so there is
//! one process for every 5,000 of them: this one starts itself again as often as needed.
#![allow(clippy::print_stdout)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent_mesh_benches::bare::Failure;
use agent_mesh_gateway::{Config, EchoAgent, Gateway, SharedToken};
use agent_team_mesh::client::protocol::methods::info::GatewayIdentity;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

/// So many agents a process: the usual hard limit is 20,000 descriptors.
const A_PROCESS: usize = 5_000;
/// On loopback a connect that is not answered within this never will be.
const PROBE: Duration = Duration::from_millis(500);

#[derive(Debug, Parser)]
struct Args {
    /// Where to write the client's files
    folder: PathBuf,
    /// How many
    #[arg(long)]
    agents: usize,
    /// So many of a hundred have a full queue and never accept: who connects hears nothing
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    black_holes: usize,
    /// All on this port, instead of a free one each
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Be the agents from this number on, and print them
    #[arg(long, hide = true)]
    from: Option<usize>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let Some(from) = args.from else { return muster(&args) };
    // One thread a process: the host has few cores, and a real agent has no other one either.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(be_agents(from, &args))
}

/// Starts the processes, writes the files, and waits.
fn muster(args: &Args) -> Result<(), Failure> {
    fs::create_dir_all(&args.folder)?;
    let mut processes = Vec::new();
    for from in (0..args.agents).step_by(A_PROCESS) {
        let agents = A_PROCESS.min(args.agents - from);
        let mut process = Command::new(std::env::current_exe()?)
            .arg(&args.folder)
            .args(["--agents", &agents.to_string(), "--from", &from.to_string()])
            .args(["--black-holes", &args.black_holes.to_string(), "--port", &args.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = process.stdout.take().ok_or("no stdout")?;
        // They leave when their standard input ends: when this process does, however that comes.
        processes.push((process, BufReader::new(said)));
    }
    let mut agents = String::new();
    for (_, said) in &mut processes {
        while !agents.ends_with("ready\n") {
            if said.read_line(&mut agents)? == 0 {
                return Err("a process of the fleet ended".into());
            }
        }
        agents.truncate(agents.len() - "ready\n".len());
    }
    write_files(&args.folder, &agents)?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for (process, _) in processes {
        leave(process)?;
    }
    Ok(())
}

fn leave(mut process: Child) -> Result<(), Failure> {
    drop(process.stdin.take());
    process.wait()?;
    Ok(())
}

fn write_files(folder: &Path, agents: &str) -> Result<(), Failure> {
    let of = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let agents_of: Vec<_> = agents.lines().map(of).collect();
    let registry: Vec<Value> = agents_of
        .iter()
        .map(|agent| json!({ "name": agent[0], "emailPrefix": agent[0], "ip": agent[1] }))
        .collect();
    let tokens: serde_json::Map<_, _> =
        agents_of.iter().map(|agent| (agent[0].clone(), agent[2].clone().into())).collect();
    fs::write(folder.join("registry.json"), json!({ "agents": registry }).to_string())?;
    let mut secret = OpenOptions::new();
    secret.create(true).write(true).truncate(true).mode(0o600);
    secret.open(folder.join("tokens.json"))?.write_all(json!({ "tokens": tokens }).to_string().as_bytes())?;
    secret.open(folder.join("agents.txt"))?.write_all(agents.as_bytes())?;
    Ok(())
}

/// The agents of one process.
async fn be_agents(from: usize, args: &Args) -> Result<(), Failure> {
    let mut lines = Vec::with_capacity(args.agents);
    let mut holes = JoinSet::new();
    for number in from..from + args.agents {
        if number * args.black_holes % 100 < args.black_holes {
            let address = address(number, args.port);
            holes.spawn(async move { black_hole(address).await.map(|hole| (number, hole)) });
            continue;
        }
        let token = secret();
        let gateway = Gateway::bind(config(address(number, args.port), &name(number), &token)?).await?;
        lines.push(format!("{} {} {token} online", name(number), gateway.local_addr()));
        tokio::spawn(gateway.run(std::future::pending()));
    }
    let mut silent = Vec::with_capacity(holes.len());
    while let Some(hole) = holes.join_next().await {
        let (number, hole) = hole??;
        lines.push(format!("{} {} {} black-hole", name(number), hole.local_addr()?, secret()));
        silent.push(hole);
    }
    lines.sort_unstable();
    println!("{}\nready", lines.join("\n"));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    // The runs of the others end here, too.
    std::process::exit(0)
}

fn config(address: SocketAddr, name: &str, token: &str) -> Result<Config, Failure> {
    let seed: [u8; 32] = Sha256::digest(secret()).into();
    let public = SigningKey::from_bytes(&seed).verifying_key();
    let device_id = Sha256::digest(public.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let identity = GatewayIdentity { device_id, public_key: URL_SAFE_NO_PAD.encode(public.as_bytes()) };
    Ok(Config::new(address, SharedToken::new(token)?, identity, Arc::new(EchoAgent::named(name))))
}

/// Sorts as its number does.
fn name(number: usize) -> String {
    format!("agent-{number:05}")
}

/// Its own address; port 0 is a free one there.
fn address(number: usize, port: u16) -> SocketAddr {
    let part = |of: usize| u8::try_from(of).unwrap_or(u8::MAX);
    let ip = Ipv4Addr::new(127, part(1 + number / 62_500), part(number / 250 % 250), part(1 + number % 250));
    (ip, port).into()
}

fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Somebody who is not there, as a firewall or a sleeping laptop is not: with its queue full, the kernel drops what knocks.
async fn black_hole(address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(address)?;
    let listener = socket.listen(1)?;
    let address = listener.local_addr()?;
    // Who hangs up keeps his place in the queue.
    while let Ok(connected) = timeout(PROBE, TcpStream::connect(address)).await {
        connected?;
    }
    Ok(listener)
}
