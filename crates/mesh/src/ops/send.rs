//! Say something to one teammate's agent and await its reply.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::try_join;
use jiff::Timestamp;
use openclaw_client::protocol::attribution::{Chain, Header};
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep_until};
use uuid::Uuid;

use crate::archive::{Allowance, Archive, ArchiveError, Direction, Leaving, NewMessage};
use crate::crowd::Turn;
use crate::error::MeshError;
use crate::fallback::ImFallback;
use crate::guard::{Caller, Refusal, Speaker};
use crate::mesh::Mesh;
use crate::message::{self, SizeNote};
use crate::peer::{Peer, SessionChoice, session_key};
use crate::pool::{Line, Pool};
use crate::progress::{Observer, Progress};
use crate::record::{Receipt, Record, Reply, State, To};
use crate::registry::{Agent, Via};
use crate::route::look::Attempt;
use crate::route::{self, Delivery, Outgoing, Setback};

/// How many rounds one `send` may have.
pub const MAX_ROUNDS: u32 = 20;

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// The message.
    pub message: String,
    /// The session.
    pub session: SessionChoice,
    /// The route; the registry's if none is given.
    pub via: Option<Via>,
    /// One budget for everything: resolve, connect, send, wait. It is ours alone and never becomes the run's own.
    pub timeout: Duration,
    /// Whether to wait for the reply.
    pub wait: bool,
    /// The message id; a fresh one if none is given.
    pub id: Option<Uuid>,
    /// Whether the message carries the attribution header.
    pub header: bool,
    /// Whether the instant-message fallback may be used.
    pub fallback: bool,
    /// The chain of the message that this one was caused by, beside the one that we were called in.
    pub in_reply_to: Option<Chain>,
}

impl SendRequest {
    /// A message with the defaults: 60 s, await the reply, header, fallback.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            session: SessionChoice::default(),
            via: None,
            timeout: Duration::from_secs(60),
            wait: true,
            id: None,
            header: true,
            fallback: true,
            in_reply_to: None,
        }
    }
}

/// A send that is thought through and has not happened: what a dry run prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// To whom.
    pub to: To,
    /// Where; none if there is no usable address.
    pub address: Option<String>,
    /// The session key on the wire.
    pub session: String,
    /// The route.
    pub via: Via,
    /// The message's size in bytes of UTF-8, without the header.
    pub bytes: usize,
    /// Exactly what goes out, with the header.
    pub message: String,
    /// `configured` or `missing`.
    pub token: &'static str,
    /// The message id.
    #[serde(skip)]
    pub id: String,
    /// Whether the message is larger than the soft limit.
    #[serde(skip)]
    pub size_note: SizeNote,
    #[serde(skip)]
    peer: Result<Peer, MeshError>,
    #[serde(skip)]
    me: String,
    #[serde(skip)]
    pub(super) allowance: Allowance,
}

impl Plan {
    /// Whether no guard speaks against its recipient.
    pub(super) fn is_permitted(&self) -> bool {
        !matches!(self.peer, Err(MeshError::Guard(_)))
    }

    /// The record of a plan that nobody carried out.
    #[must_use]
    pub fn untold(&self) -> Record {
        Record {
            to: self.to.clone(),
            id: self.id.clone(),
            via: self.via,
            session: self.session.clone(),
            bytes: self.bytes,
            state: State::Skipped,
            receipt: Receipt::default(),
            reply: None,
            warning: None,
            error: None,
        }
    }

    /// This plan, as one of many.
    pub(super) fn in_turn(self, turn: Arc<Turn>) -> Self {
        Self { peer: self.peer.map(|peer| peer.in_turn(turn)), ..self }
    }

    /// This plan, if no guard speaks against its recipient.
    pub(super) fn permitted(self) -> Result<Self, MeshError> {
        match self.peer {
            Err(error @ MeshError::Guard(_)) => Err(error),
            _ => Ok(self),
        }
    }

    /// Why the peer cannot be called, if so.
    #[must_use]
    pub fn obstacle(&self) -> Option<&MeshError> {
        self.peer.as_ref().err()
    }
}

