//! An agent that is a command: the message on its standard input, the reply on its standard output.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::{Agent, AgentFailure, Deltas, ReplyFuture, Turn};

/// A failing command's last words are kept up to so many bytes.
const STDERR_TAIL: usize = 2048;
/// What the command left behind in a group of its own may hold its output open for so long.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// An argument that stands for the message.
const MESSAGE: &str = "{message}";

/// Runs a command for each message.
///
/// The message is on its standard input; or, if one of its arguments is `{message}`, in the place of that, and nothing is
/// on its standard input. Arguments that are `{session}` or `{from}` are replaced, too. Only whole arguments are: what a
/// peer writes never becomes part of a script.
///
/// The command finds in its environment `MESH_SESSION`, `MESH_RUN_ID`, and who has proven to be the sender: `MESH_FROM`
/// (the device id, else the key, or `owner`), `MESH_FROM_KEY` (the e-mail prefix, or `dev-` and 12 digits of the device
/// id, or `owner`) and `MESH_PERMISSION_MODE`, if the policy says what may be done for him. `MESH_CHAIN_ID`,
/// `MESH_CHAIN_HOPS` and `MESH_CHAIN_VISITED` describe the chain that it is in: what it sends itself continues that.
///
/// It runs in a process group of its own, which is killed when the turn ends, however it ends; a process that has left the
/// group (`setsid`) survives.
///
/// The sender of a message is told that the command failed and its exit status. The end of what it wrote to its standard
/// error is the owner's alone, because it may name files, hosts and secrets of ours.
#[derive(Debug, Clone)]
pub struct ExecAgent {
    /// The program.
    pub command: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How long it may run.
    pub timeout: Duration,
    /// How many bytes it may write.
    pub max_output: usize,
    /// Whether a peer's message comes with the gateway's own lines about who sent it. Without them it is what the peer
    /// wrote, and the environment alone says who that was.
    pub frame: bool,
}

impl ExecAgent {
    /// A command that may run for ten minutes and write 4 MiB.
    pub fn new(command: impl Into<OsString>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            command: command.into(),
            args: args.into_iter().collect(),
            timeout: Duration::from_secs(600),
            max_output: 4 * 1024 * 1024,
            frame: true,
        }
    }
}

impl Agent for ExecAgent {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let message = if self.frame { turn.framed().message } else { turn.message.clone() };
            let running = self.start(&turn, &message)?;
            let message = if self.takes_argument() { "" } else { &*message };
            let cancel = turn.cancel.clone();
            tokio::select! {
                result = timeout(self.timeout, self.talk(running, &turn, message, &deltas)) => {
                    result.unwrap_or(Err(AgentFailure::TimedOut))
                }
                () = cancel.cancelled() => Err(AgentFailure::Cancelled),
            }
        })
    }
}

impl ExecAgent {
    fn takes_argument(&self) -> bool {
        self.args.iter().any(|arg| arg == MESSAGE)
    }

    fn start(&self, turn: &Turn, message: &str) -> Result<Running, AgentFailure> {
        let from = sender(turn);
        let arguments = self.args.iter().map(|arg| match arg.to_str() {
            Some(MESSAGE) => OsStr::new(message),
            Some("{session}") => OsStr::new(&turn.session_key),
            Some("{from}") => OsStr::new(from),
            _ => arg,
        });
        let mut command = Command::new(&self.command);
        if let Some(mode) = &turn.permission_mode {
            command.env("MESH_PERMISSION_MODE", mode);
        }
        // Of this message, or none: we may be in one ourselves, of which the command is no part.
        for name in ["MESH_CHAIN_ID", "MESH_CHAIN_HOPS", "MESH_CHAIN_VISITED"] {
            command.env_remove(name);
        }
        if let Some(chain) = turn.chain() {
            command.env("MESH_CHAIN_ID", &chain.id).env("MESH_CHAIN_HOPS", chain.hops.to_string());
            command.env("MESH_CHAIN_VISITED", chain.visited_value());
        }
        let child = command
            .args(arguments)
            // The gateway's own secrets are none of the command's business, nor of whoever reads its reply.
            .env_remove("MESH_GATEWAY_TOKEN")
            .env_remove("OPENCLAW_GATEWAY_TOKEN")
            .env_remove("MESH_OPENAI_KEY")
            .env("MESH_SESSION", &turn.session_key)
            .env("MESH_FROM", from)
            .env("MESH_FROM_KEY", turn.from.principal.key())
            .env("MESH_RUN_ID", &turn.run_id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let command = self.command.display();
                tracing::error!(%error, %command, run = turn.run_id, "the agent's command cannot be started");
                AgentFailure::failed("the agent's command cannot be started")
            })?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Running { leader, child })
    }

    async fn talk(
        &self,
        mut running: Running,
        turn: &Turn,
        message: &str,
        deltas: &Deltas,
    ) -> Result<String, AgentFailure> {
        let child = &mut running.child;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(AgentFailure::failed("the command has no pipes"));
        };
        let mut reply = Output::default();
        let mut complaint = Vec::new();
        let mut streams = Box::pin(async {
            let rest = async {
                tokio::join!(tail(stderr, &mut complaint), feed(stdin, message));
                Ok(())
            };
            tokio::try_join!(reply.read(stdout, self.max_output, deltas), rest).map(drop)
        });
        // A command is over when its process is, even if something it left behind keeps a pipe open.
        let (status, read) = tokio::select! {
            read = &mut streams => { read?; (running.end().await, Ok(())) }
            status = running.end() => (status, timeout(OUTPUT_GRACE, &mut streams).await.unwrap_or(Ok(()))),
        };
        drop(streams);
        read?;
        let status = status.map_err(|error| {
            tracing::error!(%error, run = turn.run_id, "cannot wait for the agent's command");
            AgentFailure::failed("the agent's command was lost")
        })?;
        if status.success() {
            return Ok(reply.finish());
        }
        let stderr = String::from_utf8_lossy(&complaint);
        tracing::warn!(%status, stderr = stderr.trim(), run = turn.run_id, "the agent's command failed");
        let why = format!("the agent's command failed ({status})");
        Err(AgentFailure::Explained { why, aside: stderr.trim().to_owned() })
    }
}

