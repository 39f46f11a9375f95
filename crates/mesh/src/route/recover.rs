//! After a lost connection, a crash or a restart: look before sending again.
//!
//! What the gateway knows of a run decides, in this order: its answer is there; its message is there (then it is never
//! sent again, and followed, also into the recovery run that a gateway starts by itself after a crash); it waits in the
//! queue; it was interrupted in the queue (then it never runs, and a new attempt needs a new run id); or there is no
//! sign of it. Without a sign the same key may be sent again where that cannot make a second turn: to the same gateway
//! process within the five minutes that it remembers keys, or, if it never confirmed the message, to another one whose
//! history reaches back past the moment of sending. An empty or short history proves nothing: sessions are reset, too.
//! Then the gateway may still know how the run itself ended. Where it cannot be known, we say so.

use jiff::Timestamp;
use openclaw_client::Client;
use openclaw_client::protocol::methods::agent::Outcome;

use super::look::{self, Attempt, LOOK_AGAIN, Sign, look, next_run_id, pause};
use super::{Delivery, Outgoing, Setback, Wait, agent, deliver};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::pool::Line;
use crate::progress::{Observer, Progress};
use crate::record::State;
use crate::registry::Via;

/// Finds out what became of a message, and brings it to its end. Sends again only where no second turn can come of it;
/// where that was turned away, the setback is [`Setback::Later`], else [`Setback::Final`].
pub(crate) async fn resume(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    mut attempt: Attempt,
    line: &mut Line,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let mut reason = "the connection was lost".to_owned();
    // A gateway that is not there is waited for if it was just now, or for its reply; else it is asked another time.
    let mut patient = attempt.is_ours || message.wait == Wait::Reply;
    loop {
        let client = match line.client(mesh, peer, message.deadline, patient).await {
            Ok(client) => {
                patient = true;
                message.deadline += peer.waited();
                client
            }
            // The message may have arrived: that nobody answers now does not make it unsent.
            Err(error) if !error.bars_us() => {
                let reason = format!("{reason}; then {error}");
                return Err(Setback::Final(message.give_up(&reason, delivery)));
            }
            Err(error) => {
                // Waiting longer would not help: what has to be mended is our access.
                if !delivery.state().is_confirmed() {
                    delivery.finished(State::Unknown);
                }
                return Err(Setback::Final(error));
            }
        };
        // What the message went to before is what decides, not what answers now.
        delivery.reached(None);
        observer.progress(Progress::Reached);
        match follow(client, message, &mut attempt, delivery, observer).await {
            Err(Setback::Deadline) => {
                line.retire();
                return Err(Setback::Final(message.give_up(&reason, delivery)));
            }
            Err(Setback::Lost(how) | Setback::Unsent(how)) => {
                delivery.lost(&how);
                reason = how;
                line.lose();
                // A gateway that lets us in and dies each time is not to be asked without a break.
                if pause(LOOK_AGAIN, message.deadline).await.is_err() {
                    return Err(Setback::Final(message.give_up(&reason, delivery)));
                }
            }
            end => return end,
        }
    }
}

/// One look, and what follows from it, over one connection.
async fn follow(
    client: &Client,
    message: &mut Outgoing,
    attempt: &mut Attempt,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    if client.hello().protocol < 4 {
        // Its history names no runs: a message of ours cannot be told from none.
        let reason = "their gateway is too old to be asked what became of it";
        return Err(Setback::Final(message.give_up(reason, delivery)));
    }
    loop {
        let sign =
            look(client, message.sought(), attempt.sent_at).await.map_err(|e| message.unseen(e, delivery))?;
        tracing::debug!(sign = sign.name(), run_id = message.run_id, "looked");
        match sign {
            Sign::Answered(row) => {
                delivery.accepted();
                delivery.replied(row.text());
                return Ok(());
            }
            Sign::Taken | Sign::Queued | Sign::Held => {
                if sign == Sign::Held {
                    delivery.held();
                } else {
                    delivery.accepted();
                }
                if message.wait.is_over(sign == Sign::Held) {
                    return Ok(());
                }
                let over = look::until_over(client, message.sought(), attempt).await;
                if let Some(outcome) = over.map_err(|e| message.unseen(e, delivery))? {
                    return agent::conclude(outcome, message, delivery).map_err(Setback::Final);
                }
            }
            // It certainly never ran, and it is too late for it now.
            Sign::Interrupted | Sign::None { reaches_back: true } if message.is_stale() => {
                delivery.finished(State::Expired);
                return Err(Setback::Final(MeshError::Expired {
                    to: message.to.clone(),
                    id: message.id.clone(),
                }));
            }
            Sign::Interrupted => {
                message.run_id = next_run_id(&message.run_id);
                return again(client, message, attempt, delivery, observer).await;
            }
            Sign::None { reaches_back } => {
                return untraced(client, message, attempt, reaches_back, delivery, observer).await;
            }
        }
    }
}

