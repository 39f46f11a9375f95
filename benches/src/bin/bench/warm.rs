//! `warm`, several of them, each asked in turn for so many answers over the connection that it has.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use agent_mesh_benches::bare::Failure;
use serde::Deserialize;

use crate::measure::{median, quantile};
use crate::places::Places;

/// One of them, running.
pub struct Warm {
    process: Child,
    said: BufReader<ChildStdout>,
    /// The milliseconds of each answer, batch by batch.
    batches: Vec<Vec<f64>>,
    /// How often an answer asked for memory, batch by batch.
    allocations: Vec<f64>,
}

/// What it says after a batch.
#[derive(Deserialize)]
struct Batch {
    micros: Vec<f64>,
    allocations: f64,
}

impl Warm {
    pub fn start(places: &Places, args: &[&str]) -> Result<Self, Failure> {
        let mut process = Command::new(places.bench("warm"))
            .args(args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, said, batches: Vec::new(), allocations: Vec::new() })
    }

    fn ask(&mut self, answers: usize) -> Result<Batch, Failure> {
        let orders = self.process.stdin.as_mut().ok_or("no stdin")?;
        writeln!(orders, "{answers}")?;
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            return Err("it ended before it answered".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Of all answers, in milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        quantile(self.batches.iter().flatten().copied(), part)
    }

    /// How often one answer asks for memory, SQLite's own allocations apart.
    pub fn allocations(&self) -> f64 {
        median(self.allocations.iter().copied())
    }

    /// The median of the batches' medians beside those of another one, batch by batch.
    pub fn beside(&self, other: &Self) -> f64 {
        let middle = |batch: &Vec<f64>| median(batch.iter().copied());
        median(self.batches.iter().zip(&other.batches).map(|(own, other)| middle(own) / middle(other)))
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // One that does not listen to its standard input would stay; and any may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// So many batches of each, in turn; the order turns, too.
pub fn in_turn(warm: &mut [&mut Warm], batches: usize, of: usize) -> Result<(), Failure> {
    for one in warm.iter_mut() {
        // The first answers find nothing in any cache.
        one.ask(of.min(50))?;
    }
    for round in 0..batches {
        for turn in 0..warm.len() {
            let one = &mut warm[(turn + round) % warm.len()];
            let batch = one.ask(of)?;
            one.allocations.push(batch.allocations / of as f64);
            one.batches.push(batch.micros.into_iter().map(|micros| micros / 1e3).collect());
        }
    }
    Ok(())
}
