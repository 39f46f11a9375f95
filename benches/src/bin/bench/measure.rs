//! What a command costs, in rounds that are interleaved with those of its neighbours.

use std::path::Path;
use std::process::Command;

use agent_mesh_benches::bare::Failure;
use serde::Deserialize;
use serde_json::Value;

use crate::places::Places;

/// One run of one command, as the kernel counted it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    pub code: Option<i32>,
    pub wall_ms: f64,
    pub cpu_ms: f64,
    #[serde(rename = "peakKiB")]
    pub peak_kib: f64,
    pub stdout: String,
    pub stderr: String,
}

impl Cost {
    pub fn peak_mib(&self) -> f64 {
        self.peak_kib / 1024.0
    }

    /// The one JSON document that it printed.
    pub fn document(&self) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&self.stdout).map_err(|error| format!("{error}: {}", self.stderr))?)
    }
}

/// A command, with a home folder and nothing else of this machine's user.
#[derive(Debug, Clone)]
pub struct Work {
    argv: Vec<String>,
}

impl Work {
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect() }
    }

    /// Runs it to its end, which must be a good one.
    pub fn cost(&self, places: &Places, home: &Path) -> Result<Cost, Failure> {
        let cost = self.run(places, home)?;
        if cost.code == Some(0) {
            return Ok(cost);
        }
        let said: String = cost.stderr.chars().chain(cost.stdout.chars()).take(2_000).collect();
        Err(format!("{}: exit {:?}: {said}", self.argv.join(" "), cost.code).into())
    }

    /// Runs it to its end, whatever that is.
    pub fn run(&self, places: &Places, home: &Path) -> Result<Cost, Failure> {
        let output = Command::new(places.bench("cost"))
            .args(&self.argv)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .env("MESH_MY_EMAIL", "alice@example.com")
            .current_dir(home)
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?)
    }
}

/// So many rounds of each of these, in turn; the order turns, too, so that nobody always comes after the same neighbour.
pub fn interleaved(
    rounds: usize,
    works: &mut [&mut dyn FnMut() -> Result<Cost, Failure>],
) -> Result<Vec<Vec<Cost>>, Failure> {
    let mut seen = vec![Vec::with_capacity(rounds); works.len()];
    for round in 0..rounds {
        for turn in 0..works.len() {
            let which = (turn + round) % works.len();
            seen[which].push(works[which]()?);
        }
    }
    Ok(seen)
}

/// The middle of these.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of the others is not above.
pub fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios of neighbours, who saw the same machine: steadier than the ratio of the medians.
pub fn pair_by_pair(own: &[Cost], beside: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    median(own.iter().zip(beside).map(|(own, beside)| of(own) / of(beside)))
}

/// The median of one thing that was counted.
pub fn median_of(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    median(costs.iter().map(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_turns_and_everybody_has_his_turn() {
        let order = std::cell::RefCell::new(String::new());
        let cost = |wall_ms| Cost {
            code: Some(0),
            wall_ms,
            cpu_ms: 0.0,
            peak_kib: 0.0,
            stdout: String::new(),
            stderr: String::new(),
        };
        let mut own = || {
            order.borrow_mut().push('a');
            Ok(cost(3.0))
        };
        let mut beside = || {
            order.borrow_mut().push('b');
            Ok(cost(2.0))
        };
        let seen = interleaved(3, &mut [&mut own, &mut beside]).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(pair_by_pair(&seen[0], &seen[1], |cost| cost.wall_ms), 1.5);
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = || (1..=100).map(f64::from);
        assert_eq!(
            (median(values()), quantile(values(), 0.99), quantile(values(), 1.0)),
            (51.0, 100.0, 100.0)
        );
        assert!(median([]).is_nan());
    }
}
