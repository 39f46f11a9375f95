//! The soak: for an hour all that people, scripts and models do with a mesh, while its doors are stopped, killed, frozen,
//! moved, lied to and given new rules. In the end no message may be lost, doubled or answered with somebody else's reply,
//! and no process may hold more than after the warm-up: memory, descriptors, threads.
//!
//! `soak AGENT-MESH [--minutes 60 | --seconds 60] [--seed N] [--json]`. Everything is real processes on loopback, with homes
//! of their own in a temporary folder. The choices come from the seed, which is printed. Linux only: it reads /proc.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_mesh_benches::Writer;
use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

mod door;
mod faults;
mod gauge;
mod home;
mod ledger;
mod load;
mod mcp;
mod residents;
mod verdict;

use door::Door;
use faults::Fault;
use gauge::Gauges;
use home::{Complaints, Home, write};
use ledger::{Ledger, Said};
use load::Open;
use residents::Residents;

type Failure = Box<dyn Error + Send + Sync>;

/// The doors, and whether their agents echo. The first one is never stopped: it shows what an hour does to a process.
const DOORS: [(&str, bool); 4] = [("bob", true), ("carol", false), ("dave", false), ("erin", true)];
/// How many shells people type in.
const SHELLS: u64 = 4;
/// After so long a process has let go of what it keeps for a while: idle threads are kept for ten seconds.
const REST: Duration = Duration::from_secs(12);

#[derive(Debug, Parser)]
struct Args {
    /// The binary
    agent_mesh: PathBuf,
    /// For so many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// For so many seconds: the short form
    #[arg(long, conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// The choices of another run
    #[arg(long)]
    seed: Option<u64>,
    /// Findings as JSON Lines
    #[arg(long)]
    json: bool,
}

impl Args {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(self.minutes * 60))
    }
}

/// What everybody in the soak shares.
struct Soak {
    seed: u64,
    doors: Vec<Door>,
    alice: Home,
    ledger: Ledger,
    open: Open,
    gauges: Gauges,
    complaints: Arc<Complaints>,
    /// Whoever does something holds it for reading; while it is held for writing, nothing happens.
    gate: RwLock<()>,
    begun: Instant,
    marks: AtomicU64,
    looks: AtomicU64,
    ghosts: AtomicU64,
    struck: Mutex<BTreeMap<Fault, usize>>,
    over: AtomicBool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let mut end = signal(SignalKind::terminate())?;
    // Whatever ends it takes its processes along: they are killed when their handles are dropped.
    tokio::select! {
        verdict = Box::pin(soak(&args)) => verdict,
        _ = end.recv() => Err("stopped by SIGTERM".into()),
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}

async fn soak(args: &Args) -> Result<ExitCode, Failure> {
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x2026_1125);
    eprintln!("soak: {} s, --seed {seed}", args.time().as_secs());
    let folder = tempfile::Builder::new().prefix("soak-").tempdir()?;
    let soak = Arc::new(Soak::set_up(args, seed, folder.path()).await?);
    let residents = Residents::start(&soak).await?;
    let from = run(&soak, &residents, args.time()).await?;
    let to = Instant::now();
    soak.say("the load is over");
    residents::settle(&soak).await?;
    let held = at_rest(&soak).await;
    residents.end(&soak).await?;
    let totals = soak.ledger.judge(&soak.alice, &soak.doors, &soak.complaints).await?;
    for door in &soak.doors {
        door.stop(false, &soak.gauges).await?;
    }
    Ok(verdict::pronounce(&soak, &totals, &soak.gauges.found(from, to), &held, args.json))
}

/// Warm-up, a rest, and the load with all that goes wrong; gives the moment when that began.
async fn run(soak: &Arc<Soak>, residents: &Residents, time: Duration) -> Result<Instant, Failure> {
    let end = soak.begun + time;
    let sampling = Arc::clone(soak);
    let every = (time / 300).clamp(Duration::from_secs(1), Duration::from_secs(5));
    tokio::spawn(async move {
        loop {
            sampling.gauges.sample();
            sleep(every).await;
        }
    });
    let mut tasks = residents.models(soak);
    for number in 1..=SHELLS {
        let soak = Arc::clone(soak);
        tasks.spawn(async move { load::shell(&soak, number, Duration::from_millis(600)).await });
    }
    if gauge::is_long_enough(time) {
        load::fill(soak).await?;
    }
    sleep((time / 6).min(Duration::from_secs(120))).await;
    {
        let _nobody = soak.gate.write().await;
        sleep(REST).await;
        soak.gauges.warmed_up();
        soak.say("warmed up");
    }
    let from = Instant::now();
    let pace = Duration::from_secs(if time > Duration::from_secs(300) { 6 } else { 1 });
    let raining = Arc::clone(soak);
    tasks.spawn(async move { faults::rain(&raining, pace).await });
    while Instant::now() < end {
        sleep(end.duration_since(Instant::now()).min(Duration::from_secs(60))).await;
        let (messages, looks) = (soak.ledger.count(), soak.looks.load(Ordering::Relaxed));
        soak.say(&format!("{messages} messages, {looks} other commands; {}", soak.gauges.now()));
    }
    soak.over.store(true, Ordering::Relaxed);
    while tasks.join_next().await.transpose()?.is_some() {}
    Ok(from)
}

