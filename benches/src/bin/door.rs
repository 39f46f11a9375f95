//! The door: what `agent-mesh serve --agent echo` takes while nobody is there, while thousands are and say nothing, and how
//! many `agent` calls a second it answers. The server is a process of its own, started here; this process is the clients.
//!
//! `door AGENT-MESH [--idle 10000] [--busy 64] [--seconds 5]`. Both processes need a file a connection: `ulimit -n 20000`.
//! The figures are rows of `./bench`.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_mesh_benches::Row;
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

type Failure = Box<dyn Error + Send + Sync>;
type Socket = WebSocketStream<TcpStream>;

const TOKEN: &str = "a-token-for-the-bench-0123456789";
/// The server has 32 seats for those who have not said who they are.
const KNOCKING: usize = 24;

#[derive(Debug, Parser)]
struct Args {
    /// The binary
    agent_mesh: PathBuf,
    /// So many connections that say nothing
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// So many connections that talk
    #[arg(long, default_value_t = 64)]
    busy: usize,
    /// For so long
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&args))
}

async fn measure(args: &Args) -> Result<ExitCode, Failure> {
    let home = tempfile::tempdir()?;
    let door = Door::open(&args.agent_mesh, home.path())?;
    let row = |what: String, value: f64, unit: &str| {
        Row::new("door", what, "target/release/door target/release/agent-mesh", value, unit)
    };
    let mib = |kib: u64| kib as f64 / 1024.0;
    let alone = door.resident()?;
    let small = alone * 1024 <= 20_000_000;
    row("resident, nobody there".to_owned(), mib(alone), "MiB").must_hold("at most 20 MB", small).print();

    let calls = talk(&door, args.busy, Duration::from_secs(args.seconds)).await?;
    let fast = calls >= 5_000.0;
    row(format!("echo `agent` calls over {} connections", args.busy), calls, "a second")
        .must_hold("at least 5,000", fast)
        .print();

    let before = door.resident()?;
    let start = Instant::now();
    let idle = crowd(&door, args.idle).await?;
    let with = door.resident()?;
    let each = (with.saturating_sub(before)) as f64 / idle.len().max(1) as f64;
    let lean = with * 1024 <= 250_000_000;
    row(format!("resident, {} idle authenticated connections", idle.len()), mib(with), "MiB")
        .beside("nobody there", mib(alone))
        .must_hold("at most 250 MB", lean)
        .note(format!("{each:.1} KiB each; all in after {:.1} s", start.elapsed().as_secs_f64()))
        .print();
    let holds = small && fast && lean;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The server; killed when dropped.
struct Door {
    process: Child,
    address: String,
}

impl Door {
    fn open(binary: &Path, home: &Path) -> Result<Self, Failure> {
        let mut process = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--agent", "echo"])
            .env_clear()
            .env("HOME", home)
            .env("MESH_GATEWAY_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(process.stderr.take().ok_or("no stderr")?).read_line(&mut said)?;
        let address = said.trim().strip_prefix("listening on ws://").ok_or_else(|| said.clone())?.to_owned();
        Ok(Self { process, address })
    }

    /// KiB of memory that are in use now.
    fn resident(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// So many calls a second, over so many connections at once.
async fn talk(door: &Door, connections: usize, time: Duration) -> Result<f64, Failure> {
    let done = Arc::new(AtomicU64::new(0));
    let mut sockets = Vec::new();
    for _ in 0..connections {
        sockets.push(enter(&door.address).await?);
    }
    let start = Instant::now();
    let tasks: Vec<_> = sockets
        .into_iter()
        .enumerate()
        .map(|(number, socket)| {
            let done = Arc::clone(&done);
            tokio::spawn(async move { one_after_another(socket, number, start + time, &done).await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

async fn one_after_another(
    mut socket: Socket,
    number: usize,
    end: Instant,
    done: &AtomicU64,
) -> Result<(), Failure> {
    let mut call = 0_u64;
    while Instant::now() < end {
        call += 1;
        let id = format!("{number}-{call}");
        let params =
            json!({ "sessionKey": format!("bench-{number}"), "message": "hello", "idempotencyKey": id });
        let frame = json!({ "type": "req", "id": id, "method": "agent", "params": params });
        socket.send(Message::text(frame.to_string())).await?;
        // Accepted, then done.
        while answer(&mut socket).await?["payload"]["status"] != "ok" {}
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// So many connections that have come in.
async fn crowd(door: &Door, connections: usize) -> Result<Vec<Socket>, Failure> {
    let seats = Arc::new(Semaphore::new(KNOCKING));
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (seats, address) = (Arc::clone(&seats), door.address.clone());
            tokio::spawn(async move {
                let _seat = seats.acquire().await?;
                enter(&address).await
            })
        })
        .collect();
    let mut inside = Vec::with_capacity(connections);
    for task in tasks {
        inside.push(task.await??);
    }
    Ok(inside)
}

/// Comes in as the owner, who has no limits of his own, and hears only the sessions that he subscribes to.
async fn enter(address: &str) -> Result<Socket, Failure> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(4 * 1024);
    let (mut socket, _) = client_async_with_config(format!("ws://{address}"), tcp, Some(config)).await?;
    answer(&mut socket).await?;
    let params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator",
        "scopes": ["operator.read", "operator.write"], "caps": ["session-scoped-events"],
        "auth": { "token": TOKEN },
        "client": { "id": "gateway-client", "mode": "backend", "version": "1", "platform": "bench" },
    });
    let frame = json!({ "type": "req", "id": "c", "method": "connect", "params": params });
    socket.send(Message::text(frame.to_string())).await?;
    while answer(&mut socket).await?["id"] != "c" {}
    Ok(socket)
}

/// The next frame that is no tick; a refusal ends everything.
async fn answer(socket: &mut Socket) -> Result<Value, Failure> {
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let frame: Value = serde_json::from_str(&text)?;
        if frame["ok"] == false {
            return Err(frame["error"].to_string().into());
        }
        if frame["event"] != "tick" {
            return Ok(frame);
        }
    }
    Err("the door closed".into())
}
