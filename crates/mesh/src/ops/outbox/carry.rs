//! One try for one message, by whoever holds its lease.

use jiff::Timestamp;
use openclaw_client::protocol::{ErrorShape, Fault};
use openclaw_client::{CallError, ConnectError};
use tokio::time::{Duration, Instant};

use super::{Carried, backoff};
use crate::archive::{Claim, Lease, Stored};
use crate::error::{MeshError, chain};
use crate::mesh::Mesh;
use crate::ops::send::{conclude, see_through};
use crate::ops::wait::{outgoing, teammate};
use crate::pool::{Line, Pool};
use crate::progress::Observer;
use crate::record::{Record, Reply, State};
use crate::route::look::Attempt;
use crate::route::{Delivery, Outgoing, Wait};

/// Carries a message as far as it gets by the deadline: sends it, or looks what became of it where it may have left.
///
/// # Errors
/// When something of ours cannot be used; the message then waits as it was. What the peer does stands in the record.
pub(in crate::ops) async fn carry(
    mesh: &Mesh,
    claim: Claim,
    deadline: Instant,
    wait: Wait,
    pool: &Pool,
    observer: &mut dyn Observer,
) -> Result<Carried, MeshError> {
    let Claim { stored, lease } = claim;
    let tried = async {
        let (message, tried_before) = outgoing(mesh, &stored, deadline)?;
        let message = Outgoing { wait, ..message };
        let mut run = Try { mesh, stored: &stored, lease: &lease, message, line: pool.line(), observer };
        run.once(tried_before).await
    };
    let result = tokio::select! {
        // What is done is done, also in the moment in which the lease is lost.
        biased;
        result = Box::pin(tried) => result,
        error = lease.keep() => Err(MeshError::Archive(error)),
    };
    if let Err(error) = &result
        && !matches!(error, MeshError::Archive(_))
    {
        let next = next_try(&stored, Duration::ZERO);
        mesh.archive()?.put_back(&lease, stored.record.state, Some(next), &chain(error)).await?;
    }
    result
}

/// When to look after a message again; never later than it is stale.
fn next_try(stored: &Stored, at_least: Duration) -> Timestamp {
    let next = Timestamp::now() + backoff::pause(stored.tries).max(at_least);
    stored.expires_at.map_or(next, |end| next.min(end))
}

struct Try<'a> {
    mesh: &'a Mesh,
    stored: &'a Stored,
    lease: &'a Lease,
    message: Outgoing,
    line: Line,
    observer: &'a mut dyn Observer,
}

/// What follows from a try.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// Its life is over, or nobody can find out more.
    Over,
    /// It certainly did not arrive: it is sent again, after so long a time at least.
    Again(Duration),
    /// It may have arrived, or has: it is looked after again.
    Look,
    /// The same, but somebody has to mend something first: a credential that was refused is not shown again.
    Leave,
}

