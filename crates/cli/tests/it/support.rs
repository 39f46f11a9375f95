//! One machine of a test: a home folder that nobody else sees, and the binary run in it with an empty environment.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agent_mesh_testkit::{FakeGateway, Script};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

/// Every token of a test begins with this, and no output may show it: each run is searched.
pub const SECRET: &str = "sEcReT";
/// Our own name, unless a test says otherwise.
pub const ME: &str = "alice@example.com";
const BINARY: &str = env!("CARGO_BIN_EXE_agent-mesh");
/// A run that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// The token of a teammate.
pub fn token(prefix: &str) -> String {
    format!("{SECRET}-0123456789-{prefix}")
}

/// A gateway that wants bob's token.
pub fn strict() -> Script {
    Script::new().shared_token(&token("bob"))
}

/// A machine: its home folder is also the working folder.
pub struct Host {
    home: TempDir,
    me: Option<String>,
}

impl Host {
    /// An empty home.
    pub fn new() -> Self {
        Self { home: TempDir::new().unwrap(), me: Some(ME.to_owned()) }
    }

    /// The home of somebody else.
    pub fn named(email: &str) -> Self {
        Self { me: Some(email.to_owned()), ..Self::new() }
    }

    /// A home in which nothing says who we are.
    pub fn anonymous() -> Self {
        Self { me: None, ..Self::new() }
    }

    /// Alice, with Bob in the registry at this address and a token for him.
    pub fn with_bob(url: &str) -> Self {
        let host = Self::new();
        host.registry(&json!([
            { "name": "Alice", "emailPrefix": "alice", "ip": "" },
            { "name": "Bob", "nickname": "bobby", "emailPrefix": "bob", "url": url },
        ]));
        host.tokens(&["bob"]);
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.path(".config/agent-team-mesh").join(name)
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.path(".local/state/agent-team-mesh").join(name)
    }

    /// Writes a file, 0600, with its folders.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub fn registry(&self, agents: &Value) {
        self.write(self.config("registry.json"), json!({ "agents": agents }).to_string());
    }

    /// A token for each of these.
    pub fn tokens(&self, prefixes: &[&str]) {
        let tokens: serde_json::Map<_, _> =
            prefixes.iter().map(|prefix| ((*prefix).to_owned(), token(prefix).into())).collect();
        self.write(self.config("tokens.json"), json!({ "tokens": tokens }).to_string());
    }

    /// Runs `agent-mesh ARGS`, with nothing on standard input.
    pub async fn run<A: AsRef<str>>(&self, args: &[A]) -> Out {
        self.call(args).run().await
    }

    pub fn call<A: AsRef<str>>(&self, args: &[A]) -> Call {
        let mut command = Command::new(BINARY);
        command.args(args.iter().map(AsRef::as_ref)).env_clear().env("HOME", self.home.path());
        command.current_dir(self.home.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(me) = &self.me {
            command.env("MESH_MY_EMAIL", me);
        }
        let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        Call { command, args, stdin: Vec::new(), home: self.home.path().to_owned() }
    }
}

/// A run that is about to start.
pub struct Call {
    command: Command,
    args: Vec<String>,
    stdin: Vec<u8>,
    home: PathBuf,
}

impl Call {
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// By somebody whom file modes keep out of something, which they do not keep root.
    pub fn unprivileged(mut self) -> Self {
        const NOBODY: u32 = 65_534;
        if rustix::process::geteuid().is_root() {
            let mut folders = vec![self.home.clone()];
            while let Some(path) = folders.pop() {
                std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
                let entries = fs::read_dir(&path).into_iter().flatten();
                folders.extend(entries.map(|entry| entry.unwrap().path()));
            }
            self.command.uid(NOBODY).gid(NOBODY);
        }
        self
    }

