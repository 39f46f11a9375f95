//! Executes the runs of one session, one after the other.

use std::sync::Arc;

use openclaw_protocol::event::{ChatEvent, ChatMessage, ChatState};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{AgentFailure, Deltas, Turn};
use crate::config::FailedRun;
use crate::keys::AGENT_ID;
use crate::memory::Past;
use crate::metrics;
use crate::outbox::Outbox;
use crate::outcome::{Done, Outcome};
use crate::runs::{Job, Origin, Run, Stage};
use crate::sessions::NewRow;
use crate::shared::{Shared, lock, now_ms};
use crate::slots::Slot;

pub(crate) const TIMED_OUT: &str = "the run timed out";

/// Executes until nothing waits in this session any more.
pub(crate) async fn work(shared: Arc<Shared>, session: String, mut slot: Option<Slot>) {
    loop {
        // Not in the head of a `while let`: the lock would be held through its body.
        let next = lock(&shared.runs).next_who(&session);
        let Some(who) = next else { return };
        let taken = slot.take().filter(|slot| slot.is_of(&who));
        let _slot = match taken {
            Some(slot) => slot,
            None => match shared.slots.take(&who).await {
                Some(slot) => slot,
                None => return,
            },
        };
        let job = lock(&shared.runs).next(&session, &who);
        if let Some(job) = job {
            execute(&shared, job).await;
        }
    }
}

async fn execute(shared: &Arc<Shared>, mut job: Job) {
    job.kept.done(shared).await;
    if let Some(past) = job.kept.known() {
        return repeat_past(shared, &job, past);
    }
    if job.stage == Stage::Waits
        && let Some(name) = job.kept.name()
        && let Err(error) = shared.config.ledger.began(name).await
    {
        tracing::error!(%error, run = job.run.id, "that a run begins could not be written down");
        return finish(shared, job, &Outcome::Failed("the run could not be written down".to_owned()));
    }
    let message = std::mem::take(&mut job.message);
    show(shared, &mut job, &message);
    note(shared, &job, &message);
    let member = job.sender.principal.peer();
    let turn = Turn {
        run_id: job.run.id.clone(),
        origin: job.run.origin,
        session_key: job.run.session.clone(),
        message,
        provenance: job.provenance.take(),
        permission_mode: member.map(|member| shared.access().rules(member).permission_mode.clone()),
        from: job.sender.clone(),
        cancel: CancellationToken::new(),
    };
    let (outcome, aside) = ask(shared, &job, turn).await;
    tell_failure(shared, &job, &outcome, aside);
    finish(shared, job, &outcome);
}

/// Answers a run that only the ledger knew with what became of it then.
pub(crate) fn repeat_past(shared: &Shared, job: &Job, past: &Past) {
    let run = &job.run;
    tracing::info!(run = run.id, session = run.session, from = past.from, "a run was over before");
    let done = Arc::new(past.done());
    lock(&shared.runs).finish(run, Arc::clone(&done), Instant::now());
    answer(job.reply_to.as_ref(), &done);
}

/// In its session, unless it stands there from before a restart.
fn show(shared: &Arc<Shared>, job: &mut Job, message: &str) {
    let row = NewRow::User {
        text: message.to_owned(),
        provenance: job.provenance.clone(),
        client: Some(Arc::clone(&job.client)),
        origin: job.run.origin,
        who: job.run.who.clone(),
    };
    let is_there =
        matches!(job.stage, Stage::Began(_)) && lock(&shared.sessions).past(&job.run, message).is_some();
    if !is_there {
        lock(&shared.sessions).append(&job.run.session, &job.run.id, row, now_ms());
    }
    if job.run.origin == Origin::Chat {
        tell(shared, &job.run, |event| event.phase = Some("starting_model".to_owned()), ChatState::Status);
    }
}

/// In the metrics and the log.
fn note(shared: &Shared, job: &Job, message: &str) {
    let run = &job.run;
    let waited = now_ms().saturating_sub(run.accepted_at);
    shared.metrics.began(span(waited));
    let text = shared.config.log_text.then_some(message).map(tracing::field::debug);
    tracing::info!(
        run = run.id,
        session = run.session,
        from = job.sender.principal.key(),
        waited_ms = waited,
        bytes = message.len(),
        text,
        "a run begins"
    );
}

fn tell_failure(shared: &Shared, job: &Job, outcome: &Outcome, aside: Option<String>) {
    let why = match outcome {
        Outcome::Failed(why) => why.as_str(),
        Outcome::TimedOut => TIMED_OUT,
        Outcome::Reply(_) | Outcome::Silence | Outcome::Aborted => return,
    };
    if let Some(hear) = &shared.config.on_failure {
        let from = job.sender.principal.key().to_owned();
        hear(FailedRun { from, run_id: job.run.id.clone(), why: why.to_owned(), aside });
    }
}