/// Thinks a send through: recipient, session, size, header. Touches no network.
///
/// # Errors
/// When the message may not be sent, or a file of ours cannot be used.
pub fn plan(mesh: &Mesh, agent: &Agent, request: &SendRequest) -> Result<Plan, MeshError> {
    let size_note = message::check(&request.message, mesh.config().limits)?;
    let via = request.via.or(agent.via).unwrap_or_default();
    if via == Via::A2a && request.session.agent.is_some() {
        return Err(MeshError::Usage("over A2A there is no agent to choose".to_owned()));
    }
    let caller = mesh.config().caller.answering(request.in_reply_to.as_ref());
    let rules = mesh.config().rules;
    caller.may_pass_on(&rules)?;
    if !request.header && caller.speaker() == Speaker::Agent {
        return Err(Refusal::Nameless.into());
    }
    let me = mesh.my_name()?;
    let id = request.id.unwrap_or_else(Uuid::now_v7).to_string();
    let text = if request.header {
        header(&caller, &me, &id, request.session.thread.clone()).wrap(&request.message)
    } else {
        request.message.clone()
    };
    let devices = if caller.names_devices() { devices_of(mesh, agent)? } else { Vec::new() };
    let route = Peer::by_route(mesh, agent, via);
    // Also that of one to whom it may not go: whoever looks at the plan wants to know whom it would have met.
    let address = route.as_ref().ok().map(Peer::address);
    let peer = match caller.may_go_to(agent, &devices) {
        Ok(()) => route,
        Err(refusal) => Err(refusal.into()),
    };
    Ok(Plan {
        to: To::from(agent),
        address,
        session: session_key(&me, agent, &request.session, via),
        via,
        bytes: request.message.len(),
        message: text,
        token: if has_token(mesh, &agent.email_prefix, via)? { "configured" } else { "missing" },
        id,
        size_note,
        peer,
        me,
        allowance: Allowance { rules, speaker: caller.speaker(), chorus_of: None },
    })
}

/// The devices of a teammate, as far as we know them: by the registry, and by our invites.
fn devices_of(mesh: &Mesh, agent: &Agent) -> Result<Vec<String>, MeshError> {
    let guests = mesh.sent_invites().read()?;
    let invited = guests.devices_of(&agent.email_prefix).map(str::to_owned);
    Ok(agent.device_id.iter().map(|id| id.trim().to_owned()).chain(invited).collect())
}

fn header(caller: &Caller, me: &str, id: &str, thread: Option<String>) -> Header {
    let (from, id, via_shell) = (me.to_owned(), id.to_owned(), caller.shell.clone());
    let header = Header { from, id, thread, via_shell, ..Header::default() };
    match &caller.chain {
        Some(chain) => header.continuing(chain),
        None => header,
    }
}

fn has_token(mesh: &Mesh, email_prefix: &str, via: Via) -> Result<bool, MeshError> {
    if via == Via::A2a {
        return Ok(mesh.a2a_token(email_prefix)?.is_some());
    }
    Ok(mesh.shared_token(email_prefix)?.is_some() || mesh.device_token(email_prefix)?.is_some())
}

/// Sends one message. What went wrong on the way stands in the record, beside how far it got.
///
/// # Errors
/// Only when there was nothing to send: see [`plan`].
pub async fn send(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    observer: &mut dyn Observer,
) -> Result<Record, MeshError> {
    let plan = plan(mesh, agent, request)?;
    let deadline = Instant::now() + request.timeout;
    let pool = mesh.pool();
    let record = send_planned(mesh, plan, request, deadline, &pool, observer).await;
    pool.done().await;
    Ok(record)
}

/// Sends, and sends each reply back as the next message, for a number of rounds in one session over one connection:
/// the bash skill's `--rounds`. Ends early when a round gives no reply.
///
/// # Errors
/// When the first message may not be sent. A later one that may not ends the conversation in its record.
pub async fn send_rounds(
    mesh: &Mesh,
    agent: &Agent,
    request: &SendRequest,
    rounds: u32,
    observer: &mut dyn Observer,
) -> Result<Vec<(String, Record)>, MeshError> {
    let mut said: Vec<(String, Record)> = Vec::new();
    let pool = mesh.pool();
    let mut next = request.clone();
    for number in 1..=rounds {
        let plan = match plan(mesh, agent, &next) {
            Ok(plan) => plan,
            Err(error) if said.is_empty() => return Err(error),
            Err(error) => {
                // The peer's reply is too large to be sent back: the conversation ends with what was said.
                if let Some((_, last)) = said.last_mut() {
                    last.error = Some(error);
                }
                break;
            }
        };
        observer.progress(Progress::Round { number, message: &next.message });
        let deadline = Instant::now() + request.timeout;
        let record = send_planned(mesh, plan, &next, deadline, &pool, observer).await;
        observer.progress(Progress::RoundDone(&record));
        let reply = record.reply.as_ref().map(|reply| reply.text.clone());
        said.push((next.message.clone(), record));
        let Some(reply) = reply else { break };
        next.message = reply;
        next.id = None;
    }
    pool.done().await;
    Ok(said)
}