    /// With no more than so many files open at once; `hard` says that it may not allow itself more.
    pub fn descriptors(mut self, most: usize, hard: bool) -> Self {
        let ulimit = if hard { "ulimit -n" } else { "ulimit -S -n" };
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{ulimit} {most} && exec \"$0\" \"$@\"")).arg(BINARY).args(&self.args);
        shell.env_clear().current_dir(&self.home).kill_on_drop(true);
        let env = self.command.as_std().get_envs().filter_map(|(name, value)| Some((name, value?)));
        shell.envs(env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command = shell;
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    pub fn spawn(mut self) -> Child {
        self.command.spawn().unwrap()
    }

    pub async fn run(mut self) -> Out {
        let mut child = self.command.spawn().unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            // A command that refuses its arguments does not read its input.
            let _ = stdin.write_all(&self.stdin).await;
        }
        let output = tokio::time::timeout(HANGS, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{:?} hangs", self.args)).unwrap();
        let out = Out {
            args: self.args,
            code: output.status.code().expect("ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            home: self.home,
        };
        out.shows_no_secret();
        out
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct Out {
    pub args: Vec<String>,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    home: PathBuf,
}

impl Out {
    fn shows_no_secret(&self) {
        for (stream, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            assert!(!text.contains(SECRET), "{:?} shows a token on {stream}: {text}", self.args);
            assert!(!text.contains("panicked"), "{:?} panics: {text}", self.args);
            let drives = |c: char| c.is_control() && c != '\n' && c != '\t';
            assert!(
                self.args.iter().any(|arg| arg == "--raw") || !text.contains(drives),
                "{stream}: {text:?}"
            );
        }
    }

    /// It did what it should.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// The one document on stdout, which keeps the rules of all documents.
    #[track_caller]
    pub fn json(&self) -> Value {
        let document = self.checked_json();
        document.unwrap_or_else(|why| panic!("{why}: {self:#?}"))
    }

    /// The same, for tests that gather what is wrong.
    pub fn checked_json(&self) -> Result<Value, String> {
        let document: Value =
            serde_json::from_str(&self.stdout).map_err(|error| format!("not one document: {error}"))?;
        if !document["command"].is_string() {
            return Err("no `command`".into());
        }
        if document["ok"] != (self.code == 0) {
            return Err(format!("`ok` is {}, the exit code {}", document["ok"], self.code));
        }
        let error = &document["error"];
        let told = error["code"].is_string() && error["message"].is_string();
        if told != (self.code != 0) {
            return Err(format!("exit code {} and error {error}", self.code));
        }
        if told && !(error["hint"].is_string() || error["hint"].is_null()) {
            return Err("`error.hint` is neither text nor null".into());
        }
        Ok(document)
    }

    /// Both streams and the exit code, for a snapshot.
    pub fn transcript(&self) -> String {
        let text = format!(
            "$ agent-mesh {}\n--- exit {}\n--- stdout\n{}--- stderr\n{}",
            self.args.join(" "),
            self.code,
            self.stdout,
            self.stderr
        );
        redact(&text, &self.home)
    }
}

/// `agent-mesh serve` at work. Dropping it kills it.
pub struct Serve {
    pub child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    stderr: BufReader<ChildStderr>,
}

impl Serve {
    /// Starts it on a free port and waits until it listens.
    pub async fn start(host: &Host, args: &[&str]) -> Self {
        Self::start_on(host, "127.0.0.1:0", args).await
    }

    pub async fn start_on(host: &Host, listen: &str, args: &[&str]) -> Self {
        let all = [&["serve", "--listen", listen], args].concat();
        let mut child = host.call(&all).spawn();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        tokio::time::timeout(HANGS, stderr.read_line(&mut first)).await.expect("serve hangs").unwrap();
        let address = first.trim_end().strip_prefix("listening on ws://");
        let address = address.unwrap_or_else(|| panic!("the first line is {first:?}")).to_owned();
        Self { child, address, stderr }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The next line it says.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(HANGS, self.stderr.read_line(&mut line))
            .await
            .expect("serve is silent")
            .unwrap();
        line
    }

    /// SIGTERM, and what it ended with.
    pub async fn end(mut self) -> Option<i32> {
        signal(&self.child, Signal::TERM);
        let status = tokio::time::timeout(HANGS, self.child.wait()).await.expect("serve does not end");
        status.unwrap().code()
    }
}

/// Waits until this holds of a gateway, and not for ever.
pub async fn until(gateway: &FakeGateway, holds: impl FnMut(&FakeGateway) -> bool) {
    tokio::time::timeout(HANGS, gateway.until(holds)).await.expect("it never came to that");
}

/// Sends a signal to a run.
pub fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
}

/// A port of this machine where nobody listens, and nobody else can as long as this lives.
pub struct DeadPort(tokio::net::TcpSocket);

impl DeadPort {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.0.local_addr().unwrap())
    }
}

/// The messages that really arrived, without the attribution header.
pub fn heard(gateway: &FakeGateway) -> Vec<String> {
    let all = gateway.requests("agent").into_iter().chain(gateway.requests("chat.send"));
    let texts = all.map(|params| params["message"].as_str().unwrap().to_owned());
    texts
        .map(|text| text.split_once("\n\n").map_or(text.clone(), |(_, message)| message.to_owned()))
        .collect()
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Times, ports, ids and the home folder by name.
fn redact(text: &str, home: &Path) -> String {
    let text = text.replace(&*home.to_string_lossy(), "~");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let word =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-:.".contains(c))).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word);
        if word.is_empty() {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            // A number, right-aligned, in front of "ms": its spaces go with it.
            if tail.starts_with(" ms") && word.parse::<f64>().is_ok() {
                out.truncate(out.trim_end_matches(' ').len());
                out.push_str(" [N]");
            } else {
                out.push_str(&named(word));
            }
            rest = tail;
        }
    }
    // How wide a column is depends on what was replaced; the number of an error on the system.
    let lines = out.lines().map(|line| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("  ")
    });
    lines.map(|line| line.split(" (os error").next().unwrap_or_default().to_owned() + "\n").collect()
}

fn named(word: &str) -> String {
    let trimmed = word.trim_end_matches(['.', ':']);
    let end = &word[trimmed.len()..];
    let hex = trimmed.len() >= 8 && trimmed.bytes().all(|b| b.is_ascii_hexdigit());
    if uuid::Uuid::try_parse(trimmed).is_ok() {
        return format!("[UUID]{end}");
    }
    if hex && trimmed.bytes().any(|b| b.is_ascii_digit()) {
        return format!("[HEX {}]{end}", trimmed.len());
    }
    if let Some(port) = trimmed.strip_prefix("127.0.0.1:")
        && port.parse::<u16>().is_ok()
    {
        return format!("127.0.0.1:[PORT]{end}");
    }
    if trimmed.len() > 18 && trimmed.starts_with("20") && trimmed.ends_with('Z') && trimmed.contains('T') {
        return format!("[TIME]{end}");
    }
    word.to_owned()
}