/// Who still holds more than after the warm-up once it had the time to let go.
async fn at_rest(soak: &Soak) -> Vec<String> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let give_up = Instant::now() + PATIENCE;
    loop {
        sleep(REST).await;
        let held = soak.gauges.holding_more();
        if held.is_empty() || Instant::now() >= give_up {
            return held;
        }
    }
}

impl Soak {
    async fn set_up(args: &Args, seed: u64, base: &std::path::Path) -> Result<Self, Failure> {
        let binary = std::fs::canonicalize(&args.agent_mesh)?;
        let (complaints, gauges) = (Arc::new(Complaints::default()), Gauges::default());
        let alice = Home::make(base, "alice", &binary)?;
        let limits =
            "[limits]\npeer-per-hour = 10000000\ntotal-per-hour = 10000000\nthread-per-day = 10000000\n";
        write(&alice.config("config.toml"), limits)?;
        let mut doors = Vec::new();
        for (name, echoes) in DOORS {
            let (door, token) = Door::open(name, echoes, base, &binary, &complaints, &gauges).await?;
            alice.done(&["token", "set", name], Some(&token)).await?;
            doors.push(door);
        }
        let soak = Self {
            seed,
            doors,
            alice,
            ledger: Ledger::default(),
            open: Open::default(),
            gauges,
            complaints,
            gate: RwLock::default(),
            begun: Instant::now(),
            marks: AtomicU64::default(),
            looks: AtomicU64::default(),
            ghosts: AtomicU64::default(),
            struck: Mutex::default(),
            over: AtomicBool::default(),
        };
        soak.publish(0)?;
        soak.alice.done(&["sync", "--from", &soak.source()], None).await?;
        Ok(soak)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A line on stderr with the time.
    fn say(&self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// What makes a text one of its kind: sixteen digits after `nonce-`.
    fn mark(&self) -> String {
        let number = self.marks.fetch_add(1, Ordering::Relaxed);
        format!("nonce-{:016x}", (self.seed << 32) ^ number)
    }

    /// Half of the time the first door, which is the one to watch.
    fn any_door(&self, random: &mut Writer) -> &Door {
        let count = self.doors.len() as u64;
        let place = random.number(2 * count).saturating_sub(count);
        &self.doors[usize::try_from(place).unwrap_or_default()]
    }

    fn looked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    fn struck(&self, fault: Fault) {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        *struck.entry(fault).or_default() += 1;
    }

    /// What a broadcast was told of everybody.
    fn told_by_all(&self, mark: &str, how: &'static str, begun: Instant, results: &Value) {
        let told_at = Instant::now();
        for door in &self.doors {
            let mut all = results.as_array().into_iter().flatten();
            let told = all.find(|result| result["to"]["emailPrefix"] == door.name).and_then(load::told);
            if told.is_none() {
                self.complaints.add(format!("{how} of {mark} says nothing of {}: {results}", door.name));
            }
            self.ledger.add(Said { mark: mark.to_owned(), to: door.name, how, begun, told_at, told });
        }
    }

    /// The team's list, which `sync --watch` reads.
    fn source(&self) -> String {
        format!("file:{}", self.alice.file("team.json").display())
    }

    /// Writes the team's list: the doors where they are now, and so many who have no address; 0 leaves those as they are.
    fn publish(&self, ghosts: u64) -> Result<(), Failure> {
        if ghosts > 0 {
            self.ghosts.store(ghosts, Ordering::Relaxed);
        }
        let doors = self.doors.iter().map(
            |door| json!({ "name": door.name.to_uppercase(), "emailPrefix": door.name, "url": door.url() }),
        );
        let ghosts = (0..self.ghosts.load(Ordering::Relaxed))
            .map(|n| json!({ "name": format!("Ghost {n}"), "emailPrefix": format!("ghost{n}") }));
        let team: Vec<Value> = doors.chain(ghosts).collect();
        Ok(write(&self.alice.file("team.json"), &json!(team).to_string())?)
    }

    /// Waits until the registry has a door's new address.
    async fn learned(&self, door: &Door) -> Result<(), Failure> {
        let give_up = Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(self.alice.config("registry.json"))?.contains(&door.url()) {
            if Instant::now() >= give_up {
                return Err("sync --watch does not see that the door moved".into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