/// Carries a plan out, over a connection that stands or a new one. The message is in the archive before anything leaves,
/// and its end is there before this returns.
pub(crate) async fn send_planned(
    mesh: &Mesh,
    plan: Plan,
    request: &SendRequest,
    deadline: Instant,
    pool: &Pool,
    observer: &mut dyn Observer,
) -> Record {
    let new = new_message(&plan, request, State::Sending, None);
    let mut message = Outgoing {
        to: plan.to,
        run_id: plan.id.clone(),
        id: plan.id,
        via: plan.via,
        session: plan.session,
        text: plan.message,
        me: plan.me,
        wait: request.wait.into(),
        deadline,
        expires_at: None,
    };
    if let Err(error @ MeshError::Guard(_)) = plan.peer {
        return unsent(message, plan.bytes, State::Skipped, error);
    }
    let mut line = pool.line();
    let standing = match &plan.peer {
        Ok(peer) if message.via != Via::A2a => line.take_standing(mesh, peer),
        _ => None,
    };
    let leaving = standing.map(|client| Leaving { boot_id: client.hello().server.boot_id.clone() });
    let is_leaving = leaving.is_some();
    let dialled = match &plan.peer {
        Ok(peer) if message.via != Via::A2a && !is_leaving && peer.turn.is_none() => Some(peer),
        _ => None,
    };
    let begun = async {
        let archive = begin(mesh, new, plan.allowance, leaving).await?;
        observer.progress(Progress::Begun { id: &message.id });
        Ok(archive)
    };
    let archive = match beside(begun, Box::pin(dial_ahead(mesh, dialled, deadline, &mut line))).await {
        Ok(archive) => archive,
        Err(error) => {
            let state = state_of_unsent(&message.to, &error);
            return unsent(message, plan.bytes, state, error);
        }
    };
    let mut delivery =
        Delivery::new(archive, &message.id, State::Sending, Receipt::default()).leaving(is_leaving);
    let mut result = match plan.peer {
        Ok(peer) => see_through(mesh, &peer, &mut message, None, &mut line, &mut delivery, observer).await,
        Err(error) => Err(error),
    };
    drop(line);
    if let (Err(error), Some(fallback), true) = (&result, &mesh.config().fallback, request.fallback)
        && error.is_unreachable()
        && delivery.state() == State::Sending
    {
        // The deadline covers this, too; a script that has hardly any time left still gets a moment.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let fallback = ImFallback { timeout: fallback.timeout.min(left), ..fallback.clone() };
        result = fallback
            .deliver(&message.to.email_prefix, &request.message)
            .await
            .map_err(|source| MeshError::Fallback { to: message.to.clone(), source });
        delivery.finished(if result.is_ok() { State::Fallback } else { State::Unreachable });
    }
    conclude(message, plan.bytes, delivery, result).await
}

/// Opening the archive and dialling take about the same time, and neither needs the other. One of a crowd waits for its turn.
async fn dial_ahead(mesh: &Mesh, peer: Option<&Peer>, deadline: Instant, line: &mut Line) {
    if let Some(peer) = peer {
        line.dial_ahead(mesh, peer, deadline).await;
    }
}

/// What is to be done, and something that goes on beside it, which is given up when the former fails.
async fn beside<T, E>(
    work: impl Future<Output = Result<T, E>>,
    other: impl Future<Output = ()>,
) -> Result<T, E> {
    let (done, ()) = try_join(work, other.map(Ok)).await?;
    Ok(done)
}

/// The message as the archive gets it.
pub(super) fn new_message(
    plan: &Plan,
    request: &SendRequest,
    state: State,
    expires_at: Option<Timestamp>,
) -> NewMessage {
    NewMessage {
        id: plan.id.clone(),
        run_id: plan.id.clone(),
        direction: Direction::Out,
        peer: plan.to.clone(),
        via: plan.via,
        session: plan.session.clone(),
        thread: request.session.thread.clone(),
        header: plan.message.strip_suffix(&request.message).unwrap_or_default().to_owned(),
        text: request.message.clone(),
        claimed_from: None,
        state,
        expires_at,
    }
}

/// Writes the message into the archive, within the limits; also that it leaves, if it does at once.
pub(super) async fn begin(
    mesh: &Mesh,
    new: NewMessage,
    allowance: Allowance,
    leaving: Option<Leaving>,
) -> Result<&Archive, MeshError> {
    let archive = mesh.opened_archive().await?;
    let id = new.id.clone();
    let begun = match leaving {
        Some(leaving) => archive.begin_leaving(new, allowance, leaving).await,
        None => archive.begin_within(new, allowance).await,
    };
    match begun {
        Err(ArchiveError::Exists) => {
            let known = archive.find(&id).await?.filter(|stored| stored.direction == Direction::Out);
            Err(MeshError::IdInUse { id, sent: known.map(|stored| (stored.record.to, stored.record.state)) })
        }
        begun => Ok(begun?.map(|()| archive)?),
    }
}

