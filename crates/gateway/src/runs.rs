//! The table of runs: which are known, which wait, which execute. No IO; `lane` does the work.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::methods::agent::InputProvenance;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Sender;
use crate::config::Limits;
use crate::outbox::Outbox;
use crate::outcome::Done;

/// Through which method a run was started. A key is known per method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Agent,
    Chat,
}

/// A run, from its acceptance until it is forgotten. What it was told lives in its [`Job`], not here.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    pub(crate) session: String,
    /// The hash of its message.
    pub(crate) digest: [u8; 32],
    pub(crate) accepted_at: i64,
    /// Somebody wants it to stop.
    pub(crate) abort: CancellationToken,
    done: watch::Sender<Option<Arc<Done>>>,
    events: AtomicU64,
}

impl Run {
    pub(crate) fn new(
        id: String,
        origin: Origin,
        session: String,
        digest: [u8; 32],
        accepted_at: i64,
    ) -> Self {
        Self {
            id,
            origin,
            session,
            digest,
            accepted_at,
            abort: CancellationToken::new(),
            done: watch::Sender::new(None),
            events: AtomicU64::new(0),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn done(&self) -> Option<Arc<Done>> {
        self.done.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Option<Arc<Done>> {
        let mut done = self.done.subscribe();
        done.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
    }

    /// A number for the next event of this run.
    pub(crate) fn next_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A run that waits for its turn, with all that is needed to execute it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: Arc<Run>,
    pub(crate) message: String,
    pub(crate) provenance: Option<InputProvenance>,
    pub(crate) sender: Sender,
    /// The client as it stands in the history.
    pub(crate) client: Value,
    /// The caller's own limit.
    pub(crate) timeout: Option<Duration>,
    /// Who gets the second answer, under which request id.
    pub(crate) reply_to: Option<(Arc<Outbox>, String)>,
}

/// What became of a request to run.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It waits. With the flag: its session had no lane, start one.
    Queued { starts_lane: bool },
    /// Its key is known already.
    Known(Arc<Run>),
    /// It cannot be taken.
    Refused(ErrorShape),
}

/// All runs.
#[derive(Debug)]
pub(crate) struct Runs {
    table: HashMap<(Origin, String), Arc<Run>>,
    lanes: HashMap<String, Lane>,
    finished: VecDeque<Finished>,
    finished_bytes: usize,
    queued_bytes: usize,
    draining: bool,
    limits: Limits,
    cache: Duration,
}

/// The runs of one session that are not over.
#[derive(Debug, Default)]
struct Lane {
    current: Option<Arc<Run>>,
    queue: VecDeque<Job>,
}

#[derive(Debug)]
struct Finished {
    key: (Origin, String),
    at: Instant,
    bytes: usize,
}

impl Runs {
    pub(crate) fn new(limits: &Limits, cache: Duration) -> Self {
        Self {
            table: HashMap::new(),
            lanes: HashMap::new(),
            finished: VecDeque::new(),
            finished_bytes: 0,
            queued_bytes: 0,
            draining: false,
            limits: limits.clone(),
            cache,
        }
    }

    /// Takes a run, unless its key is known.
    pub(crate) fn admit(&mut self, job: Job, now: Instant) -> Admission {
        self.forget_old(now);
        let key = (job.run.origin, job.run.id.clone());
        if let Some(known) = self.table.get(&key) {
            return Admission::Known(Arc::clone(known));
        }
        if self.draining {
            return Admission::Refused(restarting(job.run.origin));
        }
        let lane = self.lanes.get(&job.run.session);
        let waiting = lane.map_or(0, |lane| lane.queue.len());
        if waiting >= self.limits.queued_per_session
            || self.queued_bytes + job.message.len() > self.limits.queued_bytes
        {
            return Admission::Refused(ErrorShape::unavailable(
                "too many runs are waiting",
                "queue-full",
                1000,
            ));
        }
        let starts_lane = lane.is_none();
        self.table.insert(key, Arc::clone(&job.run));
        self.queued_bytes += job.message.len();
        self.lanes.entry(job.run.session.clone()).or_default().queue.push_back(job);
        Admission::Queued { starts_lane }
    }

    /// The next run of a session, for its lane; none (and no lane) when nothing waits.
    pub(crate) fn next(&mut self, session: &str) -> Option<Job> {
        let lane = self.lanes.get_mut(session)?;
        let Some(job) = lane.queue.pop_front() else {
            self.lanes.remove(session);
            return None;
        };
        lane.current = Some(Arc::clone(&job.run));
        self.queued_bytes -= job.message.len();
        Some(job)
    }

    /// Whether a session's lane has anything left; if not, it is over.
    pub(crate) fn has_next(&mut self, session: &str) -> bool {
        let left = self.lanes.get(session).is_some_and(|lane| !lane.queue.is_empty());
        if !left {
            self.lanes.remove(session);
        }
        left
    }

    /// Remembers how a run ended, for those who ask again, and tells those who wait.
    pub(crate) fn finish(&mut self, run: &Run, done: Arc<Done>, now: Instant) {
        let bytes = done.size();
        self.finished.push_back(Finished { key: (run.origin, run.id.clone()), at: now, bytes });
        self.finished_bytes += bytes;
        if let Some(lane) = self.lanes.get_mut(&run.session)
            && lane.current.as_ref().is_some_and(|now| now.id == run.id && now.origin == run.origin)
        {
            lane.current = None;
        }
        run.done.send_replace(Some(done));
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.finished.front() {
            let keep = now.duration_since(oldest.at) < self.cache
                && self.finished.len() <= self.limits.cached_runs
                && self.finished_bytes <= self.limits.cached_bytes;
            if keep {
                return;
            }
            self.finished_bytes -= oldest.bytes;
            self.table.remove(&oldest.key);
            self.finished.pop_front();
        }
    }

    /// A run by its id, whatever started it.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Run>> {
        let by = |origin| self.table.get(&(origin, id.to_owned())).cloned();
        by(Origin::Agent).or_else(|| by(Origin::Chat))
    }

    /// Takes runs out of a session that somebody wants to stop: the waiting ones are given back to be finished, the
    /// executing one is told. `wanted` none means all of them.
    pub(crate) fn abort(&mut self, session: &str, wanted: Option<&str>) -> (Vec<Job>, Option<String>) {
        let Some(lane) = self.lanes.get_mut(session) else { return (Vec::new(), None) };
        let is_wanted = |run: &Run| wanted.is_none_or(|id| id == run.id);
        let all = std::mem::take(&mut lane.queue);
        let (stopped, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|job| is_wanted(&job.run));
        lane.queue = kept.into();
        self.queued_bytes -= stopped.iter().map(|job| job.message.len()).sum::<usize>();
        let current = lane.current.as_ref().filter(|run| is_wanted(run));
        if let Some(run) = current {
            run.abort.cancel();
        }
        (stopped, current.map(|run| run.id.clone()))
    }

    /// The executing run of a session, and the waiting ones.
    pub(crate) fn of_session(&self, session: &str) -> (Option<Arc<Run>>, Vec<String>) {
        let Some(lane) = self.lanes.get(session) else { return (None, Vec::new()) };
        (lane.current.clone(), lane.queue.iter().map(|job| job.run.id.clone()).collect())
    }

    /// Takes no new run from now on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// The sessions with runs that are not over.
    pub(crate) fn busy_sessions(&self) -> Vec<String> {
        self.lanes.keys().cloned().collect()
    }
}

fn restarting(origin: Origin) -> ErrorShape {
    let method = match origin {
        Origin::Agent => "agent",
        Origin::Chat => "chat.send",
    };
    let message = format!("{method} unavailable during gateway restart");
    ErrorShape::unavailable(&message, "gateway-restarting", 1000).with_details(json!({
        "method": method, "reason": "gateway-restarting", "phase": "accepting",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    fn job(id: &str, session: &str) -> Job {
        Job {
            run: Arc::new(Run::new(id.into(), Origin::Agent, session.into(), [0; 32], 0)),
            message: "hello".into(),
            provenance: None,
            sender: Sender::default(),
            client: Value::Null,
            timeout: None,
            reply_to: None,
        }
    }

    fn runs(limits: &Limits) -> Runs {
        Runs::new(limits, Duration::from_secs(300))
    }

    fn finish(runs: &mut Runs, job: &Job, at: Instant) {
        let done = Done::new(&job.run.id, &Outcome::Reply("r".into()), 0, 0);
        runs.finish(&job.run, Arc::new(done), at);
    }

    #[test]
    fn one_lane_a_session_in_order() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        let starts = |admission| matches!(admission, Admission::Queued { starts_lane: true });
        assert!(starts(runs.admit(job("1", "a"), now)));
        assert!(!starts(runs.admit(job("2", "a"), now)));
        assert!(starts(runs.admit(job("3", "b"), now)));
        let first = runs.next("a").unwrap();
        assert_eq!(first.run.id, "1");
        assert_eq!(runs.of_session("a").1, ["2"]);
        finish(&mut runs, &first, now);
        assert!(runs.of_session("a").0.is_none());
        assert_eq!(runs.next("a").unwrap().run.id, "2");
        assert!(runs.next("a").is_none());
        assert!(starts(runs.admit(job("4", "a"), now)), "the lane was over");
    }

    #[test]
    fn a_known_key_is_not_run_again_until_it_is_forgotten() {
        let (mut runs, start) = (runs(&Limits::default()), Instant::now());
        runs.admit(job("1", "a"), start);
        assert!(matches!(runs.admit(job("1", "b"), start), Admission::Known(run) if run.done().is_none()));
        let first = runs.next("a").unwrap();
        finish(&mut runs, &first, start);
        let later = start + Duration::from_secs(299);
        assert!(matches!(runs.admit(job("1", "a"), later), Admission::Known(run) if run.done().is_some()));
        let late = start + Duration::from_secs(300);
        assert!(matches!(runs.admit(job("1", "a"), late), Admission::Queued { .. }));
    }

    #[test]
    fn what_is_remembered_and_what_waits_is_bounded() {
        let limits = Limits { cached_runs: 2, queued_per_session: 2, queued_bytes: 15, ..Limits::default() };
        let (mut runs, now) = (runs(&limits), Instant::now());
        for id in ["1", "2", "3"] {
            runs.admit(job(id, id), now);
            let done = runs.next(id).unwrap();
            finish(&mut runs, &done, now);
        }
        assert!(runs.find("1").is_none() && runs.find("2").is_some() && runs.find("3").is_some());

        let refused =
            |admission| matches!(admission, Admission::Refused(error) if error.code == "UNAVAILABLE");
        runs.admit(job("4", "a"), now);
        runs.admit(job("5", "a"), now);
        assert!(refused(runs.admit(job("6", "a"), now)), "two wait in the session already");
        runs.admit(job("7", "b"), now);
        assert!(refused(runs.admit(job("8", "c"), now)), "fifteen bytes wait already");
    }

    #[test]
    fn an_abort_takes_waiting_runs_out_and_tells_the_executing_one() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        for id in ["1", "2", "3"] {
            runs.admit(job(id, "a"), now);
        }
        let first = runs.next("a").unwrap();
        let (stopped, current) = runs.abort("a", Some("3"));
        assert_eq!((stopped.len(), current), (1, None));
        assert!(!first.run.abort.is_cancelled());
        let (stopped, current) = runs.abort("a", None);
        assert_eq!((stopped[0].run.id.as_str(), current.as_deref()), ("2", Some("1")));
        assert!(first.run.abort.is_cancelled() && runs.queued_bytes == 0);
    }

    #[test]
    fn a_draining_gateway_takes_no_new_run_but_knows_the_old_ones() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        runs.admit(job("1", "a"), now);
        runs.drain();
        assert!(matches!(runs.admit(job("1", "a"), now), Admission::Known(_)));
        let Admission::Refused(error) = runs.admit(job("2", "a"), now) else { panic!("taken") };
        assert_eq!(error.details.unwrap()["reason"], "gateway-restarting");
    }
}
