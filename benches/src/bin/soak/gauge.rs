//! What each process holds, every few seconds: resident memory, descriptors, threads; and whether that is flat.
//!
//! The ceiling is for all that is resident. What may not grow is a process's own, anonymous memory: pages of the binary and
//! of libraries become resident as code is first used, the system takes them back when it needs them, and there are no more of
//! them than the files have.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// No process may have more resident memory, however short the soak.
const CEILING_KIB: u64 = 64 * 1024;
/// What its own memory may have grown between the second quarter and the last one: so many times, and so much.
const GROWTH: f64 = 1.1;
const GROWTH_KIB: f64 = 2048.0;
/// The slope after the first quarter may be so much: 1 MiB in 48 minutes.
const SLOPE_KIB_PER_MINUTE: f64 = 21.5;
/// Shorter than this, the tables that are bounded are still filling, and memory is held to the ceiling alone.
const LONG_ENOUGH: Duration = Duration::from_secs(15 * 60);

/// Whether memory is held to more than the ceiling after so long.
pub fn is_long_enough(time: Duration) -> bool {
    time >= LONG_ENOUGH
}

/// What must hold of a process's memory, in words.
pub fn limits() -> String {
    format!("of its own at most {GROWTH} times + {GROWTH_KIB} KiB, and {SLOPE_KIB_PER_MINUTE} KiB a minute")
}

/// One look at a process.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    at: Instant,
    rss_kib: u64,
    own_kib: u64,
    descriptors: u64,
    threads: u64,
}

/// A process from its start to its end.
#[derive(Debug)]
struct Series {
    name: &'static str,
    pid: u32,
    over: bool,
    samples: Vec<Sample>,
    /// After the rest that followed the warm-up.
    warm: Option<Held>,
}

/// What a process holds: threads, and descriptors by what they lead to.
type Held = BTreeMap<String, usize>;

/// All of them.
#[derive(Debug, Default)]
pub struct Gauges(Mutex<Vec<Series>>);

/// What was found of the processes of one name.
#[derive(Debug)]
pub struct Found {
    pub name: &'static str,
    pub lives: usize,
    pub rss_kib: [u64; 3],
    /// Of the own memory of a process that lived all along: the median of the second quarter and of the last, and the slope after
    /// the first.
    pub trend: Option<[f64; 3]>,
    pub descriptors: [u64; 3],
    pub threads: [u64; 3],
    pub faults: Vec<String>,
}

impl Gauges {
    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that is looked at from now on.
    pub fn watch(&self, name: &'static str, pid: u32) {
        self.locked().push(Series { name, pid, over: false, samples: Vec::new(), warm: None });
    }

    /// The process of this name is to end.
    pub fn over(&self, name: &str) {
        for series in self.locked().iter_mut().filter(|series| series.name == name) {
            series.over = true;
        }
    }

    /// Looks at all of them.
    pub fn sample(&self) {
        for series in self.locked().iter_mut().filter(|series| !series.over) {
            if let Some(sample) = look(series.pid) {
                series.samples.push(sample);
            }
        }
    }

    /// The resident KiB of each, for whoever watches the soak.
    pub fn now(&self) -> String {
        let all = self.locked();
        let alive = all.iter().filter(|series| !series.over);
        let sizes =
            alive.filter_map(|series| Some(format!("{} {}", series.name, series.samples.last()?.rss_kib)));
        sizes.collect::<Vec<_>>().join(", ")
    }

    /// What they hold now is what they may hold at rest.
    pub fn warmed_up(&self) {
        for series in self.locked().iter_mut().filter(|series| !series.over) {
            series.warm = held(series.pid);
        }
    }

    /// Who holds more than after the warm-up; a door that was started anew is held to what its first life held.
    pub fn holding_more(&self) -> Vec<String> {
        let all = self.locked();
        let mut more = Vec::new();
        for series in all.iter().filter(|series| !series.over) {
            let warm =
                all.iter().filter(|first| first.name == series.name).find_map(|first| first.warm.as_ref());
            let (Some(warm), Some(now)) = (warm, held(series.pid)) else { continue };
            for (what, count) in now {
                let before = warm.get(&what).copied().unwrap_or_default();
                if count > before + spare(&what) {
                    more.push(format!("{} at rest: {what} {count}, after the warm-up {before}", series.name));
                }
            }
        }
        more
    }

    /// By name, of the time between these two.
    pub fn found(&self, from: Instant, to: Instant) -> Vec<Found> {
        let all = self.locked();
        let mut names: Vec<&'static str> = Vec::new();
        for series in all.iter().filter(|series| !series.samples.is_empty()) {
            if !names.contains(&series.name) {
                names.push(series.name);
            }
        }
        let of = |name| all.iter().filter(|series| series.name == name).collect::<Vec<_>>();
        names.into_iter().map(|name| found(name, &of(name), from, to)).collect()
    }
}

