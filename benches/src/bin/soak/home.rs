//! A machine of somebody's: a home folder, and the binary run in it with an empty environment.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::oneshot;

use crate::Failure;

/// A short-lived command that takes longer hangs.
const HANGS: Duration = Duration::from_secs(90);

/// Everything that must not be, in words.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    /// One more.
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A home folder, and whose it is.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    binary: PathBuf,
    me: String,
}

/// A command that came to its own end.
#[derive(Debug)]
pub struct Ran {
    /// None after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The one document on stdout; null where there is none.
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_default()
    }
}

impl Home {
    pub fn make(base: &Path, me: &str, binary: &Path) -> io::Result<Self> {
        let home = Self { folder: base.join(me), binary: binary.to_owned(), me: me.to_owned() };
        for folder in [home.folder.clone(), home.config("")] {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(home)
    }

    /// A file of the settings.
    pub fn config(&self, name: &str) -> PathBuf {
        self.file(".config/agent-team-mesh").join(name)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env_clear()
            .env("HOME", &self.folder)
            .env("MESH_MY_EMAIL", format!("{}@example.com", self.me))
            // What an agent's command needs.
            .env("PATH", "/usr/bin:/bin");
        command.current_dir(&self.folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub async fn run(&self, args: &[&str], input: Option<&str>) -> Result<Ran, Failure> {
        let mut command = self.command(args);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn()?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = tokio::time::timeout(HANGS, child.wait_with_output()).await;
        let output = output.map_err(|_| format!("{args:?} hangs"))??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    /// The same for what has to work.
    pub async fn done(&self, args: &[&str], input: Option<&str>) -> Result<Ran, Failure> {
        let ran = self.run(args, input).await?;
        if ran.code == Some(0) {
            return Ok(ran);
        }
        Err(format!("{args:?} exits {:?}\n{}{}", ran.code, ran.stdout, ran.stderr).into())
    }
}

/// Writes a file, 0600, so that nobody ever reads half of it.
pub fn write(path: &Path, content: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, content)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)
}

/// Reads what a process says on stderr until it ends, and gives its first line.
pub fn listen(
    stderr: ChildStderr,
    name: &str,
    complaints: &std::sync::Arc<Complaints>,
) -> oneshot::Receiver<String> {
    let (tell, first) = oneshot::channel();
    let (name, complaints) = (name.to_owned(), std::sync::Arc::clone(complaints));
    tokio::spawn(async move {
        let (mut tell, mut lines) = (Some(tell), BufReader::new(stderr).lines());
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("panicked") {
                complaints.add(format!("{name}: {line}"));
            }
            if let Some(tell) = tell.take() {
                let _ = tell.send(line);
            }
        }
    });
    first
}

/// Starts what lives long and announces itself on its first line.
pub async fn announced(
    command: &mut Command,
    name: &str,
    complaints: &std::sync::Arc<Complaints>,
) -> Result<(Child, String), Failure> {
    let mut child = command.spawn()?;
    let stderr = child.stderr.take().ok_or("no stderr")?;
    let first = tokio::time::timeout(HANGS, listen(stderr, name, complaints)).await;
    let said = first.map_err(|_| format!("{name} says nothing"))?.unwrap_or_default();
    let address = said.split_once("listening on ").map(|(_, url)| url.trim().to_owned());
    Ok((child, address.ok_or_else(|| format!("{name} does not start: {said}"))?))
}
