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
use crate::shares::{Share, Shares, Who};

/// Through which method a run was started. A key is known per method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `agent`.
    Agent,
    /// `chat.send`.
    Chat,
    /// A task of an A2A client.
    A2a,
}

/// A run, from its acceptance until it is forgotten. What it was told lives in its [`Job`], not here.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    pub(crate) session: String,
    /// Who started it. Its key is nobody else's.
    pub(crate) who: Who,
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
        who: Who,
        digest: [u8; 32],
        accepted_at: i64,
    ) -> Self {
        Self {
            id,
            origin,
            session,
            who,
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

    /// Whether the owner started it, who is counted by his device, or as nobody without one. No key of a peer has 64
    /// digits.
    pub(crate) fn is_owners(&self) -> bool {
        let is_device = |who: &str| who.len() == 64 && who.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.who.as_deref().is_none_or(is_device)
    }

    /// What its names take, roughly.
    fn size(&self) -> usize {
        // Once in the run, once as the key of the table.
        2 * self.id.len() + self.session.len()
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

impl Job {
    /// What it holds while it waits, beside what is the same for every job.
    fn size(&self) -> usize {
        self.message.len() + self.provenance.as_ref().map_or(0, provenance_size) + self.run.size()
    }
}

/// The bytes of a provenance.
pub(crate) fn provenance_size(provenance: &InputProvenance) -> usize {
    provenance_texts(provenance).map(str::len).sum()
}

/// The texts of a provenance.
pub(crate) fn provenance_texts(provenance: &InputProvenance) -> impl Iterator<Item = &str> {
    let InputProvenance { kind, source_session_key, source_channel, source_tool } = provenance;
    let optional = [source_session_key, source_channel, source_tool];
    optional.into_iter().flatten().chain([kind]).map(String::as_str)
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
    /// Oldest first.
    finished: VecDeque<Finished>,
    cached: Shares,
    queued: Shares,
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
    run: Arc<Run>,
    at: Instant,
    bytes: usize,
}

impl Runs {
    pub(crate) fn new(limits: &Limits, cache: Duration) -> Self {
        Self {
            table: HashMap::new(),
            lanes: HashMap::new(),
            finished: VecDeque::new(),
            cached: Shares::default(),
            queued: Shares::default(),
            draining: false,
            limits: limits.clone(),
            cache,
        }
    }

    /// Takes a run, unless its key is known.
    pub(crate) fn admit(&mut self, job: Job, now: Instant) -> Admission {
        if let Some(known) = self.known(&job.run, now) {
            return Admission::Known(known);
        }
        if self.draining {
            return Admission::Refused(restarting(job.run.origin));
        }
        if !self.has_room(&job) {
            return Admission::Refused(ErrorShape::unavailable(
                "too many runs are waiting",
                "queue-full",
                1000,
            ));
        }
        let starts_lane = !self.lanes.contains_key(&job.run.session);
        self.table.insert((job.run.origin, job.run.id.clone()), Arc::clone(&job.run));
        self.queued.add(&job.run.who, job.size());
        self.lanes.entry(job.run.session.clone()).or_default().queue.push_back(job);
        Admission::Queued { starts_lane }
    }

    /// The run that has this run's key already.
    pub(crate) fn known(&mut self, run: &Run, now: Instant) -> Option<Arc<Run>> {
        self.forget_old(now);
        self.table.get(&(run.origin, run.id.clone())).cloned()
    }

    /// Each waiting run costs some kilobytes whatever its message, so runs are counted as well as bytes; and nobody may
    /// fill the queue for the others.
    fn has_room(&self, job: &Job) -> bool {
        let limits = &self.limits;
        let fits = |share: Share, runs: usize, bytes: usize| {
            share.runs < runs && share.bytes.saturating_add(job.size()) <= bytes
        };
        let lane = self.lanes.get(&job.run.session);
        lane.is_none_or(|lane| lane.queue.len() < limits.queued_per_session)
            && fits(self.queued.total(), limits.queued_runs, limits.queued_bytes)
            && fits(
                self.queued.of(&job.run.who),
                limits.queued_runs_per_device,
                limits.queued_bytes_per_device,
            )
    }

    /// Who started the next run of a session, for its lane; none when nothing waits: the lane is over then.
    pub(crate) fn next_who(&mut self, session: &str) -> Option<Who> {
        let next = self.lanes.get(session).and_then(|lane| lane.queue.front());
        let who = next.map(|job| job.run.who.clone());
        if who.is_none() {
            self.lanes.remove(session);
        }
        who
    }

    /// The next run of a session, if it is still one of those who were asked about: an abort may have changed that.
    pub(crate) fn next(&mut self, session: &str, who: &Who) -> Option<Job> {
        let lane = self.lanes.get_mut(session)?;
        let job = lane.queue.pop_front_if(|job| job.run.who == *who)?;
        lane.current = Some(Arc::clone(&job.run));
        self.queued.remove(who, job.size());
        Some(job)
    }

    /// Remembers how a run ended, for those who ask again, and tells those who wait.
    pub(crate) fn finish(&mut self, run: &Arc<Run>, done: Arc<Done>, now: Instant) {
        let bytes = done.size() + run.size();
        self.finished.push_back(Finished { run: Arc::clone(run), at: now, bytes });
        self.cached.add(&run.who, bytes);
        if let Some(lane) = self.lanes.get_mut(&run.session)
            && lane.current.as_ref().is_some_and(|now| now.id == run.id && now.origin == run.origin)
        {
            lane.current = None;
        }
        run.done.send_replace(Some(done));
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        let life = self.cache;
        let is_over = |finished: &mut Finished| now.duration_since(finished.at) >= life;
        while let Some(old) = self.finished.pop_front_if(is_over) {
            self.forget(&old);
        }
        while let Some(old) = self.surplus().and_then(|index| self.finished.remove(index)) {
            self.forget(&old);
        }
    }

    /// What has to go because too much is remembered: the oldest of whoever has the most, so that nobody can make the
    /// results of others forgotten. The last one stays whatever its size: whoever lost its answer will ask for it.
    fn surplus(&self) -> Option<usize> {
        let total = self.cached.total();
        let most = if total.runs > self.limits.cached_runs {
            self.cached.largest(|share| share.runs)?
        } else if total.bytes > self.limits.cached_bytes && total.runs > 1 {
            self.cached.largest(|share| share.bytes)?
        } else {
            return None;
        };
        self.finished.iter().position(|finished| finished.run.who == *most)
    }

    fn forget(&mut self, old: &Finished) {
        self.cached.remove(&old.run.who, old.bytes);
        self.table.remove(&(old.run.origin, old.run.id.clone()));
    }

    /// A run by its id, whatever started it.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Run>> {
        let by = |origin| self.table.get(&(origin, id.to_owned())).cloned();
        [Origin::Agent, Origin::Chat, Origin::A2a].into_iter().find_map(by)
    }

    /// Takes runs out of a session that somebody wants to stop: the waiting ones are given back to be finished, the
    /// executing one is told. `wanted` none means all of them.
    pub(crate) fn abort(&mut self, session: &str, wanted: Option<&str>) -> (Vec<Job>, Option<String>) {
        let Some(lane) = self.lanes.get_mut(session) else { return (Vec::new(), None) };
        let is_wanted = |run: &Run| wanted.is_none_or(|id| id == run.id);
        let all = std::mem::take(&mut lane.queue);
        let (stopped, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|job| is_wanted(&job.run));
        lane.queue = kept.into();
        for job in &stopped {
            self.queued.remove(&job.run.who, job.size());
        }
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
        Origin::A2a => "SendMessage",
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
        job_of("alice", id, session)
    }

    fn job_of(who: &str, id: &str, session: &str) -> Job {
        let who = Some(who.to_owned());
        Job {
            run: Arc::new(Run::new(id.into(), Origin::Agent, session.into(), who, [0; 32], 0)),
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

    fn next(runs: &mut Runs, session: &str) -> Option<Job> {
        let who = runs.next_who(session)?;
        runs.next(session, &who)
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
        let first = next(&mut runs, "a").unwrap();
        assert_eq!(first.run.id, "1");
        assert_eq!(runs.of_session("a").1, ["2"]);
        finish(&mut runs, &first, now);
        assert!(runs.of_session("a").0.is_none());
        assert_eq!(next(&mut runs, "a").unwrap().run.id, "2");
        assert!(next(&mut runs, "a").is_none());
        assert!(starts(runs.admit(job("4", "a"), now)), "the lane was over");
    }

    #[test]
    fn a_known_key_is_not_run_again_until_it_is_forgotten() {
        let (mut runs, start) = (runs(&Limits::default()), Instant::now());
        runs.admit(job("1", "a"), start);
        assert!(matches!(runs.admit(job("1", "b"), start), Admission::Known(run) if run.done().is_none()));
        let first = next(&mut runs, "a").unwrap();
        finish(&mut runs, &first, start);
        let later = start + Duration::from_secs(299);
        assert!(matches!(runs.admit(job("1", "a"), later), Admission::Known(run) if run.done().is_some()));
        let late = start + Duration::from_secs(300);
        assert!(matches!(runs.admit(job("1", "a"), late), Admission::Queued { .. }));
    }

    #[test]
    fn what_is_remembered_and_what_waits_is_bounded() {
        let limits = Limits {
            cached_runs: 2,
            queued_per_session: 2,
            queued_bytes: 3 * ("hello".len() + 3),
            ..Limits::default()
        };
        let (mut runs, now) = (runs(&limits), Instant::now());
        for id in ["1", "2", "3"] {
            runs.admit(job(id, id), now);
            let done = next(&mut runs, id).unwrap();
            finish(&mut runs, &done, now);
        }
        assert!(runs.find("1").is_none() && runs.find("2").is_some() && runs.find("3").is_some());

        let refused =
            |admission| matches!(admission, Admission::Refused(error) if error.code == "UNAVAILABLE");
        runs.admit(job("4", "a"), now);
        runs.admit(job("5", "a"), now);
        assert!(refused(runs.admit(job("6", "a"), now)), "two wait in the session already");
        runs.admit(job("7", "b"), now);
        assert!(refused(runs.admit(job("8", "c"), now)), "three jobs fill the bytes");
    }

    /// 30,000 runs of one byte in 30,000 sessions were taken, at 7 KB each, when only bytes were counted.
    #[test]
    fn waiting_runs_are_counted_whatever_their_size_and_leave_room_for_others() {
        let limits = Limits { queued_runs: 3, queued_runs_per_device: 2, ..Limits::default() };
        let (mut runs, now) = (runs(&limits), Instant::now());
        let mut admit = |who: &str, id: &str| match runs.admit(job_of(who, id, id), now) {
            Admission::Refused(error) => Some((error.code, error.retryable)),
            _ => None,
        };
        let full = Some(("UNAVAILABLE".to_owned(), Some(true)));
        assert_eq!(["1", "2", "3"].map(|id| admit("alice", id)), [None, None, full.clone()]);
        assert_eq!(["4", "5"].map(|id| admit("bob", id)), [None, full]);
        next(&mut runs, "1").unwrap();
        assert!(matches!(runs.admit(job_of("bob", "5", "5"), now), Admission::Queued { .. }));
    }

    #[test]
    fn a_provenance_counts_as_waiting_bytes() {
        let limits = Limits { queued_bytes_per_device: 100, ..Limits::default() };
        let mut job = job("1", "a");
        job.provenance = Some(InputProvenance { kind: "x".repeat(100), ..InputProvenance::default() });
        assert!(matches!(runs(&limits).admit(job, Instant::now()), Admission::Refused(_)));
    }

    #[test]
    fn the_results_of_whoever_has_the_most_go_first() {
        let limits = Limits { cached_runs: 3, ..Limits::default() };
        let (mut runs, now) = (runs(&limits), Instant::now());
        for (who, id) in [("alice", "1"), ("bob", "2"), ("bob", "3"), ("bob", "4"), ("bob", "5")] {
            runs.admit(job_of(who, id, id), now);
            let done = next(&mut runs, id).unwrap();
            finish(&mut runs, &done, now);
        }
        let kept: Vec<_> =
            ["1", "2", "3", "4", "5"].into_iter().filter(|id| runs.find(id).is_some()).collect();
        assert_eq!(kept, ["1", "4", "5"]);
    }

    #[test]
    fn a_result_larger_than_the_cache_is_remembered_until_the_next() {
        let limits = Limits { cached_bytes: 10, ..Limits::default() };
        let (mut runs, now) = (runs(&limits), Instant::now());
        for id in ["1", "2"] {
            runs.admit(job(id, id), now);
            let done = next(&mut runs, id).unwrap();
            finish(&mut runs, &done, now);
            assert!(runs.find(id).is_some());
        }
        assert!(runs.find("1").is_none());
    }

    #[test]
    fn an_abort_takes_waiting_runs_out_and_tells_the_executing_one() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        for id in ["1", "2", "3"] {
            runs.admit(job(id, "a"), now);
        }
        let first = next(&mut runs, "a").unwrap();
        let (stopped, current) = runs.abort("a", Some("3"));
        assert_eq!((stopped.len(), current), (1, None));
        assert!(!first.run.abort.is_cancelled());
        let (stopped, current) = runs.abort("a", None);
        assert_eq!((stopped[0].run.id.as_str(), current.as_deref()), ("2", Some("1")));
        assert!(first.run.abort.is_cancelled() && runs.queued.total() == Share::default());
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
