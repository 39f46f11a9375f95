//! A slow network: what `agent-mesh send` takes where each round trip takes a tenth of a second, beside as many round
//! trips of one byte over the same line. A send may cost the protocol's own round trips and a tenth more.
//!
//! `slow AGENT-MESH [--rtt 100] [--rounds 10] [--json]`. The line is testkit's delay proxy. It accepts connections itself,
//! so the round trip of TCP's own handshake would be missing: `DelayProxy::far` keeps the first byte for as long.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use agent_mesh_benches::{Row, spread};
use agent_mesh_testkit::{Certificate, DelayProxy, TlsFront};
use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

type Failure = Box<dyn Error + Send + Sync>;

const TOKEN: &str = "a-token-for-the-bench-0123456789";
/// What a send may take, in round trips of the protocol.
const MOST: f64 = 1.10;
/// So many messages go over one connection where it is warm.
const CONVERSATION: u32 = 5;

#[derive(Debug, Parser)]
struct Args {
    /// The binary
    agent_mesh: PathBuf,
    /// Milliseconds of a round trip
    #[arg(long, default_value_t = 100)]
    rtt: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Findings as JSON Lines
    #[arg(long)]
    json: bool,
}

/// What is measured. The round trips are those of TCP, TLS, the upgrade (the challenge comes with its answer), `connect`,
/// and `agent`, whose two answers come together where the agent takes no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// The same as the next one, on a machine where the program never ran: the key and the archive are made first. Not
    /// judged, for that is the disk's time.
    FirstUse,
    /// The gateway was never met. Who it is, is asked together with `connect`.
    First,
    /// The gateway is known, and was restarted: who it is now is asked after its hello, and before the message leaves.
    Restarted,
    /// The gateway is known and runs on.
    Known,
    /// Several messages over one connection: one round trip for each after the first.
    Conversation,
}

impl Case {
    const ALL: [Self; 5] = [Self::FirstUse, Self::First, Self::Restarted, Self::Known, Self::Conversation];