/// There is nothing to see of it: it is sent again where that cannot be a second turn.
async fn untraced(
    client: &Client,
    message: &mut Outgoing,
    attempt: &mut Attempt,
    reaches_back: bool,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let unconfirmed = delivery.receipt.accepted_at.is_none();
    let proof = reaches_back && unconfirmed;
    if message.is_stale() || !may_send_again(message, proof || attempt.is_remembered_by(client)) {
        if let Some(outcome) = by_itself(client, message, proof, delivery).await? {
            delivery.accepted();
            return agent::conclude(outcome, message, delivery).map_err(Setback::Final);
        }
        return Err(Setback::Final(without_trace(message, unconfirmed, reaches_back, delivery)));
    }
    match again(client, message, attempt, delivery, observer).await {
        // That this attempt was refused says nothing about the one before it.
        Err(Setback::Later(_, error)) if !proof => Err(Setback::Lost(error.to_string())),
        sent => sent,
    }
}

/// What the gateway says of the run without its session. Not of `chat.send`: there the reply to another message can stand
/// for it.
async fn by_itself(
    client: &Client,
    message: &Outgoing,
    never_arrived: bool,
    delivery: &mut Delivery<'_>,
) -> Result<Option<Outcome>, Setback> {
    if never_arrived || message.via != Via::Agent {
        return Ok(None);
    }
    look::remembered(client, message.sought()).await.map_err(|e| message.unseen(e, delivery))
}

/// There is no sign of it, and sending it again could make a second turn. A gateway that was killed can have lost even a
/// run that it confirmed and began (seen with OpenClaw 2026.9.6), so waiting longer would not help.
fn without_trace(
    message: &Outgoing,
    unconfirmed: bool,
    reaches_back: bool,
    delivery: &mut Delivery<'_>,
) -> MeshError {
    let reason = match (unconfirmed, reaches_back) {
        (true, _) => "their gateway was restarted since, and its history does not reach back far enough",
        (false, true) => "their gateway took it, was restarted since, and shows no trace of it",
        (false, false) => "their gateway took it, and its history does not reach back to it any more",
    };
    delivery.finished(State::Unknown);
    MeshError::Unknown { to: message.to.clone(), id: message.id.clone(), reason: reason.to_owned() }
}

/// Sends under the present run id. A new one, or a new process, is noted before anything leaves.
async fn again(
    client: &Client,
    message: &Outgoing,
    attempt: &mut Attempt,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    let boot_id = client.hello().server.boot_id.clone();
    let noted = delivery.sending(&message.run_id, boot_id.as_deref()).await;
    noted.map_err(|error| Setback::Final(MeshError::Archive(error)))?;
    *attempt = Attempt { boot_id, sent_at: Timestamp::now(), is_ours: true };
    deliver(client, message, delivery, observer).await
}

/// `harmless`: the session shows that the message never arrived, or its key is still known.
fn may_send_again(message: &Outgoing, harmless: bool) -> bool {
    // `chat.send` merges, and its answer cannot be told apart: it is never sent twice.
    message.via == Via::Agent && harmless
}
