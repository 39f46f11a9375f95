//! The IM fallback: a script of the team's that carries a message to a teammate whose agent cannot be reached.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{FusedFuture, join},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use crate::process_group::ProcessGroup;

/// How much of each output stream of the script is kept.
const KEPT: usize = 8 * 1024;
/// How long the pipes may stay open once the script has ended: what it left running in the background holds them.
const DRAIN: Duration = Duration::from_millis(200);

/// The script to run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImFallback {
    /// The script. A `.py` without a run bit runs under `python3`.
    pub script: PathBuf,
    /// The domain that makes an e-mail prefix an address.
    pub domain: String,
    /// How long the script may take before it is killed, with all it started.
    pub timeout: Duration,
}

/// Why the fallback did not deliver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FallbackError {
    /// The script could not be started.
    #[error("cannot run {script}")]
    Spawn {
        /// The script.
        script: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The script was started, but could not be waited for.
    #[error("lost track of {script}")]
    Wait {
        /// The script.
        script: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The script did not end in time and was killed.
    #[error("{script} did not finish within {after:?}{}", last_words(output))]
    TimedOut {
        /// The script.
        script: PathBuf,
        /// The time it had.
        after: Duration,
        /// The end of what it wrote, to standard error if it wrote there.
        output: String,
    },
    /// The script says that it failed.
    #[error("{script} failed ({status}){}", last_words(output))]
    Failed {
        /// The script.
        script: PathBuf,
        /// Its exit code, or the signal that ended it.
        status: ExitStatus,
        /// The end of what it wrote, to standard error if it wrote there.
        output: String,
    },
}

/// The last line that a script wrote, behind what is said of it.
fn last_words(output: &str) -> String {
    const SHOWN: usize = 200;
    let last = output.lines().rfind(|line| !line.trim().is_empty());
    last.map(|line| format!(": {}", line.trim().chars().take(SHOWN).collect::<String>())).unwrap_or_default()
}

impl ImFallback {
    /// Runs `<script> --to <prefix>@<domain> --msg "[agent-mesh fallback] <message>"`, without a shell.
    ///
    /// Dropping the future kills the script with all it started.
    ///
    /// # Errors
    /// [`FallbackError`] when the script cannot be run, fails, or takes too long.
    pub async fn deliver(&self, email_prefix: &str, message: &str) -> Result<(), FallbackError> {
        let script = || self.script.clone();
        let mut child = self
            .command()
            .args(["--to", &format!("{email_prefix}@{}", self.domain)])
            .args(["--msg", &format!("[agent-mesh fallback] {message}")])
            .spawn()
            .map_err(|source| FallbackError::Spawn { script: script(), source })?;
        let (ended, output) = watch(&mut child, self.timeout).await;
        match ended {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(FallbackError::Failed { script: script(), status, output }),
            Some(Err(source)) => Err(FallbackError::Wait { script: script(), source }),
            None => Err(FallbackError::TimedOut { script: script(), after: self.timeout, output }),
        }
    }

    fn command(&self) -> Command {
        // A bare file name would be looked up in PATH, one with a dash be taken for an option of python3.
        let script =
            if self.script.is_absolute() { self.script.clone() } else { Path::new(".").join(&self.script) };
        let mut command = if is_plain_python(&script) {
            let mut python = Command::new("python3");
            python.arg(script);
            python
        } else {
            Command::new(script)
        };
        command
            // The gateway's own secrets are none of the script's business.
            .env_remove("MESH_GATEWAY_TOKEN")
            .env_remove("OPENCLAW_GATEWAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// A `.py` that cannot be run by itself.
fn is_plain_python(script: &Path) -> bool {
    let runnable = std::fs::metadata(script).is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
    script.extension().is_some_and(|extension| extension == "py") && !runnable
}

/// Waits for the child while reading what it writes; `None` when it had to be killed for taking too long.
async fn watch(child: &mut Child, limit: Duration) -> (Option<io::Result<ExitStatus>>, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = (child.stdout.take(), child.stderr.take());
    let group = ProcessGroup::of(child);
    let ended = {
        let mut reading = pin!(join(keep_tail(pipes.0, &mut stdout), keep_tail(pipes.1, &mut stderr)).fuse());
        let run = async {
            tokio::select! {
                ended = child.wait() => ended,
                _ = &mut reading => child.wait().await,
            }
        };
        let ended = timeout(limit, run).await.ok();
        match &ended {
            Some(_) => group.spare(),
            None => drop(group),
        }
        if !reading.is_terminated() {
            let _ = timeout(DRAIN, reading).await;
        }
        ended
    };
    let said = if stderr.trim_ascii().is_empty() { &stdout } else { &stderr };
    (ended, String::from_utf8_lossy(said).trim().to_owned())
}

/// Reads to the end, keeping the last [`KEPT`] bytes. A pipe that breaks has simply ended.
async fn keep_tail(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        tail.extend_from_slice(&chunk[..count]);
        tail.drain(..tail.len().saturating_sub(KEPT));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    struct Script {
        dir: tempfile::TempDir,
        fallback: ImFallback,
    }

    impl Script {
        fn new(name: &str, mode: u32, text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let script = dir.path().join(name);
            // Copied by another process: a test that forks while we hold the script open for writing would inherit
            // that, and running the script would fail with "text file busy".
            let draft = dir.path().join("draft");
            fs::write(&draft, text).unwrap();
            assert!(std::process::Command::new("cp").args([&draft, &script]).status().unwrap().success());
            fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
            let fallback =
                ImFallback { script, domain: "example.com".into(), timeout: Duration::from_secs(20) };
            Self { dir, fallback }
        }

        fn shell(text: &str) -> Self {
            Self::new("im.sh", 0o755, &format!("#!/bin/sh\ncd \"${{0%/*}}\"\n{text}\n"))
        }

        fn left(&self, name: &str) -> String {
            fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn runs_the_script_without_a_shell() {
        let script = Script::shell(r#"printf '%s|' "$@" > args; cat > stdin"#);
        script.fallback.deliver("bob", "it's $HOME;\n`id` \"now\"").await.unwrap();
        assert_eq!(
            script.left("args"),
            "--to|bob@example.com|--msg|[agent-mesh fallback] it's $HOME;\n`id` \"now\"|"
        );
        assert_eq!(script.left("stdin"), "", "standard input is closed");
    }

    #[tokio::test]
    async fn a_py_without_a_run_bit_runs_under_python3() {
        let text =
            "import sys, os; open(os.path.join(sys.path[0], 'args'), 'w').write('|'.join(sys.argv[1:]))";
        let script = Script::new("im.py", 0o644, text);
        script.fallback.deliver("bob", "hi").await.unwrap();
        assert_eq!(script.left("args"), "--to|bob@example.com|--msg|[agent-mesh fallback] hi");

        let runnable = Script::new("im.py", 0o755, "#!/bin/sh\nexit 7\n");
        let error = runnable.fallback.deliver("bob", "hi").await.unwrap_err();
        assert!(matches!(error, FallbackError::Failed { status, .. } if status.code() == Some(7)), "{error}");
    }

    #[tokio::test]
    async fn failure_carries_status_and_the_end_of_stderr() {
        let script = Script::shell("echo noise; yes line | head -c 100000 >&2; echo the end >&2; exit 3");
        match script.fallback.deliver("bob", "hi").await.unwrap_err() {
            FallbackError::Failed { status, output, .. } => {
                assert_eq!(status.code(), Some(3));
                assert!(output.ends_with("the end") && output.len() <= KEPT, "{}", output.len());
            }
            other => panic!("{other}"),
        }
        let script = Script::shell("echo only on stdout; exit 1");
        let error = script.fallback.deliver("bob", "hi").await.unwrap_err();
        assert!(error.to_string().ends_with("failed (exit status: 1): only on stdout"), "{error}");
        assert!(matches!(error, FallbackError::Failed { output, .. } if output == "only on stdout"));
    }

    #[tokio::test]
    async fn timeout_kills_the_whole_group() {
        let mut script = Script::shell("echo waiting >&2; (sleep 2; echo alive > survivor) & sleep 60");
        script.fallback.timeout = Duration::from_millis(500);
        let started = Instant::now();
        let error = script.fallback.deliver("bob", "hi").await.unwrap_err();
        assert!(matches!(&error, FallbackError::TimedOut { output, .. } if output == "waiting"), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(script.left("survivor"), "");
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_whole_group() {
        let script = Script::shell("(sleep 1; echo alive > survivor) & sleep 60");
        let delivery = script.fallback.deliver("bob", "hi");
        assert!(timeout(Duration::from_millis(300), delivery).await.is_err());
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(script.left("survivor"), "");
    }

    #[tokio::test]
    async fn what_stays_in_the_background_does_not_hold_us_up() {
        let script = Script::shell("sleep 3 & exit 0");
        let started = Instant::now();
        script.fallback.deliver("bob", "hi").await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_missing_script_cannot_be_run() {
        let mut script = Script::shell("");
        script.fallback.script = "true".into();
        let error = script.fallback.deliver("bob", "hi").await.unwrap_err();
        assert!(
            matches!(error, FallbackError::Spawn { .. }),
            "a bare name is a path, not a command: {error:?}"
        );
    }
}
