//! How far a message got, step by step, in memory and in the archive.

use std::future::Future;
use std::pin::pin;

use jiff::Timestamp;
use tokio::time::{Duration, timeout};

use crate::archive::{Archive, ArchiveError, Carrier, Committed, Step};
use crate::record::{Receipt, State};

/// So long it is not noted that a gateway has a message whose end may be there at once: then both are one note.
const COMPANY: Duration = Duration::from_millis(2);

/// The life of one message while we carry it. An error leaves the last certain step behind.
pub(crate) struct Delivery<'a> {
    archive: &'a Archive,
    _carrier: Carrier,
    id: String,
    state: State,
    /// Whose lease it is carried under: another's steps are not ours to write.
    lease: Option<String>,
    /// It was begun over a connection that stood.
    stood: bool,
    /// That it leaves was written with its beginning.
    is_leaving: bool,
    /// That the gateway has it is still to be noted, since then.
    unnoted: Option<Timestamp>,
    /// The gateway refused the message itself, or it never left: it certainly started nothing.
    pub was_turned_away: bool,
    pub receipt: Receipt,
    pub reply: Option<String>,
}

impl<'a> Delivery<'a> {
    /// A message that the archive knows, in the state it has there.
    pub(crate) fn new(archive: &'a Archive, id: &str, state: State, receipt: Receipt) -> Self {
        Self {
            archive,
            _carrier: archive.carrier(),
            id: id.to_owned(),
            state,
            lease: None,
            stood: false,
            is_leaving: false,
            unnoted: None,
            was_turned_away: false,
            receipt,
            reply: None,
        }
    }

    /// The same, for a message that is carried under a lease.
    pub(crate) fn held_under(self, lease: &str) -> Self {
        Self { lease: Some(lease.to_owned()), ..self }
    }

    /// The same, for a message whose first attempt the archive knows already.
    pub(crate) fn leaving(self, is_leaving: bool) -> Self {
        Self { stood: is_leaving, is_leaving, ..self }
    }

    fn note(&mut self, step: Step) -> Committed {
        self.note_accepted();
        self.archive.note(self.lease.as_deref(), &self.id, step)
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The peer's gateway let us in. Not awaited: only the message itself must be on the disk before it leaves.
    /// A gateway process is named only where the message goes to it now.
    pub(crate) fn reached(&mut self, boot_id: Option<&str>) {
        self.receipt.reached_at.get_or_insert_with(Timestamp::now);
        if !self.is_leaving {
            drop(self.note(Step::Reached { boot_id: boot_id.map(str::to_owned) }));
        }
    }

    /// Another attempt is about to leave. It must not before this is on the disk.
    pub(crate) async fn sending(&mut self, run_id: &str, boot_id: Option<&str>) -> Result<(), ArchiveError> {
        if !std::mem::take(&mut self.is_leaving) {
            let step = Step::Sending { run_id: run_id.to_owned(), boot_id: boot_id.map(str::to_owned) };
            self.note(step).await?;
        }
        self.state = State::Sending;
        self.was_turned_away = false;
        Ok(())
    }

    /// The attempt was refused for now, and started nothing: the message is as if it had not left.
    pub(crate) fn turned_away(&mut self, why: &str) {
        drop(self.note(Step::TurnedAway(why.to_owned())));
    }

    /// The connection had ended before the attempt was written: the message is as if it had not left, too.
    pub(crate) fn unsent(&mut self, how: &str) {
        self.was_turned_away = true;
        drop(self.note(Step::Unsent(how.to_owned())));
    }

    /// The gateway has it, and its owner has to let it run.
    pub(crate) fn held(&mut self) {
        if self.state == State::Held {
            return;
        }
        self.state = State::Held;
        self.receipt.accepted_at.get_or_insert_with(Timestamp::now);
        drop(self.note(Step::Held));
    }

    /// The gateway has it.
    pub(crate) fn accepted(&mut self) {
        self.just_accepted();
        self.note_accepted();
    }

    /// The gateway has it, and its end may be there at once: [`Delivery::until_over`] follows.
    pub(crate) fn just_accepted(&mut self) {
        if self.state == State::Accepted {
            return;
        }
        self.state = State::Accepted;
        self.unnoted = Some(*self.receipt.accepted_at.get_or_insert_with(Timestamp::now));
    }

    /// Waits for the end of what was just accepted. That it was is noted meanwhile, unless the end is near.
    pub(crate) async fn until_over<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        match timeout(COMPANY, &mut end).await {
            Ok(ended) => ended,
            Err(_) => {
                self.note_accepted();
                end.await
            }
        }
    }

    fn note_accepted(&mut self) {
        if self.unnoted.take().is_some() {
            drop(self.archive.note(self.lease.as_deref(), &self.id, Step::Accepted));
        }
    }

    pub(crate) fn lost(&mut self, how: &str) {
        drop(self.note(Step::Lost(how.to_owned())));
    }

    pub(crate) fn finished(&mut self, state: State) {
        self.state = state;
        self.receipt.finished_at = Some(Timestamp::now());
    }

    pub(crate) fn replied(&mut self, text: String) {
        self.finished(State::Replied);
        self.reply = Some(text);
    }

    /// Writes the end down, if it came. It is on the disk when this returns.
    pub(crate) async fn conclude(&mut self, state: State, error: Option<String>) -> Result<(), ArchiveError> {
        if state.is_confirmed() || state == State::Sending {
            // Nothing ended: the run goes on at the peer's. What was noted so far is made sure of.
            self.note_accepted();
            return self.archive.settle().await;
        }
        let accepted_at = self.unnoted.take();
        let end = Step::Finished { state, reply: self.reply.clone(), error, accepted_at };
        match self.stood {
            true => self.archive.note_here(self.lease.as_deref(), &self.id, end).await,
            false => self.archive.note(self.lease.as_deref(), &self.id, end).await,
        }
    }
}
