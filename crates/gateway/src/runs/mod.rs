//! The table of runs: which are known, which wait, which execute. No IO; `lane` does the work.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use serde_json::json;
use tokio::time::Instant;

use crate::config::Limits;
use crate::outcome::Done;
use crate::shares::{Share, Shares, Who};

mod held;
mod job;

pub(crate) use held::HeldRun;
pub use job::Origin;
pub(crate) use job::{Job, Run, Stage, provenance_size, provenance_texts};

/// By what a run is found: the peer that it is of, the method that started it, its key.
type Place = (Option<String>, Origin, String);

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

/// How many runs are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) queued: usize,
    pub(crate) running: usize,
    pub(crate) held: usize,
}

/// All runs.
#[derive(Debug)]
pub(crate) struct Runs {
    table: HashMap<Place, Arc<Run>>,
    lanes: HashMap<String, Lane>,
    /// Those that wait for the owner's word, oldest first.
    held: Vec<HeldRun>,
    /// How many were held so far.
    arrivals: u64,
    /// Runs that wait in a lane or execute.
    active: Shares,
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
            held: Vec::new(),
            arrivals: 0,
            active: Shares::default(),
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
        if let Err(error) = self.make_known(&job) {
            return Admission::Refused(error);
        }
        Admission::Queued { starts_lane: self.enqueue(job) }
    }

    /// From now on its key is known and it counts as one that waits; unless there is no room.
    fn make_known(&mut self, job: &Job) -> Result<(), ErrorShape> {
        if self.draining {
            return Err(restarting(job.run.origin));
        }
        if !self.has_room(job) {
            return Err(ErrorShape::unavailable("too many runs are waiting", "queue-full", 1000));
        }
        self.table.insert(job.run.place(), Arc::clone(&job.run));
        self.queued.add(&job.run.who, job.size());
        Ok(())
    }

    /// Puts it at the end of its session's lane; says whether there was none.
    fn enqueue(&mut self, job: Job) -> bool {
        let starts_lane = !self.lanes.contains_key(&job.run.session);
        self.active.add(&job.run.who, 0);
        self.lanes.entry(job.run.session.clone()).or_default().queue.push_back(job);
        starts_lane
    }

    /// Whether nothing executes or waits in a session.
    pub(crate) fn is_idle(&self, session: &str) -> bool {
        !self.lanes.contains_key(session)
    }

    /// How many are not over.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            queued: self.lanes.values().map(|lane| lane.queue.len()).sum(),
            running: self.lanes.values().filter(|lane| lane.current.is_some()).count(),
            held: self.held.len(),
        }
    }

    /// How many runs of somebody wait in a lane or execute.
    pub(crate) fn active(&self, who: &Who) -> usize {
        self.active.of(who).runs
    }

    /// The run that has this run's key already.
    pub(crate) fn known(&mut self, run: &Run, now: Instant) -> Option<Arc<Run>> {
        self.forget_old(now);
        self.table.get(&run.place()).cloned()
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
            && lane.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, run))
        {
            lane.current = None;
            self.active.remove(&run.who, 0);
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
        self.table.remove(&old.run.place());
    }

    /// A run by its id, whatever method started it. A peer finds his own; the owner his before those of others.
    pub(crate) fn find(&self, id: &str, by: &Who) -> Option<Arc<Run>> {
        let whose = by.peer().map(str::to_owned);
        let of = |origin| self.table.get(&(whose.clone(), origin, id.to_owned())).cloned();
        let others = || self.table.values().find(|run| by.peer().is_none() && run.id == id).cloned();
        of(Origin::Agent).or_else(|| of(Origin::Chat)).or_else(others)
    }

    /// Takes runs out of a session that somebody wants to stop: the waiting ones are given back to be finished, the
    /// executing one is told.
    pub(crate) fn abort(
        &mut self,
        session: &str,
        is_wanted: impl Fn(&Run) -> bool,
    ) -> (Vec<Job>, Option<String>) {
        let Some(lane) = self.lanes.get_mut(session) else { return (Vec::new(), None) };
        let all = std::mem::take(&mut lane.queue);
        let (stopped, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|job| is_wanted(&job.run));
        lane.queue = kept.into();
        let current = lane.current.clone().filter(|run| is_wanted(run));
        stopped.iter().for_each(|job| self.waits_no_more(job));
        if let Some(run) = &current {
            run.abort.cancel();
        }
        (stopped, current.map(|run| run.id.clone()))
    }

    /// Counts a job no more that was taken out of its lane's queue.
    fn waits_no_more(&mut self, job: &Job) {
        self.queued.remove(&job.run.who, job.size());
        self.active.remove(&job.run.who, 0);
    }

    /// Takes a run out that waits in its lane, to be finished.
    pub(crate) fn withdraw(&mut self, run: &Arc<Run>) -> Option<Job> {
        let lane = self.lanes.get_mut(&run.session)?;
        let place = lane.queue.iter().position(|job| Arc::ptr_eq(&job.run, run))?;
        let job = lane.queue.remove(place)?;
        self.waits_no_more(&job);
        Some(job)
    }

    /// The executing run of a session, and the waiting ones: those that are held after the others.
    pub(crate) fn of_session(&self, session: &str) -> (Option<Arc<Run>>, Vec<(String, bool)>) {
        let lane = self.lanes.get(session);
        let queued = lane.into_iter().flat_map(|lane| &lane.queue).map(|job| (job.run.id.clone(), false));
        let held = self.held.iter().filter(|held| held.job.run.session == session);
        let waiting = queued.chain(held.map(|held| (held.job.run.id.clone(), true))).collect();
        (lane.and_then(|lane| lane.current.clone()), waiting)
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
    use openclaw_protocol::methods::agent::InputProvenance;

    use super::*;
    use crate::agent::Sender;
    use crate::outcome::Outcome;
    use crate::taking::Keeping;

    fn job(id: &str, session: &str) -> Job {
        job_of("alice", id, session)
    }

    fn job_of(who: &str, id: &str, session: &str) -> Job {
        let who = Who::Owner(Some(who.to_owned()));
        Job {
            run: Arc::new(Run::new(id.into(), Origin::Agent, session.into(), who, [0; 32], 0)),
            message: "hello".into(),
            provenance: None,
            sender: Sender::default(),
            client: Arc::default(),
            timeout: None,
            reply_to: None,
            kept: Keeping::default(),
            earlier: None,
            stage: Stage::Waits,
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
        let done = Done::new(&job.run.id, Outcome::Reply("r".into()), 0, 0);
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
        assert_eq!(runs.of_session("a").1, [("2".to_owned(), false)]);
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
        let find = |id| runs.find(id, &Who::Owner(None));
        assert!(find("1").is_none() && find("2").is_some() && find("3").is_some());

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
        let kept: Vec<_> = ["1", "2", "3", "4", "5"]
            .into_iter()
            .filter(|id| runs.find(id, &Who::Owner(None)).is_some())
            .collect();
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
            assert!(runs.find(id, &Who::Owner(None)).is_some());
        }
        assert!(runs.find("1", &Who::Owner(None)).is_none());
    }

    #[test]
    fn an_abort_takes_waiting_runs_out_and_tells_the_executing_one() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        for id in ["1", "2", "3"] {
            runs.admit(job(id, "a"), now);
        }
        let first = next(&mut runs, "a").unwrap();
        let (stopped, current) = runs.abort("a", |run| run.id == "3");
        assert_eq!((stopped.len(), current), (1, None));
        assert!(!first.run.abort.is_cancelled());
        let (stopped, current) = runs.abort("a", |_| true);
        assert_eq!((stopped[0].run.id.as_str(), current.as_deref()), ("2", Some("1")));
        assert!(first.run.abort.is_cancelled() && runs.queued.total() == Share::default());
    }

    #[test]
    fn a_key_of_one_peer_is_none_of_anothers() {
        let (mut runs, now) = (runs(&Limits::default()), Instant::now());
        let of = |peer: &str| {
            let mut job = job("1", peer);
            let who = Who::Peer(peer.to_owned());
            job.run = Arc::new(Run::new("1".into(), Origin::Agent, peer.into(), who, [0; 32], 0));
            job
        };
        for peer in ["alice", "bob"] {
            assert!(matches!(runs.admit(of(peer), now), Admission::Queued { .. }), "{peer}");
            assert_eq!(runs.active(&Who::Peer(peer.into())), 1);
        }
        let session = |who| runs.find("1", &who).map(|run| run.session.clone());
        assert_eq!(session(Who::Peer("alice".into())).as_deref(), Some("alice"));
        assert_eq!(session(Who::Peer("bob".into())).as_deref(), Some("bob"));
        assert_eq!(session(Who::Peer("carol".into())), None);
        assert!(session(Who::Owner(None)).is_some(), "the owner sees all");
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