impl Try<'_> {
    async fn once(&mut self, tried_before: Option<Attempt>) -> Result<Carried, MeshError> {
        let archive = self.mesh.archive()?;
        let accepted = self.stored.record.receipt.accepted_at.is_some();
        let state = match &tried_before {
            None => State::Queued,
            Some(_) if self.stored.record.state == State::Held => State::Held,
            Some(_) if accepted => State::Accepted,
            Some(_) => State::Sending,
        };
        let receipt = self.stored.record.receipt.clone();
        let mut delivery =
            Delivery::new(archive, &self.message, state, receipt).held_under(self.lease.owner());
        let result = self.go(tried_before, &mut delivery).await;
        let result = match result {
            Err(error) if is_local(&error) => return Err(error),
            other => other,
        };
        match after(&delivery, result.as_ref().err(), self.line.is_up()) {
            After::Over => {
                let record = conclude(self.message.clone(), self.stored.record.bytes, delivery, result).await;
                Ok(Carried { record, next_try_at: None })
            }
            After::Again(pause) => {
                self.put_back(State::Queued, Some(next_try(self.stored, pause)), delivery, result).await
            }
            After::Look => {
                let next = Some(next_try(self.stored, Duration::ZERO)).filter(|_| !self.message.is_stale());
                self.put_back(delivery.state(), next, delivery, result).await
            }
            After::Leave => self.put_back(delivery.state(), None, delivery, result).await,
        }
    }

    async fn go(
        &mut self,
        tried_before: Option<Attempt>,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), MeshError> {
        let (message, line, observer) = (&mut self.message, &mut self.line, &mut *self.observer);
        match (teammate(self.mesh, self.stored), tried_before) {
            (Ok(peer), before) => {
                see_through(self.mesh, &peer, message, before, line, delivery, observer).await
            }
            (Err(error), Some(_)) if !is_local(&error) => Err(message.give_up(&chain(&error), delivery)),
            (Err(error), _) => Err(error),
        }
    }

    async fn put_back(
        &self,
        state: State,
        next: Option<Timestamp>,
        mut delivery: Delivery<'_>,
        result: Result<(), MeshError>,
    ) -> Result<Carried, MeshError> {
        // Before the lease is given back.
        delivery.note_accepted();
        let error = result.err();
        let why = match &error {
            Some(error) => chain(error),
            None if state == State::Held => {
                let (to, id) = (self.message.to.clone(), self.message.id.clone());
                chain(&MeshError::Held { to, id })
            }
            None => "the reply comes later".to_owned(),
        };
        self.mesh.archive()?.put_back(self.lease, state, next, &why).await?;
        let message = self.message.clone();
        let record = Record {
            to: message.to,
            id: message.id,
            via: message.via,
            session: message.session,
            bytes: self.stored.record.bytes,
            state,
            receipt: delivery.receipt,
            reply: delivery.reply.map(|text| Reply { text }),
            warning: None,
            error,
        };
        Ok(Carried { record, next_try_at: next })
    }
}

/// Judges a try: by what is certain of the message, not by how it felt.
fn after(delivery: &Delivery<'_>, error: Option<&MeshError>, connected: bool) -> After {
    let unsent = delivery.state() == State::Queued || delivery.was_turned_away;
    match (delivery.state(), error) {
        (_, Some(error)) if unsent => passing(error).map_or(After::Over, After::Again),
        (state, None | Some(MeshError::ReplyDeadline { .. } | MeshError::Held { .. }))
            if state.is_confirmed() =>
        {
            After::Look
        }
        (State::Accepted | State::Held, _) => After::Leave,
        // Who could not be asked now can be asked later; who was asked, and cannot say, will not be able to later.
        (State::Unknown, Some(MeshError::Unknown { .. })) if !connected => After::Look,
        _ => After::Over,
    }
}

/// Whether it is our own files that stand in the way, or somebody else has the message: that says nothing about it.
fn is_local(error: &MeshError) -> bool {
    matches!(
        error,
        MeshError::Archive(_)
            | MeshError::Registry(_)
            | MeshError::Secrets(_)
            | MeshError::Pins(_)
            | MeshError::Device(_)
            | MeshError::Identity(_)
    )
}

/// Whether a failure passes by itself, and how long that takes at least.
fn passing(error: &MeshError) -> Option<Duration> {
    let asked = |shape: &ErrorShape| match shape.fault() {
        Fault::Unavailable { retry_after_ms, .. } => Some(Duration::from_millis(retry_after_ms.unwrap_or(0))),
        Fault::PolicyDenied { retry_after_ms: Some(pause), .. } => Some(Duration::from_millis(pause)),
        // The lock of an address; it names no message and no credential.
        Fault::RateLimited { retry_after_ms } => {
            Some(Duration::from_millis(retry_after_ms.unwrap_or(300_000)))
        }
        _ => None,
    };
    match error {
        MeshError::Connect { source, .. } => match &**source {
            ConnectError::Refused(shape) => asked(shape),
            ConnectError::Http(503) => Some(Duration::ZERO),
            _ => error.is_unreachable().then_some(Duration::ZERO),
        },
        MeshError::Call { source: CallError::Refused(shape), .. } => asked(shape),
        error => error.is_unreachable().then_some(Duration::ZERO),
    }
}
