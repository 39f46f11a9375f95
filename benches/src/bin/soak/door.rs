//! The doors: `agent-mesh serve`, each with a home of its own, and what is done to them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::{Instant, timeout};

use crate::Failure;
use crate::gauge::Gauges;
use crate::home::{Complaints, Home, announced, write};

/// How long a door may take to end after SIGTERM; runs have ten seconds to finish.
const ENDS: Duration = Duration::from_secs(20);

/// What the agent behind an exec door does: it repeats the mark of the message, and writes it into a ledger that is
/// nobody's but its own. It is the witness of what really ran.
const AGENT: &str = r#"grep -o "nonce-[0-9a-f]*" | tee -a "$0""#;

/// The rules: only numbers that are out of the way of an hour's load.
const POLICY: &str = "[default]\nmode = \"allow\"\nruns-per-day = 10000000\nrequests-per-minute = 1000000\n\
    concurrent-runs = 256\nstream = true\n";

/// Trouble at a door, from when to when.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    pub from: Instant,
    /// None while it lasts.
    pub to: Option<Instant>,
    /// Whether a run may have been lost in it.
    pub killed: bool,
}

/// A door.
pub struct Door {
    pub name: &'static str,
    /// Its agent's ledger; without one it echoes.
    pub ledger: Option<PathBuf>,
    pub home: Home,
    url: Mutex<String>,
    process: tokio::sync::Mutex<Option<Child>>,
    troubles: Mutex<Vec<Trouble>>,
    complaints: Arc<Complaints>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Opens a door that Alice has a token for, and gives the token.
    pub async fn open(
        name: &'static str,
        echoes: bool,
        base: &Path,
        binary: &Path,
        complaints: &Arc<Complaints>,
        gauges: &Gauges,
    ) -> Result<(Self, String), Failure> {
        let home = Home::make(base, name, binary)?;
        let alice = json!({ "agents": [{ "name": "Alice", "emailPrefix": "alice" }] });
        write(&home.config("registry.json"), &alice.to_string())?;
        write(&home.config("policy.toml"), POLICY)?;
        let door = Self {
            name,
            ledger: (!echoes).then(|| home.file("ledger")),
            home,
            url: Mutex::default(),
            process: tokio::sync::Mutex::default(),
            troubles: Mutex::default(),
            complaints: Arc::clone(complaints),
        };
        let token = door.new_token().await?;
        door.start("127.0.0.1:0", gauges).await?;
        Ok((door, token))
    }

    /// Where it is now.
    pub fn url(&self) -> String {
        locked(&self.url).clone()
    }

    /// The same without the scheme.
    pub fn address(&self) -> String {
        self.url().replacen("ws://", "", 1)
    }

    /// A new token for Alice; the old one ends.
    pub async fn new_token(&self) -> Result<String, Failure> {
        Ok(self.home.done(&["token", "issue", "alice", "--out", "-"], None).await?.stdout)
    }

    async fn start(&self, listen: &str, gauges: &Gauges) -> Result<(), Failure> {
        let mut command = self.home.command(&["serve", "--listen", listen, "--agent"]);
        match &self.ledger {
            None => command.arg("echo"),
            Some(ledger) => command.args(["exec", "--", "/bin/sh", "-c", AGENT]).arg(ledger),
        };
        command.stdout(std::process::Stdio::null());
        let (child, url) = announced(&mut command, self.name, &self.complaints).await?;
        gauges.watch(self.name, child.id().ok_or("it is gone")?);
        *locked(&self.url) = url;
        *self.process.lock().await = Some(child);
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let process = self.process.lock().await;
        let pid = process.as_ref().and_then(Child::id).ok_or_else(|| format!("{} is gone", self.name))?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Ends it: with SIGTERM, and it has to go in order; or with SIGKILL.
    pub async fn stop(&self, killed: bool, gauges: &Gauges) -> Result<(), Failure> {
        gauges.over(self.name);
        self.signal(if killed { Signal::SIGKILL } else { Signal::SIGTERM }).await?;
        let Some(mut child) = self.process.lock().await.take() else { return Ok(()) };
        match timeout(ENDS, child.wait()).await {
            Err(_) => self.complaints.add(format!("{} does not end after SIGTERM", self.name)),
            Ok(status) => {
                let status = status?;
                if !killed && status.code() != Some(0) {
                    self.complaints.add(format!("{} ends with {status} after SIGTERM", self.name));
                }
            }
        }
        Ok(())
    }

    /// Starts it where it was; elsewhere if it is to move, or if somebody took its port meanwhile.
    pub async fn start_again(&self, moves: bool, gauges: &Gauges) -> Result<(), Failure> {
        if !moves && self.start(&self.address(), gauges).await.is_ok() {
            return Ok(());
        }
        self.start("127.0.0.1:0", gauges).await
    }

    /// Stops it in the middle of whatever it does, for so long.
    pub async fn freeze(&self, time: Duration) -> Result<(), Failure> {
        self.signal(Signal::SIGSTOP).await?;
        tokio::time::sleep(time).await;
        self.signal(Signal::SIGCONT).await
    }

    /// Changes a rule that nobody here notices, and has the rules read again.
    pub async fn new_policy(&self) -> Result<(), Failure> {
        let path = self.home.config("policy.toml");
        let old = std::fs::read_to_string(&path)?;
        let new = if old.contains("stream = true") {
            old.replace("stream = true", "stream = false")
        } else {
            old.replace("stream = false", "stream = true")
        };
        write(&path, &new)?;
        self.signal(Signal::SIGHUP).await
    }

    pub fn trouble_begins(&self, killed: bool) {
        locked(&self.troubles).push(Trouble { from: Instant::now(), to: None, killed });
    }

    pub fn trouble_ends(&self) {
        for trouble in locked(&self.troubles).iter_mut().filter(|trouble| trouble.to.is_none()) {
            trouble.to = Some(Instant::now());
        }
    }

    /// Whether there was trouble between these times, or just before: what follows from it takes a moment.
    pub fn troubled(&self, from: Instant, to: Instant, killed: bool) -> bool {
        const AFTER: Duration = Duration::from_secs(5);
        let troubles = locked(&self.troubles);
        let mut fitting = troubles.iter().filter(|trouble| trouble.killed || !killed);
        fitting.any(|trouble| trouble.from <= to && trouble.to.is_none_or(|end| end + AFTER >= from))
    }

    /// How often each message ran here: by the agent's own ledger, or where the agent echoes, by the archive.
    pub async fn witness(&self) -> Result<Vec<String>, Failure> {
        let Some(ledger) = &self.ledger else { return self.archived().await };
        let text = match std::fs::read_to_string(ledger) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The marks of the messages in its archive.
    pub async fn archived(&self) -> Result<Vec<String>, Failure> {
        let exported = self.home.done(&["log", "export"], None).await?.stdout;
        let rows = exported.lines().map(serde_json::from_str::<Value>);
        let marks = rows.filter_map(|row| crate::ledger::mark(row.ok()?["message"].as_str()?));
        Ok(marks.collect())
    }
}