fn found(name: &'static str, lives: &[&Series], from: Instant, to: Instant) -> Found {
    let samples = || lives.iter().flat_map(|life| &life.samples);
    let three = |of: fn(&Sample) -> u64| {
        let first = samples().next().map(of).unwrap_or_default();
        [first, samples().map(of).max().unwrap_or_default(), samples().last().map(of).unwrap_or_default()]
    };
    let within: Vec<Sample> = samples().filter(|sample| (from..=to).contains(&sample.at)).copied().collect();
    let long = lives.len() == 1 && is_long_enough(to.duration_since(from));
    let mut found = Found {
        name,
        lives: lives.len(),
        rss_kib: three(|sample| sample.rss_kib),
        trend: if long { trend(&within) } else { None },
        descriptors: three(|sample| sample.descriptors),
        threads: three(|sample| sample.threads),
        faults: Vec::new(),
    };
    if found.rss_kib[1] > CEILING_KIB {
        found.faults.push(format!("{name}: {} KiB resident, at most {CEILING_KIB}", found.rss_kib[1]));
    }
    if let Some([second, last, slope]) = found.trend
        && (last > second * GROWTH + GROWTH_KIB || slope > SLOPE_KIB_PER_MINUTE)
    {
        found.faults.push(format!(
            "{name} grows: {second:.0} KiB of its own in the second quarter, {last:.0} in the last; {slope:.1} KiB a minute after the first, at \
             most {SLOPE_KIB_PER_MINUTE}"
        ));
    }
    found
}

/// Medians of the second quarter and of the last, and the slope after the first in KiB a minute.
fn trend(samples: &[Sample]) -> Option<[f64; 3]> {
    let quarter = samples.len() / 4;
    let second = median(samples.get(quarter..2 * quarter)?)?;
    let last = median(samples.get(3 * quarter..)?)?;
    Some([second, last, slope(samples.get(quarter..)?)?])
}

fn median(samples: &[Sample]) -> Option<f64> {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.own_kib).collect();
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).map(|&size| size as f64)
}

/// What the medians of five equal parts grow by from one to the next; of these four the second largest. A leak goes on all the
/// time, and so do small steps one after the other; one step, such as a thread's first use of a heap of its own, is no slope,
/// whenever it comes. The quarters tell of steps that are too large.
fn slope(samples: &[Sample]) -> Option<f64> {
    let part = (samples.len() / 5).max(1);
    let minutes = samples.get(part)?.at.duration_since(samples.first()?.at).as_secs_f64() / 60.0;
    let parts: Vec<f64> = samples.chunks_exact(part).take(5).filter_map(median).collect();
    let mut grown: Vec<f64> = parts.windows(2).map(|pair| (pair[1] - pair[0]) / minutes).collect();
    grown.sort_unstable_by(f64::total_cmp);
    grown.get(2).copied()
}

/// SQLite cannot close a connection's descriptor while another one of the process has a lock, and keeps it for the next: as many
/// as there were at one time. Beside the one that writes the archive has two that read and one that copies the WAL.
fn spare(what: &str) -> usize {
    const BESIDE: usize = 3;
    if what == "archive.db" { BESIDE } else { 0 }
}

fn held(pid: u32) -> Option<Held> {
    let mut held = Held::from([("threads".to_owned(), usize::try_from(look(pid)?.threads).ok()?)]);
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        let Ok(target) = fs::read_link(entry.ok()?.path()) else { continue };
        // `socket:[4711]` is a socket; a file goes by its name.
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let kind = if target.is_absolute() { &*name } else { name.split(":[").next().unwrap_or_default() };
        *held.entry(kind.to_owned()).or_default() += 1;
    }
    Some(held)
}

fn look(pid: u32) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Sample {
        at: Instant::now(),
        rss_kib: number("VmRSS:")?,
        own_kib: number("RssAnon:")? + number("RssShmem:")?,
        descriptors: u64::try_from(descriptors).ok()?,
        threads: number("Threads:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour of samples, every ten seconds, of this size at each minute.
    fn hour(own: impl Fn(f64) -> f64) -> (Vec<Sample>, Instant) {
        let start = Instant::now();
        let samples = (0..360_u32).map(|n| {
            let own_kib = own(f64::from(n) / 6.0) as u64;
            let at = start + Duration::from_secs(10) * n;
            Sample { at, rss_kib: own_kib + 9000, own_kib, descriptors: 9, threads: 3 }
        });
        (samples.collect(), start)
    }

    fn faults(own: impl Fn(f64) -> f64) -> usize {
        let (samples, start) = hour(own);
        let series = Series { name: "door", pid: 1, over: false, samples, warm: None };
        found("door", &[&series], start, start + Duration::from_secs(3600)).faults.len()
    }

    #[test]
    fn flat_memory_is_flat_and_a_slow_leak_is_not() {
        assert_eq!(faults(|_| 12_000.0), 0);
        assert_eq!(faults(|minute| 12_000.0 + 400.0 * minute.min(10.0)), 0, "tables that fill, and are full");
        assert_eq!(faults(|minute| 12_000.0 + 200.0 * (minute * 40.0).sin()), 0, "what comes and goes");
        assert_eq!(faults(|minute| 12_000.0 + 25.0 * minute), 1, "1.5 MiB in an hour");
        assert_eq!(faults(|minute| if minute < 40.0 { 12_000.0 } else { 16_000.0 }), 1, "a step");
        assert_eq!(faults(|minute| if minute < 40.0 { 12_000.0 } else { 14_000.0 }), 0, "a small step");
        for minute in 0..60 {
            let step = |now: f64| if now < f64::from(minute) { 12_000.0 } else { 13_500.0 };
            assert_eq!(faults(step), 0, "one step, in minute {minute}");
        }
        let steps = |minute: f64| 12_000.0 + 500.0 * (minute / 10.0).floor();
        assert_eq!(faults(steps), 1, "one small step after the other");
        assert_eq!(faults(|_| 70_000.0), 1, "too much from the start");
    }

    #[test]
    fn the_slope_is_that_of_the_line() {
        let (samples, _) = hour(|minute| 1000.0 + 60.0 * minute);
        assert!((slope(&samples).unwrap() - 60.0).abs() < 0.1);
    }
}
