//! What happened here, counted, and as Prometheus reads it.
//!
//! A handful of atomics, written by hand: the usual crates would bring 38 others for what is one page of text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openclaw_protocol::ErrorShape;

use crate::denial::Rule;
use crate::outcome::Outcome;
use crate::shared::{Shared, lock};

/// The upper bounds of the histograms, in milliseconds: from an echo to the longest run.
const BOUNDS: [u64; 12] = [5, 25, 100, 250, 500, 1000, 2500, 5000, 15_000, 60_000, 300_000, 600_000];

/// The counters of one gateway. They begin at nought with it.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    ended: [AtomicU64; OUTCOMES.len()],
    denied: [AtomicU64; Rule::ALL.len()],
    took: Histogram,
    waited: Histogram,
    requests: AtomicU64,
    a2a_requests: AtomicU64,
    let_in: AtomicU64,
    turned_away: AtomicU64,
}

/// How runs end, in the order of [`place`].
const OUTCOMES: [&str; 5] = ["reply", "no-reply", "failed", "timed-out", "aborted"];

fn place(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Reply(_) => 0,
        Outcome::Silence => 1,
        Outcome::Failed(_) => 2,
        Outcome::TimedOut => 3,
        Outcome::Aborted => 4,
    }
}

/// How an outcome is called.
pub(crate) fn name(outcome: &Outcome) -> &'static str {
    OUTCOMES[place(outcome)]
}

/// Durations, by how long they were.
#[derive(Debug, Default)]
struct Histogram {
    /// One for each bound, and one for what is above them all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    total_ms: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        count(&self.counts[BOUNDS.partition_point(|bound| *bound < ms)]);
        self.total_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn write(&self, page: &mut Page, name: &str, help: &str) {
        page.head(name, "histogram", help);
        let mut so_far = 0;
        for (index, bound) in BOUNDS.iter().enumerate() {
            so_far += read(&self.counts[index]);
            page.line(&format!("{name}_bucket{{le=\"{}\"}}", seconds(*bound)), so_far);
        }
        so_far += read(&self.counts[BOUNDS.len()]);
        page.line(&format!("{name}_bucket{{le=\"+Inf\"}}"), so_far);
        page.line(&format!("{name}_sum"), seconds(read(&self.total_ms)));
        page.line(&format!("{name}_count"), so_far);
    }
}

impl Metrics {
    /// A run ended so, so long after it was accepted.
    pub(crate) fn ended(&self, outcome: &Outcome, took: Duration) {
        count(&self.ended[place(outcome)]);
        self.took.add(took);
    }

    /// A run began, so long after it was accepted.
    pub(crate) fn began(&self, waited: Duration) {
        self.waited.add(waited);
    }

    /// A request over a WebSocket.
    pub(crate) fn request(&self) {
        count(&self.requests);
    }

    /// A request of an A2A client.
    pub(crate) fn a2a_request(&self) {
        count(&self.a2a_requests);
    }

    /// A client was let in, or turned away.
    pub(crate) fn connect(&self, let_in: bool) {
        count(if let_in { &self.let_in } else { &self.turned_away });
    }

    /// A refusal: counted if a rule of the policy is why. Gives the rule.
    pub(crate) fn refused(&self, error: &ErrorShape) -> Option<&'static str> {
        let rule = error.detail("rule")?;
        let index = Rule::ALL.iter().position(|known| known.name() == rule)?;
        count(&self.denied[index]);
        Some(Rule::ALL[index].name())
    }
}

/// The page that Prometheus reads.
pub(crate) fn page(shared: &Shared) -> String {
    let metrics = &shared.metrics;
    let mut page = Page(String::with_capacity(4096));
    page.head("agent_mesh_runs_ended_total", "counter", "Runs that ended, by how.");
    for (outcome, ended) in OUTCOMES.iter().zip(&metrics.ended) {
        page.line(&format!("agent_mesh_runs_ended_total{{outcome=\"{outcome}\"}}"), read(ended));
    }
    let runs = lock(&shared.runs).counts();
    page.head("agent_mesh_runs", "gauge", "Runs that are not over, by state.");
    for (state, number) in [("queued", runs.queued), ("running", runs.running), ("held", runs.held)] {
        page.line(&format!("agent_mesh_runs{{state=\"{state}\"}}"), number);
    }
    metrics.took.write(&mut page, "agent_mesh_run_seconds", "From a run's acceptance to its end.");
    metrics.waited.write(
        &mut page,
        "agent_mesh_run_wait_seconds",
        "From a run's acceptance to its beginning.",
    );
    page.head("agent_mesh_denied_total", "counter", "Requests that a rule of the policy refused.");
    for (rule, denied) in Rule::ALL.iter().zip(&metrics.denied) {
        page.line(&format!("agent_mesh_denied_total{{rule=\"{}\"}}", rule.name()), read(denied));
    }
    page.head("agent_mesh_requests_total", "counter", "Requests, by protocol.");
    page.line("agent_mesh_requests_total{protocol=\"openclaw\"}", read(&metrics.requests));
    page.line("agent_mesh_requests_total{protocol=\"a2a\"}", read(&metrics.a2a_requests));
    page.head("agent_mesh_connects_total", "counter", "Handshakes, by result.");
    page.line("agent_mesh_connects_total{result=\"let-in\"}", read(&metrics.let_in));
    page.line("agent_mesh_connects_total{result=\"turned-away\"}", read(&metrics.turned_away));
    page.gauge("agent_mesh_connections", "Connections that are let in.", shared.sockets_let_in());
    page.gauge("agent_mesh_strangers", "Connections that are not, or not yet.", shared.strangers.total());
    page.gauge("agent_mesh_sessions", "Sessions that are remembered.", lock(&shared.sessions).count());
    page.gauge("agent_mesh_paused", "1 while no new messages are let in.", u8::from(shared.is_paused()));
    page.gauge("agent_mesh_uptime_seconds", "Since the start.", shared.started.elapsed().as_secs());
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, what: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{what} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Milliseconds as seconds, exactly.
fn seconds(ms: u64) -> String {
    match (ms / 1000, ms % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:03}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_up_to_each_bound() {
        let histogram = Histogram::default();
        for ms in [0, 5, 6, 1000, 700_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let mut page = Page(String::new());
        histogram.write(&mut page, "x", "Help.");
        assert!(
            page.0.starts_with("# HELP x Help.\n# TYPE x histogram\nx_bucket{le=\"0.005\"} 2\n"),
            "{}",
            page.0
        );
        for line in [
            "x_bucket{le=\"0.025\"} 3",
            "x_bucket{le=\"1\"} 4",
            "x_bucket{le=\"600\"} 4",
            "x_bucket{le=\"+Inf\"} 5",
            "x_sum 701.011",
            "x_count 5",
        ] {
            assert!(page.0.contains(&format!("{line}\n")), "{line}: {}", page.0);
        }
    }

    #[test]
    fn only_a_rule_of_the_policy_counts_as_denied() {
        let metrics = Metrics::default();
        assert_eq!(metrics.refused(&crate::denial::forbidden(Rule::Sessions)), Some("sessions"));
        assert_eq!(metrics.refused(&ErrorShape::invalid("x")), None);
        let denied: Vec<u64> = metrics.denied.iter().map(read).collect();
        assert_eq!(denied, [0, 0, 1, 0, 0, 0, 0]);
    }
}
