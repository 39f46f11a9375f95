//! Running a program for its output, within limits of size and time.

use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::{Broken, MAX_ANSWER};
use crate::process_group::ProcessGroup;

/// How much of what a program says on standard error is shown: its end tells why it failed.
const STDERR_SHOWN: usize = 1024;

/// What a program printed, if it succeeded. Otherwise, and when this future is dropped, it is killed with all it started.
pub(super) async fn output(program: &str, command: &mut Command, limit: Duration) -> Result<Vec<u8>, Broken> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Broken::Spawn { program: program.to_owned(), source })?;
    let group = ProcessGroup::of(&child);
    let ended = timeout(limit, run(&mut child)).await.map_err(|_| Broken::Slow(limit))?;
    let (status, stdout, stderr) = ended.map_err(Broken::Unreadable)?;
    let stdout = super::within_limit(stdout)?;
    // Both pipes are closed: nothing of it is left that writes, and its id may soon be another's.
    group.spare();
    if status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(Broken::Failed { program: program.to_owned(), status: status.to_string(), stderr })
}

type Ended = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

async fn run(child: &mut Child) -> io::Result<Ended> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = async {
        let mut bytes = Vec::new();
        if let Some(pipe) = stdout {
            pipe.take(MAX_ANSWER + 1).read_to_end(&mut bytes).await?;
        }
        Ok::<_, io::Error>(bytes)
    };
    let (stdout, stderr) = tokio::join!(stdout, tail(stderr));
    let stdout = stdout?;
    if stdout.len() as u64 > MAX_ANSWER {
        // It may go on printing for ever; the caller refuses the size.
        return Ok((std::process::ExitStatus::default(), stdout, stderr));
    }
    Ok((child.wait().await?, stdout, stderr))
}

/// The end of what comes through a pipe. One that breaks has simply ended.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 1024]);
    let Some(mut pipe) = pipe else { return kept };
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(STDERR_SHOWN));
    }
    kept
}