/// The device that proved itself, else whoever did so without one.
fn sender(turn: &Turn) -> &str {
    turn.from.device_id.as_deref().unwrap_or(turn.from.principal.key())
}

/// A command with its process group, which is killed while its leader has not been waited for, and never after: only so
/// long is its id certain to be no other's.
#[derive(Debug)]
struct Running {
    leader: Option<Pid>,
    child: Child,
}

impl Running {
    /// Waits for the leader's end, kills what it left behind in its group, and only then reaps it.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(leader) = self.leader {
            ended(leader).await?;
        }
        self.kill_group();
        self.child.wait().await
    }

    fn kill_group(&mut self) {
        if let Some(leader) = self.leader.take() {
            // Its leader is at least a zombie, so there is such a group; an error leaves nothing to do.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Running {
    /// Before the child, which may be reaped as soon as it is dropped.
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Waits for a child's end without reaping it, which `Child::wait` would.
async fn ended(child: Pid) -> io::Result<()> {
    // Before the first look: an end in between must not be missed.
    let mut signals = signal(SignalKind::child())?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        if retry_on_intr(|| waitid(WaitId::Pid(child), options))?.is_some() {
            return Ok(());
        }
        signals.recv().await;
    }
}

/// What a command has said so far.
#[derive(Debug, Default)]
struct Output {
    text: String,
    /// The beginning of a character whose end has not come yet.
    partial: Vec<u8>,
    bytes: usize,
}

impl Output {
    async fn read(
        &mut self,
        mut stdout: impl AsyncRead + Unpin,
        max: usize,
        deltas: &Deltas,
    ) -> Result<(), AgentFailure> {
        let mut buffer = vec![0; 8192];
        loop {
            let read = match stdout.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => read,
            };
            self.bytes += read;
            if self.bytes > max {
                return Err(AgentFailure::failed(format!("the command wrote more than {max} bytes")));
            }
            let start = self.text.len();
            self.push(&buffer[..read]);
            if self.text.len() > start {
                deltas.push(&self.text[start..]).await;
            }
        }
    }

    /// Decodes as UTF-8: a character may be cut between two reads, what is none is replaced.
    fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.partial);
        let mut rest = pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    return;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        self.partial = tail.to_vec();
                        return;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &tail[bad..];
                }
            }
        }
    }

    fn finish(mut self) -> String {
        if !self.partial.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text.truncate(self.text.trim_end().len());
        self.text
    }
}

/// A command that never reads its input breaks the pipe: no fault of its reply.
async fn feed(mut stdin: ChildStdin, message: &str) {
    let _ = stdin.write_all(message.as_bytes()).await;
    let _ = stdin.shutdown().await;
}