/// Asks the agent and waits for the first of: its reply, the run's own limit, an abort, the gateway's end. Gives also what
/// it said for the owner alone.
async fn ask(shared: &Arc<Shared>, job: &Job, turn: Turn) -> (Outcome, Option<String>) {
    let timing = &shared.config.timing;
    let deadline = Instant::now() + job.timeout.unwrap_or(timing.run);
    let cancel = turn.cancel.clone();
    let (deltas, mut pieces) = Deltas::channel();
    let (agent, stage) = (Arc::clone(&shared.config.agent), job.stage);
    let answer = async move {
        match stage {
            Stage::Began(at) => agent.resume(turn, at, deltas).await,
            Stage::Waits | Stage::Begins => agent.reply(turn, deltas).await,
        }
    };
    // In a task of its own: an agent that panics fails its run, not the session.
    let mut task = AbortOnDropHandle::new(shared.tasks.spawn(answer));
    let mut progress = Progress::new(shared, &job.run);
    let outcome = tokio::select! {
        ended = progress.follow(&mut pieces, &mut task) => return ended,
        () = sleep_until(deadline) => Outcome::TimedOut,
        () = job.run.abort.cancelled() => Outcome::Aborted,
        () = shared.stop.cancelled() => Outcome::Aborted,
    };
    cancel.cancel();
    // Dropping the task afterwards ends an agent that does not listen.
    let _ = timeout(timing.abort, &mut task).await;
    (outcome, None)
}

fn judge(
    shared: &Shared,
    result: Result<Result<String, AgentFailure>, JoinError>,
) -> (Outcome, Option<String>) {
    let outcome = match result {
        Ok(Err(AgentFailure::Explained { why, aside })) => return (Outcome::Failed(why), Some(aside)),
        Ok(Ok(reply)) if reply.len() > shared.config.limits.reply_bytes => {
            Outcome::Failed(format!("the reply is larger than {} bytes", shared.config.limits.reply_bytes))
        }
        Ok(Ok(reply)) if reply.trim().is_empty() => Outcome::Silence,
        Ok(Ok(reply)) => Outcome::Reply(reply),
        Ok(Err(AgentFailure::TimedOut)) => Outcome::TimedOut,
        Ok(Err(AgentFailure::Cancelled)) => Outcome::Aborted,
        Ok(Err(AgentFailure::Failed(why))) => Outcome::Failed(why),
        Err(error) => {
            tracing::error!(%error, "the agent panicked");
            Outcome::Failed("the agent crashed".to_owned())
        }
    };
    (outcome, None)
}

/// The pieces of a reply on their way to those who watch.
struct Progress<'a> {
    shared: &'a Arc<Shared>,
    run: &'a Run,
    text: String,
    /// So much of the text was told.
    told: usize,
    next: Instant,
}

impl<'a> Progress<'a> {
    fn new(shared: &'a Arc<Shared>, run: &'a Run) -> Self {
        Self { shared, run, text: String::new(), told: 0, next: Instant::now() }
    }

    /// Passes pieces on until the agent is done.
    async fn follow(
        &mut self,
        pieces: &mut mpsc::Receiver<String>,
        task: &mut AbortOnDropHandle<Result<String, AgentFailure>>,
    ) -> (Outcome, Option<String>) {
        let result = loop {
            let waits = self.told < self.text.len();
            tokio::select! {
                biased;
                Some(piece) = pieces.recv() => self.take(&piece),
                result = &mut *task => break result,
                () = sleep_until(self.next), if waits => self.tell(),
            }
        };
        while let Ok(piece) = pieces.try_recv() {
            self.take(&piece);
        }
        self.tell();
        judge(self.shared, result)
    }