/// The state of a message that could not be begun. Under an id that was used for the same teammate before, it is that
/// message's.
fn state_of_unsent(to: &To, error: &MeshError) -> State {
    match error {
        MeshError::IdInUse { sent: Some((before, state)), .. } if before.email_prefix == to.email_prefix => {
            *state
        }
        MeshError::IdInUse { .. } | MeshError::Guard(_) => State::Skipped,
        _ => State::Failed,
    }
}

/// The record of a message that could not be kept, or must not be sent, and was not sent for that reason.
fn unsent(message: Outgoing, bytes: usize, state: State, error: MeshError) -> Record {
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
        error: Some(error),
    }
}

/// Writes down how it ended, and makes the record.
pub(crate) async fn conclude(
    message: Outgoing,
    bytes: usize,
    delivery: Delivery<'_>,
    result: Result<(), MeshError>,
) -> Record {
    let error = result.err();
    let state = last_certain(delivery.state(), error.as_ref());
    let sentence = error.as_ref().map(|error| crate::error::chain(error));
    // What happened weighs more than that it could not be written down: it stays a warning, or somebody sends again.
    let unwritten = delivery.conclude(state, sentence).await.err();
    let warning = unwritten
        .map(|failed| format!("the log has no end of this message: {}", crate::error::chain(&failed)));
    Record {
        to: message.to,
        id: message.id,
        via: message.via,
        session: message.session,
        bytes,
        state,
        receipt: delivery.receipt,
        reply: delivery.reply.map(|text| Reply { text }),
        warning,
        error,
    }
}

/// Sees a message through to its end: sends it, or looks what became of `before`, the attempt that may have left. What
/// was turned away for now is sent again, as long as the deadline allows.
pub(super) async fn see_through(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    mut before: Option<Attempt>,
    line: &mut Line,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), MeshError> {
    if message.via == Via::A2a {
        return route::a2a::see_through(mesh, peer, message, before, delivery, observer).await;
    }
    let mut was_there = false;
    loop {
        let sent = match before.take() {
            Some(before) => {
                route::recover::resume(mesh, peer, message, before, line, delivery, observer).await
            }
            None => attempt(mesh, peer, message, was_there, line, delivery, observer).await,
        };
        let (pause, error) = match sent {
            Ok(()) => return Ok(()),
            Err(Setback::Later(pause, error)) => (pause, error),
            Err(Setback::Final(error)) => {
                // What it refuses may depend on how it let us in, and somebody may mend that.
                if matches!(error, MeshError::Call { .. }) {
                    line.retire();
                }
                return Err(error);
            }
            Err(Setback::Deadline) => {
                // Not even a confirmation: there may be nobody on the other end any more, and it is looked for elsewhere.
                if !delivery.state().is_confirmed() {
                    line.lose();
                }
                return Err(message.give_up("no answer in time", delivery));
            }
            Err(Setback::Lost(how) | Setback::Unsent(how)) => return Err(message.give_up(&how, delivery)),
        };
        // A gateway that restarts ends this connection soon, and what is lost with it might have arrived.
        line.lose();
        let wake = Instant::now() + pause + route::gateway::jittered(pause) / 2;
        if wake >= message.deadline {
            delivery.finished(State::Failed);
            return Err(error);
        }
        delivery.turned_away(&crate::error::chain(&error));
        was_there = true;
        sleep_until(wake).await;
    }
}

/// One attempt: connects, sends, and sees it through. That it leaves is on the disk before it does: a message without
/// that note certainly never left, whatever died. A gateway that `was_there` before is waited for.
async fn attempt(
    mesh: &Mesh,
    peer: &Peer,
    message: &mut Outgoing,
    was_there: bool,
    line: &mut Line,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Setback> {
    loop {
        let connected = line.client(mesh, peer, message.deadline, was_there).await;
        let client = connected.map_err(Setback::Final)?;
        message.deadline += peer.waited();
        let boot_id = client.hello().server.boot_id.clone();
        delivery.reached(boot_id.as_deref());
        observer.progress(Progress::Reached);
        if message.is_stale() {
            return Err(Setback::Final(MeshError::Expired {
                to: message.to.clone(),
                id: message.id.clone(),
            }));
        }
        let noted = delivery.sending(&message.run_id, boot_id.as_deref()).await;
        noted.map_err(|error| Setback::Final(error.into()))?;
        let sent_at = Timestamp::now();
        match route::deliver(client, message, delivery, observer).await {
            // It ended while it was kept: there is nothing to look for, and the next one is new.
            Err(Setback::Unsent(how)) if line.is_warm() => {
                delivery.unsent(&how);
                line.lose();
            }
            Err(Setback::Lost(how) | Setback::Unsent(how)) => {
                delivery.lost(&how);
                line.lose();
                let attempt = Attempt { boot_id, sent_at };
                return route::recover::resume(mesh, peer, message, attempt, line, delivery, observer).await;
            }
            end => return end,
        }
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