/// Reads everything, keeps the end.
async fn tail(mut stderr: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::Sender;
    use crate::agent::tests::turn;
    use crate::principal::{Member, Principal};

    fn sh(script: &str) -> ExecAgent {
        ExecAgent::new("sh", ["-c".into(), script.into()])
    }

    async fn run(agent: &ExecAgent, message: &str) -> Result<String, AgentFailure> {
        let (deltas, mut pieces) = Deltas::channel();
        let drain = async move { while pieces.recv().await.is_some() {} };
        tokio::join!(agent.reply(turn(message), deltas), drain).0
    }

    fn words(result: Result<String, AgentFailure>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_message_goes_in_and_the_reply_comes_out() {
        assert_eq!(run(&sh("tr a-z A-Z"), "hello").await.unwrap(), "HELLO");
        assert_eq!(run(&sh("printf 'two\\nlines \\n\\n'"), "").await.unwrap(), "two\nlines");
        let env = sh("echo $MESH_SESSION $MESH_FROM $MESH_RUN_ID");
        assert_eq!(run(&env, "").await.unwrap(), "agent:main:mesh:alice d1 run-1");
    }

    #[tokio::test]
    async fn a_command_that_never_reads_is_fine() {
        let big = "x".repeat(1_000_000);
        assert_eq!(run(&sh("exec 0<&-; echo done"), &big).await.unwrap(), "done");
        assert_eq!(run(&ExecAgent::new("true", []), &big).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_failing_command_tells_the_sender_its_status_and_no_more() {
        let script = "echo out; echo \"cannot open $HOME/secret\" >&2; exit 3";
        assert_eq!(words(run(&sh(script), "").await), "the agent's command failed (exit status: 3)");
        let chatty = sh("yes | head -c 100000 >&2; exit 1");
        assert_eq!(words(run(&chatty, "").await), "the agent's command failed (exit status: 1)");
        let missing = ExecAgent::new("/no/such/command", []);
        assert_eq!(words(run(&missing, "").await), "the agent's command cannot be started");
    }

    #[tokio::test]
    async fn arguments_that_are_placeholders_are_replaced_as_a_whole() {
        let printf = |args: &[&str]| ExecAgent::new("printf", args.iter().map(Into::into));
        let agent = printf(&["%s|", "{message}", "{session}", "{from}", "x{message}", "{other}"]);
        let shown = run(&agent, "-n $(id) 'x'").await.unwrap();
        assert_eq!(shown, "-n $(id) 'x'|agent:main:mesh:alice|d1|x{message}|{other}|");
        let cat = ExecAgent::new("sh", ["-c", "cat; echo \"<$1>\"", "sh", "{message}"].map(Into::into));
        assert_eq!(run(&cat, "hi").await.unwrap(), "<hi>", "nothing is on its standard input");
    }

    #[tokio::test]
    async fn a_peer_is_framed_and_named_whatever_it_came_with() {
        let bob = Member { key: "bob".into(), name: "Bob".into(), ..Member::default() };
        let principal = Principal::Peer(Arc::new(bob));
        let said = Turn {
            permission_mode: Some("read-only".into()),
            from: Sender { principal, device_id: None, display_name: Some("owner".into()) },
            ..turn("hi")
        };
        let show = sh("cat; echo; echo $MESH_FROM $MESH_FROM_KEY $MESH_PERMISSION_MODE \
             $MESH_CHAIN_ID $MESH_CHAIN_HOPS $MESH_CHAIN_VISITED");
        let ask = async |agent: &ExecAgent| {
            let (deltas, mut pieces) = Deltas::channel();
            let drain = async move { while pieces.recv().await.is_some() {} };
            tokio::join!(agent.reply(said.clone(), deltas), drain).0.unwrap()
        };
        let framed = ask(&show).await;
        assert!(framed.starts_with("[agent-mesh-door/1 from=bob claimed-id=run-1]\n("), "{framed}");
        assert!(framed.ends_with("\n\nhi\nbob bob read-only run-1 0 bob"), "{framed}");
        assert_eq!(ask(&ExecAgent { frame: false, ..show }).await, "hi\nbob bob read-only run-1 0 bob");
    }

    #[tokio::test]
    async fn the_group_is_killed_before_its_leader_is_reaped() {
        let mut running = sh("sleep 1000 & exit 7").start(&turn(""), "").unwrap();
        let leader = running.leader.unwrap();
        ended(leader).await.unwrap();
        let is_there = || rustix::process::test_kill_process_group(leader).is_ok();
        assert!(is_there(), "a zombie keeps its id");
        assert_eq!(running.end().await.unwrap().code(), Some(7));
        assert_eq!(running.leader, None, "nobody signals this id from now on");
        while is_there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn too_much_output_and_too_much_time_end_it() {
        let greedy = ExecAgent { max_output: 1000, ..sh("yes") };
        assert_eq!(words(run(&greedy, "").await), "the command wrote more than 1000 bytes");
        let slow = ExecAgent { timeout: Duration::from_millis(50), ..sh("sleep 1000") };
        assert_eq!(run(&slow, "").await, Err(AgentFailure::TimedOut));
    }

    #[tokio::test]
    async fn a_cancelled_turn_kills_the_whole_group() {
        // Every process of the group holds the pipe's writing end: its reader sees the end when all are gone.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let agent = sh(&format!("exec 3>'{}'; sleep 1000 & echo started; wait", pipe.display()));
        let all_gone = tokio::task::spawn_blocking(move || std::fs::read(pipe));

        let (deltas, mut pieces) = Deltas::channel();
        let turn = turn("");
        let cancel = turn.cancel.clone();
        let watch = async {
            assert_eq!(pieces.recv().await.as_deref(), Some("started\n"));
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(agent.reply(turn, deltas), watch);
        assert_eq!(result, Err(AgentFailure::Cancelled));
        assert!(all_gone.await.unwrap().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_does_not_hold_the_reply() {
        assert_eq!(run(&sh("sleep 1000 & echo done"), "").await.unwrap(), "done");
    }

    #[test]
    fn characters_may_be_cut_between_reads() {
        let mut output = Output::default();
        for byte in "戴é".bytes() {
            output.push(&[byte]);
        }
        output.push(b"\xffx\xe6\x88");
        assert_eq!(output.finish(), "戴é\u{fffd}x\u{fffd}");
    }
}
