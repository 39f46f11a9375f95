//! What runs all the time on Alice's machine: `mcp` twice, `outbox run`, `log --follow`, `sync --watch`.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::home::{announced, listen, write};
use crate::ledger::exported;
use crate::{Failure, Soak, mcp};

/// The bearer token of `mcp --http`.
const TOKEN: &str = "a-token-for-the-soak-0123456789";
/// How long a resident may take to end.
const ENDS: Duration = Duration::from_secs(30);
/// How long the outbox may take to empty itself once everybody is there, and `log --follow` to show the last of it.
const PATIENCE: Duration = Duration::from_secs(120);
/// So many messages are asked after by one `wait`.
const AT_ONCE: usize = 20;
/// Between two models' calls.
const MODELS_REST: Duration = Duration::from_millis(600);

/// All of them.
pub struct Residents {
    all: Vec<(&'static str, Child)>,
    /// Its server ends with it.
    stdio: Arc<Mutex<mcp::Stdio>>,
    http: Arc<Mutex<mcp::Http>>,
    /// What `log --follow` has shown.
    followed: Arc<std::sync::Mutex<HashSet<String>>>,
}

impl Residents {
    pub async fn start(soak: &Arc<Soak>) -> Result<Self, Failure> {
        let mut command = soak.alice.command(&["mcp"]);
        let (mut child, stdout) = start(soak, "mcp", command.stdin(Stdio::piped()))?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let stdio = Arc::new(Mutex::new(mcp::Stdio::open(stdin, stdout).await?));
        let mut all = vec![("mcp", child)];
        let (child, http) = over_http(soak).await?;
        all.push(("mcp --http", child));

        let followed = Arc::<std::sync::Mutex<HashSet<String>>>::default();
        let shown = Arc::clone(&followed);
        let args = ["log", "--follow", "--json"];
        let (child, stdout) = start(soak, "log --follow", &mut soak.alice.command(&args))?;
        read(stdout, move |line| {
            if let Some(id) = line["id"].as_str() {
                shown.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
            }
        });
        all.push(("log --follow", child));

        let complaints = Arc::clone(&soak.complaints);
        let args = ["sync", "--watch", "1s", "--from", &soak.source(), "--json"];
        let (child, stdout) = start(soak, "sync --watch", &mut soak.alice.command(&args))?;
        read(stdout, move |round| {
            if round["ok"] != true {
                complaints.add(format!("sync --watch: {round}"));
            }
        });
        all.push(("sync --watch", child));

        let args = ["outbox", "run", "--timeout", "20s", "--json"];
        let (child, stdout) = start(soak, "outbox run", &mut soak.alice.command(&args))?;
        read(stdout, |_| {});
        all.push(("outbox run", child));
        Ok(Self { all, stdio, http, followed })
    }

    /// The models that use the two servers.
    pub fn models(&self, soak: &Arc<Soak>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (shared, line) = (Arc::clone(soak), Arc::clone(&self.stdio));
        tasks.spawn(async move { mcp::model(&shared, &mut *line.lock().await, 50, MODELS_REST).await });
        let (shared, line) = (Arc::clone(soak), Arc::clone(&self.http));
        tasks.spawn(async move { mcp::model(&shared, &mut *line.lock().await, 51, MODELS_REST).await });
        tasks
    }

    /// All must be there still, and end in order. `log --follow` must have shown everything by then.
    pub async fn end(self, soak: &Soak) -> Result<(), Failure> {
        let sent = exported(&soak.alice).await?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            let unseen = {
                let shown = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
                sent.iter().filter(|row| row["id"].as_str().is_some_and(|id| !shown.contains(id))).count()
            };
            if unseen == 0 {
                break;
            }
            if Instant::now() >= give_up {
                soak.complaints.add(format!("log --follow never showed {unseen} of {} messages", sent.len()));
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let mut all = self.all;
        for (name, child) in &mut all {
            soak.gauges.over(name);
            if let Some(status) = child.try_wait()? {
                soak.complaints.add(format!("{name} ended by itself: {status}"));
            }
        }
        drop(self.stdio);
        for (name, mut child) in all {
            let gently = name == "mcp";
            if let Some(pid) = child.id().filter(|_| !gently) {
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
            }
            match timeout(ENDS, child.wait()).await {
                Err(_) => soak.complaints.add(format!("{name} does not end")),
                Ok(status) => {
                    let status = status?;
                    if gently && status.code() != Some(0) {
                        soak.complaints.add(format!("{name} ends with {status}"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Starts one that is looked at from now on.
fn start(soak: &Soak, name: &'static str, command: &mut Command) -> Result<(Child, ChildStdout), Failure> {
    let mut child = command.spawn()?;
    soak.gauges.watch(name, child.id().ok_or("it is gone")?);
    drop(listen(child.stderr.take().ok_or("no stderr")?, name, &soak.complaints));
    let stdout = child.stdout.take().ok_or("no stdout")?;
    Ok((child, stdout))
}

async fn over_http(soak: &Soak) -> Result<(Child, Arc<Mutex<mcp::Http>>), Failure> {
    let token = soak.alice.file("mcp-token");
    write(&token, TOKEN)?;
    let mut command = soak.alice.command(&["mcp", "--http", "127.0.0.1:0", "--token-file"]);
    command.arg(token).stdout(Stdio::null());
    let (child, url) = announced(&mut command, "mcp --http", &soak.complaints).await?;
    soak.gauges.watch("mcp --http", child.id().ok_or("it is gone")?);
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp"));
    let address = address.ok_or("no address")?.to_owned();
    Ok((child, Arc::new(Mutex::new(mcp::Http::new(address, TOKEN.to_owned())))))
}

/// Reads JSON Lines to the end.
fn read(stdout: ChildStdout, mut each: impl FnMut(Value) + Send + 'static) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            each(serde_json::from_str(&line).unwrap_or_default());
        }
    });
}

/// Brings everything to its end: what waits in the outbox is delivered, what was given up there while a token was wrong
/// is put back, and what is open is asked after.
pub async fn settle(soak: &Soak) -> Result<(), Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let listed = soak.alice.done(&["outbox", "list", "--json"], None).await?.document();
        let ids = listed["messages"].as_array().into_iter().flatten().filter_map(|row| row["id"].as_str());
        let ids: Vec<&str> = ids.collect();
        if ids.is_empty() || Instant::now() >= give_up {
            break;
        }
        for id in ids {
            // `outbox run` may have been faster.
            soak.alice.run(&["outbox", "retry", id, "--json"], None).await?;
        }
        sleep(Duration::from_millis(500)).await;
    }
    let open = |row: &Value| {
        let state = row["state"].as_str().unwrap_or_default();
        ["sending", "accepted", "held", "unknown"].contains(&state)
    };
    let sent = exported(&soak.alice).await?;
    let ids = sent.iter().filter(|row| open(row)).filter_map(|row| row["id"].as_str());
    let ids: Vec<&str> = ids.collect();
    soak.say(&format!("{} messages are still to be asked after", ids.len()));
    for ids in ids.chunks(AT_ONCE) {
        let args = ["wait", "--timeout", "5s", "--json"];
        soak.alice.run(&[&args[..], ids].concat(), None).await?;
    }
    Ok(())
}