    fn take(&mut self, piece: &str) {
        // What is too large for a reply is not collected either.
        if self.text.len() + piece.len() <= self.shared.config.limits.reply_bytes {
            self.text.push_str(piece);
        }
        // Several pieces in one event: each event carries the whole text so far.
        if Instant::now() >= self.next {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if self.told == self.text.len() {
            return;
        }
        self.next = Instant::now() + self.shared.config.timing.delta;
        let (new, whole) = (&self.text[self.told..], &self.text);
        let fill = |event: &mut ChatEvent| {
            event.delta_text = Some(new.to_owned());
            event.message = Some(assistant(whole));
        };
        tell(self.shared, self.run, fill, ChatState::Delta);
        self.told = self.text.len();
    }
}

/// Milliseconds between two moments of the wall clock, which may have been set back in between.
fn span(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Stops a run that waits: now, or as soon as its sender knows that it was taken.
pub(crate) fn stop_waiting(shared: &Arc<Shared>, mut job: Job) {
    if job.kept.is_done() {
        return stop(shared, job);
    }
    let shared = Arc::clone(shared);
    shared.tasks.clone().spawn(async move {
        job.kept.done(&shared).await;
        stop(&shared, job);
    });
}

fn stop(shared: &Shared, job: Job) {
    match job.kept.known() {
        Some(past) => repeat_past(shared, &job, past),
        None => finish(shared, job, &Outcome::Aborted),
    }
}

/// Writes down how a run ended. Its sender need not wait for our disk.
fn write_down(shared: &Shared, job: &Job, outcome: &Outcome) {
    let Some(name) = job.kept.name() else { return };
    let written = shared.config.ledger.ended(name, outcome.into());
    let run = job.run.id.clone();
    shared.tasks.spawn(async move {
        if let Err(error) = written.await {
            tracing::warn!(%error, run, "the end of a run could not be written down");
        }
    });
}

/// Closes a run: ledger, history, second answer, events, memory.
pub(crate) fn finish(shared: &Shared, job: Job, outcome: &Outcome) {
    write_down(shared, &job, outcome);
    let Job { run, reply_to, sender, .. } = job;
    let ended_at = now_ms();
    if let Outcome::Reply(text) = outcome {
        let row = NewRow::Assistant { text: text.clone() };
        lock(&shared.sessions).append(&run.session, &run.id, row, ended_at);
    }
    let took = ended_at - run.accepted_at;
    shared.metrics.ended(outcome, span(took));
    let reply = if let Outcome::Reply(text) = outcome { text } else { "" };
    let text = shared.config.log_text.then_some(reply).map(tracing::field::debug);
    let outcome_name = metrics::name(outcome);
    tracing::info!(
        run = run.id,
        session = run.session,
        from = sender.principal.key(),
        outcome = outcome_name,
        took_ms = took,
        bytes = reply.len(),
        text,
        "a run is over"
    );
    let done = Arc::new(Done::new(&run.id, outcome.clone(), took, ended_at));
    lock(&shared.runs).finish(&run, Arc::clone(&done), Instant::now());
    answer(reply_to.as_ref(), &done);
    match outcome {
        Outcome::Reply(text) => {
            let fill = |event: &mut ChatEvent| {
                event.stop_reason = Some("stop".to_owned());
                event.message = Some(assistant(text));
            };
            tell(shared, &run, fill, ChatState::Final);
        }
        Outcome::Silence => tell(shared, &run, no_more, ChatState::Final),
        Outcome::Failed(why) => failed(shared, &run, why),
        Outcome::TimedOut => failed(shared, &run, TIMED_OUT),
        Outcome::Aborted => {
            let fill = |event: &mut ChatEvent| event.stop_reason = Some("rpc".to_owned());
            tell(shared, &run, fill, ChatState::Aborted);
        }
    }
}

/// The second answer.
fn answer(reply_to: Option<&(Arc<Outbox>, String)>, done: &Done) {
    if let Some((outbox, request)) = reply_to
        && let Ok(text) = done.answer(request)
    {
        outbox.answer(text);
    }
}

fn no_more(_: &mut ChatEvent) {}

fn failed(shared: &Shared, run: &Run, why: &str) {
    tell(shared, run, |event| event.error_message = Some(why.to_owned()), ChatState::Error);
}

/// Tells those who watch the session; costs nothing when nobody does.
fn tell(shared: &Shared, run: &Run, fill: impl FnOnce(&mut ChatEvent), state: ChatState) {
    if !lock(&shared.peers).hears(&run.session) {
        return;
    }
    let is_delta = state == ChatState::Delta;
    let mut event = ChatEvent {
        run_id: run.id.clone(),
        session_key: run.session.clone(),
        seq: Some(run.next_event()),
        state,
        phase: None,
        delta_text: None,
        replace: false,
        message: None,
        stop_reason: None,
        error_message: None,
    };
    fill(&mut event);
    let mut payload = json!(event);
    payload["agentId"] = json!(AGENT_ID);
    if let Some(message) = payload.get_mut("message") {
        message["timestamp"] = json!(now_ms());
    }
    shared.tell_session(&run.session, "chat", payload, is_delta);
}

fn assistant(text: &str) -> ChatMessage {
    let content: Value = json!([{ "type": "text", "text": text }]);
    ChatMessage { role: "assistant".to_owned(), content }
}
