//! The record of a message that was carried as far as it got.

use crate::error::{MeshError, chain};
use crate::record::{Receipt, Record, Reply, State, To};
use crate::route::{Delivery, Outgoing};

/// The state of a message that could not be begun. Under an id that was used for the same teammate before, it is that
/// message's.
pub(super) fn state_of_unsent(to: &To, error: &MeshError) -> State {
    match error {
        MeshError::IdInUse { sent: Some((before, state)), .. } if before.email_prefix == to.email_prefix => {
            *state
        }
        MeshError::IdInUse { .. } | MeshError::Guard(_) => State::Skipped,
        _ => State::Failed,
    }
}

/// The record of a message that could not be kept, or must not be sent, and was not sent for that reason.
pub(super) fn unsent(message: Outgoing, bytes: usize, state: State, error: MeshError) -> Record {
    record(message, bytes, state, Some(error))
}

/// Writes down how it ended, and makes the record.
pub(crate) async fn conclude(
    message: Outgoing,
    bytes: usize,
    mut delivery: Delivery<'_>,
    result: Result<(), MeshError>,
) -> Record {
    let error = result.err();
    let state = last_certain(delivery.state(), error.as_ref());
    let sentence = error.as_ref().map(|error| chain(error));
    let has_not_left = delivery.state() == State::Sending;
    let unwritten = delivery.conclude(state, sentence).await.err().map(|failed| chain(&failed));
    if let (Some(reason), true) = (&unwritten, has_not_left && error.is_some()) {
        // The log has it as one that is under way: whoever asks after it makes it leave, so it must not be sent again.
        let unknown =
            MeshError::Unknown { to: message.to.clone(), id: message.id.clone(), reason: reason.clone() };
        return Record { receipt: delivery.receipt, ..record(message, bytes, State::Unknown, Some(unknown)) };
    }
    // What happened weighs more than that it could not be written down: it stays a warning, or somebody sends again.
    let warning = unwritten.map(|failed| format!("the log has no end of this message: {failed}"));
    Record {
        receipt: delivery.receipt,
        reply: delivery.reply.map(|text| Reply { text }),
        warning,
        ..record(message, bytes, state, error)
    }
}

fn record(message: Outgoing, bytes: usize, state: State, error: Option<MeshError>) -> Record {
    Record {
        to: message.to,
        id: message.id,
        via: message.via,
        session: message.session,
        bytes,
        state,
        receipt: Receipt::default(),
        reply: None,
        warning: None,
        error,
    }
}

/// A message that never left is failed, unreachable or skipped, by what stopped it.
fn last_certain(state: State, error: Option<&MeshError>) -> State {
    match (state, error) {
        (
            State::Sending,
            Some(
                MeshError::NoAddress { .. }
                | MeshError::PlainText { .. }
                | MeshError::NoCredential { .. }
                | MeshError::Asked { .. },
            ),
        ) => State::Skipped,
        (State::Sending, Some(error)) if error.is_unreachable() => State::Unreachable,
        (State::Queued, Some(MeshError::Expired { .. })) => State::Expired,
        (State::Queued | State::Sending, Some(_)) => State::Failed,
        (state, _) => state,
    }
}
