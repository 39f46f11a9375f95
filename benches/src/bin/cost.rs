//! What one command costs: `cost CMD ARGS…` runs it to its end and prints one JSON document with wall time, CPU time
//! (user and system, its own children included) and peak memory, as the kernel counted them.
//!
//! A process of its own for each measurement, because the kernel keeps one peak for all children of a process, and a
//! small one, because a child begins with the peak of whoever started it.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::json;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut argv = std::env::args_os().skip(1);
    let command = argv.next().ok_or("usage: cost CMD ARGS…")?;
    let start = Instant::now();
    let output = Command::new(command).args(argv).stdin(Stdio::null()).output()?;
    let wall = start.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cost = json!({
        "code": output.status.code(),
        "wallMs": wall.as_secs_f64() * 1e3,
        "cpuMs": millis(used.user_time()) + millis(used.system_time()),
        "peakKiB": used.max_rss(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    });
    println!("{cost}");
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::cast_precision_loss)] // Seconds and microseconds of one command.
fn millis(time: TimeVal) -> f64 {
    time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3
}
