//! How far a message got, step by step, in memory and in the archive.

use std::future::Future;
use std::pin::pin;

use jiff::Timestamp;
use tokio::time::{Duration, timeout};

use super::Outgoing;
use crate::archive::{Archive, ArchiveError, Carrier, Committed, Step};
use crate::record::{Receipt, State};

/// So long it is not noted that a gateway has a message whose end may be there at once: then both are one note.
const COMPANY: Duration = Duration::from_millis(2);

/// The life of one message while we carry it. An error leaves the last certain step behind.
pub(crate) struct Delivery<'a> {
    archive: &'a Archive,
    carrier: Carrier,
    id: String,
    /// The run id of its last attempt, and of the confirmation in the receipt.
    run_id: String,
    state: State,
    /// Whose lease it is carried under: another's steps are not ours to write.
    lease: Option<String>,
    /// It was begun when a connection stood.
    stood: bool,
    /// That it leaves was written with its beginning.
    is_leaving: bool,
    /// That the gateway has it is still to be noted.
    unnoted: Option<Unnoted<'a>>,
    /// The gateway refused the message itself, or it never left: it certainly started nothing.
    pub was_turned_away: bool,
    pub receipt: Receipt,
    pub reply: Option<String>,
}

impl<'a> Delivery<'a> {
    /// A message that the archive knows, in the state it has there.
    pub(crate) fn new(archive: &'a Archive, message: &Outgoing, state: State, receipt: Receipt) -> Self {
        Self {
            archive,
            carrier: archive.carrier(),
            id: message.id.clone(),
            run_id: message.run_id.clone(),
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
        if self.run_id != run_id {
            // A confirmation counts for its own attempt only.
            run_id.clone_into(&mut self.run_id);
            self.receipt.accepted_at = None;
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
        let at = *self.receipt.accepted_at.get_or_insert_with(Timestamp::now);
        let (id, lease) = (self.id.clone(), self.lease.clone());
        self.unnoted = Some(Unnoted { archive: self.archive, id, lease, at: Some(at) });
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

    /// Notes now that the gateway has it, if that is still to be noted.
    pub(crate) fn note_accepted(&mut self) {
        drop(self.unnoted.take());
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

    /// Writes the end down, if it came. It is kept when this returns.
    pub(crate) async fn conclude(&mut self, state: State, error: Option<String>) -> Result<(), ArchiveError> {
        if state.is_confirmed() || state == State::Sending {
            // Nothing ended: the run goes on at the peer's. What was noted so far is made sure of.
            self.note_accepted();
            return self.archive.settle().await;
        }
        let accepted_at = self.unnoted.take().and_then(Unnoted::with_the_end);
        let end = Step::Finished { state, reply: self.reply.clone(), error, accepted_at };
        match self.stood {
            true => self.archive.note_here(&self.carrier, self.lease.as_deref(), &self.id, end).await,
            false => self.archive.note(self.lease.as_deref(), &self.id, end).await,
        }
    }
}

/// That the gateway has a message, and nobody has noted it. It is noted when this is dropped: also by who gives up.
struct Unnoted<'a> {
    archive: &'a Archive,
    id: String,
    lease: Option<String>,
    at: Option<Timestamp>,
}

impl Unnoted<'_> {
    /// Since when the gateway has it, for the note of its end.
    fn with_the_end(mut self) -> Option<Timestamp> {
        self.at.take()
    }
}

impl Drop for Unnoted<'_> {
    fn drop(&mut self) {
        if self.at.is_some() {
            drop(self.archive.note(self.lease.as_deref(), &self.id, Step::Accepted));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;
    use crate::archive::{Direction, Event, NewMessage, Stored};
    use crate::record::To;
    use crate::registry::Via;
    use crate::route::Wait;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    /// A message that is on its way, as the archive and whoever carries it have it.
    async fn under_way() -> (tempfile::TempDir, Archive, Outgoing) {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&folder.path().join("archive.db")).unwrap();
        let to = To { name: "Bob".into(), email_prefix: "bob".into() };
        let new = NewMessage {
            id: ID.into(),
            run_id: ID.into(),
            direction: Direction::Out,
            peer: to.clone(),
            via: Via::Agent,
            session: "agent:main:mesh:alice".into(),
            thread: None,
            text: "hi".into(),
            header: String::new(),
            state: State::Sending,
            expires_at: None,
            claimed_from: None,
        };
        archive.begin(new).await.unwrap();
        let message = Outgoing {
            to,
            id: ID.into(),
            run_id: ID.into(),
            via: Via::Agent,
            session: "agent:main:mesh:alice".into(),
            text: "hi".into(),
            me: "alice".into(),
            wait: Wait::Reply,
            deadline: Instant::now(),
            expires_at: None,
        };
        (folder, archive, message)
    }

    /// It has just left.
    async fn sent<'a>(archive: &'a Archive, message: &Outgoing) -> Delivery<'a> {
        let mut delivery = Delivery::new(archive, message, State::Sending, Receipt::default());
        delivery.sending(ID, None).await.unwrap();
        delivery
    }

    async fn found(archive: &Archive) -> (Stored, Vec<Event>) {
        archive.settle().await.unwrap();
        (archive.find(ID).await.unwrap().unwrap(), archive.events(ID).await.unwrap())
    }

    fn steps(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.step.as_str()).collect()
    }

    #[tokio::test]
    async fn a_quick_end_is_one_note_with_the_time_of_the_acceptance() {
        let (_folder, archive, message) = under_way().await;
        let mut delivery = sent(&archive, &message).await;
        delivery.just_accepted();
        delivery.until_over(ready(())).await;
        assert_eq!(steps(&found(&archive).await.1), ["sending"]);
        delivery.replied("done".to_owned());
        delivery.conclude(State::Replied, None).await.unwrap();
        let (kept, events) = found(&archive).await;
        assert_eq!(steps(&events), ["sending", "accepted", "replied"]);
        let to_millis = |at: Option<Timestamp>| at.map(Timestamp::as_millisecond);
        assert_eq!(to_millis(kept.record.receipt.accepted_at), to_millis(delivery.receipt.accepted_at));
        assert!(kept.record.receipt.accepted_at >= kept.sent_at);
    }

    #[tokio::test]
    async fn an_acceptance_is_noted_whoever_stops_waiting_and_while_the_end_takes_its_time() {
        let (_folder, archive, message) = under_way().await;
        let mut delivery = sent(&archive, &message).await;
        delivery.just_accepted();
        assert!(timeout(10 * COMPANY, delivery.until_over(pending::<()>())).await.is_err());
        assert_eq!(found(&archive).await.0.record.state, State::Accepted);

        let (_folder, archive, message) = under_way().await;
        let mut delivery = sent(&archive, &message).await;
        delivery.just_accepted();
        drop(delivery);
        let (kept, events) = found(&archive).await;
        assert_eq!((kept.record.state, steps(&events)), (State::Accepted, vec!["sending", "accepted"]));
    }

    #[tokio::test]
    async fn a_confirmation_counts_for_its_own_attempt() {
        let (_folder, archive, message) = under_way().await;
        let mut delivery = sent(&archive, &message).await;
        delivery.accepted();
        let confirmed = delivery.receipt.accepted_at;
        delivery.sending(ID, None).await.unwrap();
        assert_eq!((delivery.receipt.accepted_at, confirmed.is_some()), (confirmed, true));
        delivery.sending("another-run", None).await.unwrap();
        assert_eq!(delivery.receipt.accepted_at, None);
        assert_eq!(found(&archive).await.0.record.receipt.accepted_at, None);
    }
}
