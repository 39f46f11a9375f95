//! An agent that is a command: the message on its standard input, the reply on its standard output.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::{Agent, AgentFailure, Deltas, ReplyFuture, Turn};

/// A failing command's last words are reported up to so many bytes.
const STDERR_TAIL: usize = 2048;
/// A child that the command left behind may hold its output open for so long.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Runs a command for each message.
///
/// The command finds `MESH_SESSION`, `MESH_FROM` (the sender's device id, or `owner`) and `MESH_RUN_ID` in its
/// environment. It runs in a process group of its own, which is killed when the turn ends early.
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
}

impl ExecAgent {
    /// A command that may run for ten minutes and write 4 MiB.
    pub fn new(command: impl Into<OsString>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            command: command.into(),
            args: args.into_iter().collect(),
            timeout: Duration::from_secs(600),
            max_output: 4 * 1024 * 1024,
        }
    }
}

impl Agent for ExecAgent {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let (child, group) = self.start(&turn)?;
            let cancel = turn.cancel.clone();
            let result = tokio::select! {
                result = timeout(self.timeout, self.talk(child, &turn.message, &deltas)) => {
                    result.unwrap_or(Err(AgentFailure::TimedOut))
                }
                () = cancel.cancelled() => Err(AgentFailure::Cancelled),
            };
            // Whatever the command started and left behind goes with it, on every way out.
            drop(group);
            result
        })
    }
}

impl ExecAgent {
    fn start(&self, turn: &Turn) -> Result<(Child, Group), AgentFailure> {
        let child = Command::new(&self.command)
            .args(&self.args)
            // The gateway's own secrets are none of the command's business, nor of whoever reads its reply.
            .env_remove("MESH_GATEWAY_TOKEN")
            .env_remove("OPENCLAW_GATEWAY_TOKEN")
            .env("MESH_SESSION", &turn.session_key)
            .env("MESH_FROM", turn.from.device_id.as_deref().unwrap_or("owner"))
            .env("MESH_RUN_ID", &turn.run_id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                AgentFailure::failed(format!("cannot run {}: {e}", self.command.to_string_lossy()))
            })?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        Ok((child, group))
    }

    async fn talk(&self, mut child: Child, message: &str, deltas: &Deltas) -> Result<String, AgentFailure> {
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
            read = &mut streams => { read?; (child.wait().await, Ok(())) }
            status = child.wait() => (status, timeout(OUTPUT_GRACE, &mut streams).await.unwrap_or(Ok(()))),
        };
        drop(streams);
        read?;
        let status = status.map_err(|e| AgentFailure::failed(format!("cannot wait for the command: {e}")))?;
        if status.success() { Ok(reply.finish()) } else { Err(failed(status, &complaint)) }
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

fn failed(status: ExitStatus, complaint: &[u8]) -> AgentFailure {
    let words = String::from_utf8_lossy(complaint);
    match words.trim() {
        "" => AgentFailure::failed(format!("the command failed ({status})")),
        words => AgentFailure::failed(format!("the command failed ({status}): {words}")),
    }
}

/// A process group that is killed when dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // No such group: everything has ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::agent::Sender;

    fn sh(script: &str) -> ExecAgent {
        ExecAgent::new("sh", ["-c".into(), script.into()])
    }

    fn turn(message: &str) -> Turn {
        Turn {
            run_id: "run-1".into(),
            session_key: "agent:main:mesh:alice".into(),
            message: message.into(),
            provenance: None,
            from: Sender { device_id: Some("d1".into()), display_name: None },
            cancel: CancellationToken::new(),
        }
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
    async fn a_failing_command_is_reported_with_its_last_words() {
        assert_eq!(
            words(run(&sh("echo out; echo oops >&2; exit 3"), "").await),
            "the command failed (exit status: 3): oops"
        );
        let long = words(run(&sh("yes | head -c 100000 >&2; echo end >&2; exit 1"), "").await);
        assert!(long.ends_with("end") && long.len() < STDERR_TAIL + 100);
        assert!(words(run(&ExecAgent::new("/no/such/command", []), "").await).contains("cannot run"));
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