    fn name(self) -> &'static str {
        match self {
            Self::FirstUse => "first contact, and first use",
            Self::First => "first contact",
            Self::Restarted => "known, restarted since",
            Self::Known => "known",
            Self::Conversation => "five over one connection",
        }
    }

    fn is_judged(self) -> bool {
        self != Self::FirstUse
    }

    fn round_trips(self, tls: bool) -> u32 {
        let known = 4 + u32::from(tls);
        match self {
            Self::FirstUse | Self::First | Self::Known => known,
            Self::Restarted => known + 1,
            Self::Conversation => known + CONVERSATION - 1,
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let mut all_hold = true;
    if !args.json {
        println!(
            "| send, round trip {} ms | round trips | ms, median / p99 | as many of one byte, ms | ratio, at most {MOST} |",
            args.rtt
        );
        println!("|---|---|---|---|---|");
    }
    for tls in [false, true] {
        let mut scene = Scene::set_up(&args, tls).await?;
        for case in Case::ALL {
            all_hold &= scene.measure(case, &args).await?;
        }
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A gateway far away.
struct Scene {
    binary: PathBuf,
    tls: bool,
    door: Door,
    _front: Option<TlsFront>,
    line: DelayProxy,
    /// The same line to a server that repeats each byte.
    bytes: DelayProxy,
    sender: TempDir,
}

impl Scene {
    async fn set_up(args: &Args, tls: bool) -> Result<Self, Failure> {
        let binary = fs::canonicalize(&args.agent_mesh)?;
        let one_way = Duration::from_millis(args.rtt) / 2;
        let door = Door::open(&binary, "127.0.0.1:0", tempfile::tempdir()?).await?;
        let front = if tls { Some(TlsFront::start(Certificate::First, door.address).await) } else { None };
        let near = match &front {
            Some(front) => front.url().trim_start_matches("wss://").parse()?,
            None => door.address,
        };
        let line = DelayProxy::far(near, one_way).await;
        let bytes = DelayProxy::far(repeater().await?, one_way).await;
        let sender = sender(&line, tls)?;
        Ok(Self { binary, tls, door, _front: front, line, bytes, sender })
    }

    /// Measures one case; says whether it holds.
    async fn measure(&mut self, case: Case, args: &Args) -> Result<bool, Failure> {
        let trips = case.round_trips(self.tls);
        let (mut took, mut beside) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            match case {
                Case::FirstUse => self.sender = sender(&self.line, self.tls)?,
                // What is known of gateways is in one file.
                Case::First => {
                    fs::remove_file(self.sender.path().join(".local/state/agent-team-mesh/pins.json"))?;
                }
                Case::Restarted => self.door.restart(&self.binary).await?,
                Case::Known | Case::Conversation => {}
            }
            took.push(self.send(case, round).await?);
            beside.push(self.empty(trips).await?);
        }
        let (took, beside) = (spread(took), spread(beside));
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let ratio = ms(took.median) / (f64::from(trips) * args.rtt as f64);
        let what = format!("{}, {}", if self.tls { "wss" } else { "ws" }, case.name());
        let holds = ratio <= MOST;
        if args.json {
            let promise = format!("at most {MOST} times {trips} round trips of {} ms", args.rtt);
            Row::new("slow", what, format!("slow AGENT-MESH --rtt {}", args.rtt), ms(took.median), "ms")
                .beside(&format!("{trips} round trips of one byte"), ms(beside.median))
                .ratio(ratio)
                .when(case.is_judged(), |row| row.must_hold(promise, holds))
                .print();
        } else {
            let verdict = match (case.is_judged(), holds) {
                (false, _) => "not judged",
                (true, true) => "holds",
                (true, false) => "OVER",
            };
            println!(
                "| {what} | {trips} | {:.1} / {:.1} | {:.1} | {ratio:.2}: {verdict} |",
                ms(took.median),
                ms(took.p99),
                ms(beside.median)
            );
        }
        Ok(holds || !case.is_judged())
    }

    /// The time of the whole process.
    async fn send(&self, case: Case, round: usize) -> Result<Duration, Failure> {
        let text = format!("{} {round}", case.name());
        let mut command = agent_mesh(&self.binary, self.sender.path());
        command.args(["send", "--to", "bob", "--message", &text, "--json"]);
        if case == Case::Conversation {
            command.args(["--rounds", &CONVERSATION.to_string()]);
        }
        let start = Instant::now();
        let output = command.output().await?;
        let took = start.elapsed();
        let document: Value = serde_json::from_slice(&output.stdout)?;
        if document["state"] != "replied" {
            return Err(format!("{document}\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(took)
    }

    /// A connection, which is the first round trip, and a byte there and back for each further one.
    async fn empty(&self, trips: u32) -> Result<Duration, Failure> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.bytes.address()).await?;
        stream.set_nodelay(true)?;
        for _ in 1..trips {
            stream.write_all(b"x").await?;
            stream.read_exact(&mut [0]).await?;
        }
        Ok(start.elapsed())
    }
}

/// Somebody who has a token for Bob, and has never met him.
fn sender(line: &DelayProxy, tls: bool) -> Result<TempDir, Failure> {
    let home = tempfile::tempdir()?;
    let folder = home.path().join(".config/agent-team-mesh");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    let mut bob = json!({ "name": "Bob", "emailPrefix": "bob", "url": line.url() });
    if tls {
        bob["url"] = line.url().replacen("ws://", "wss://", 1).into();
        bob["tlsFingerprint"] = Certificate::First.fingerprint().into();
    }
    for (name, content) in [
        ("registry.json", json!({ "agents": [bob] })),
        ("tokens.json", json!({ "tokens": { "bob": TOKEN } })),
    ] {
        fs::write(folder.join(name), content.to_string())?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600))?;
    }
    Ok(home)
}

fn agent_mesh(binary: &Path, home: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().env("HOME", home).env("MESH_MY_EMAIL", "alice@example.com").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that repeats each byte.
async fn repeater() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Ok(address)
}

/// `serve`, a process of its own.
struct Door {
    process: Child,
    address: SocketAddr,
    home: TempDir,
}

impl Door {
    async fn open(binary: &Path, listen: &str, home: TempDir) -> Result<Self, Failure> {
        let (process, address) = serve(binary, listen, home.path()).await?;
        Ok(Self { process, address, home })
    }

    async fn restart(&mut self, binary: &Path) -> Result<(), Failure> {
        self.process.kill().await?;
        let (process, address) = serve(binary, &self.address.to_string(), self.home.path()).await?;
        (self.process, self.address) = (process, address);
        Ok(())
    }
}

async fn serve(binary: &Path, listen: &str, home: &Path) -> Result<(Child, SocketAddr), Failure> {
    let mut command = agent_mesh(binary, home);
    command.args(["serve", "--listen", listen, "--agent", "echo"]).env("MESH_GATEWAY_TOKEN", TOKEN);
    let mut process = command.stdout(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(process.stderr.take().ok_or("no stderr")?).lines();
    let said = lines.next_line().await?.unwrap_or_default();
    let address = said.strip_prefix("listening on ws://").ok_or_else(|| said.clone())?.parse()?;
    Ok((process, address))
}
