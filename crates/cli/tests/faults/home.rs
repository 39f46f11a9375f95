//! The machine of a sender: a home folder, and the binary run in it with an empty environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const BINARY: &str = env!("CARGO_BIN_EXE_agent-mesh");
/// A run that takes longer hangs.
pub const HANGS: Duration = Duration::from_secs(60);

pub struct Home {
    folder: TempDir,
    me: &'static str,
}

impl Home {
    /// A sender who knows Bob at this address, and has a token for him.
    pub fn of(me: &'static str, bob: &str) -> Self {
        let home = Self { folder: TempDir::new().unwrap(), me };
        home.move_bob(bob);
        home.write(
            ".config/agent-team-mesh/tokens.json",
            json!({ "tokens": { "bob": "example-token" } }).to_string(),
        );
        home
    }

    /// Bob lives at another address from now on.
    pub fn move_bob(&self, url: &str) {
        let bob = json!({ "name": "Bob", "emailPrefix": "bob", "url": url });
        self.write(".config/agent-team-mesh/registry.json", json!({ "agents": [bob] }).to_string());
    }

    /// Writes a file, 0600, in folders of 0700.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join(".local/state/agent-team-mesh")
    }

    pub fn command(&self) -> Command {
        self.equip(Command::new(BINARY))
    }

    /// Makes this command one of the sender: nothing of the environment but the home.
    pub fn equip(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("MESH_MY_EMAIL", format!("{}@example.com", self.me));
        command.current_dir(self.folder.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command().args(args).arg("--json").spawn().unwrap()
    }

    /// Runs to the end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        ended(self.spawn(args), args).await.expect("nobody killed it")
    }
}

/// A run that came to its own end.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    /// The one document on stdout.
    pub document: Value,
    /// For whoever has to find out why: shown by a failed assertion.
    #[allow(dead_code)]
    pub stderr: String,
}

/// Awaits the end; `None` if it was killed.
pub async fn ended(child: Child, args: &[&str]) -> Option<Ran> {
    let output = tokio::time::timeout(HANGS, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} hangs")).unwrap();
    let code = output.status.code()?;
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&stdout).unwrap_or_else(|error| {
        panic!("{args:?} exits {code} without one document ({error})\nstdout: {stdout}\nstderr: {stderr}")
    });
    Some(Ran { code, document, stderr })
}
