//! Turns of others, run by the agent of our own gateway: what stands behind `serve --agent openclaw`.
//!
//! One connection with the owner's rights serves all turns. A turn that lost it is looked for before anything is sent
//! again, as everywhere: see `route::look`. A turn that nobody waits for any more is aborted over there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use openclaw_client::protocol::event::{ChatEvent, ChatState};
use openclaw_client::protocol::methods::agent::{Agent, InputProvenance, Outcome};
use openclaw_client::protocol::methods::chat::ChatAbort;
use openclaw_client::protocol::methods::info::GatewayIdentityGet;
use openclaw_client::protocol::methods::sessions::{MessagesSubscribe, SessionsPatch};
use openclaw_client::protocol::{ErrorShape, Fault};
use openclaw_client::{CallError, Client, ConnectError, GatewayEvent};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep};

use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;
use crate::route::agent::never_began;
use crate::route::look::{self, Attempt, LOOK_AGAIN, Sign, Sought, look, next_run_id, pause};

/// A gateway that restarts is back in about 15 s. So long a turn waits for it that has not left yet.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many sessions are known to be set up.
const MAX_READY: usize = 1000;
/// How long an abort may take.
const ABORT: Duration = Duration::from_millis(1500);

/// A turn to run.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The run, which is also its idempotency key over there.
    pub run_id: String,
    /// The session in its full form.
    pub session: String,
    /// What the agent is told.
    pub message: String,
    /// What is added to the system prompt.
    pub system: Option<String>,
    /// Who speaks.
    pub provenance: Option<InputProvenance>,
    /// What the agent may do in the session; none leaves it as it is.
    pub permission_mode: Option<String>,
    /// When nobody waits for it any more.
    pub deadline: Instant,
}

/// Why a turn has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The gateway cannot be reached, or does not let us in. Nothing was started.
    #[error("our own gateway cannot be reached")]
    Unreachable(#[source] MeshError),
    /// What answers is the gateway that we are behind: each turn would come back to us.
    #[error("our own gateway is this one")]
    Itself,
    /// The gateway refused the turn. Nothing was started.
    #[error("our own gateway refused the turn")]
    Refused(#[source] CallError),
    /// It cannot be known what became of the turn without risking a second one.
    #[error("it is not known what became of the turn: {0}")]
    Unknown(String),
    /// Its time is over.
    #[error("the turn took too long")]
    Deadline,
}

/// The way to our own gateway's agent.
pub struct Relay {
    mesh: Mesh,
    /// The id of the gateway that we stand behind.
    not: String,
    /// Held while a connection is made: who comes meanwhile gets the same.
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
}

/// A connection, and what was done over it.
struct Line {
    client: Client,
    /// The sessions that are set up, with their permission mode. The gateway remembers it, but another may change it: each
    /// connection sets it anew.
    ready: Mutex<HashMap<String, Option<String>>>,
}

/// Why a step did not come to its end.
enum Setback {
    /// The connection is gone: make another, and look.
    Lost(String),
    /// The gateway is starting or stopping, and took nothing.
    NotTaken(String),
    /// There is no more to be done.
    Final(RelayError),
}

impl Relay {
    /// A way that is not open yet, for the gateway of this id.
    #[must_use]
    pub fn new(mesh: Mesh, not: String) -> Self {
        Self { mesh, not, line: tokio::sync::Mutex::default() }
    }

    /// Opens the way, to find out early whether it can be.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn open(&self, deadline: Instant) -> Result<(), RelayError> {
        self.line(deadline).await.map(drop)
    }

    /// Runs a turn to its end. The pieces of the reply go to `pieces` on the way. A turn whose future is dropped is
    /// aborted. One that may have left already, when another process of ours `began` it, is looked for first.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn run(
        &self,
        turn: &Turn,
        began: Option<Timestamp>,
        pieces: &mpsc::Sender<String>,
    ) -> Result<Outcome, RelayError> {
        let mut turn = turn.clone();
        let mut attempt = began.map(|sent_at| Attempt { boot_id: None, sent_at, is_ours: false });
        loop {
            let line = self.patiently(&turn, attempt.as_ref()).await?;
            let watch = Watch::new(&line.client, &turn);
            let step = match &mut attempt {
                None => self.begin(&line, &turn, &mut attempt, pieces).await,
                Some(before) => self.resume(&line, &mut turn, before, pieces).await,
            };
            match step {
                Ok(outcome) => {
                    watch.over();
                    return Ok(outcome);
                }
                // The guard aborts what may still be running.
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Lost(how) | Setback::NotTaken(how)) => {
                    watch.over();
                    tracing::info!(how, run = turn.run_id, "the way to our own gateway was lost");
                    self.forget(&line).await;
                    pause(LOOK_AGAIN, turn.deadline).await.map_err(|_| RelayError::Deadline)?;
                }
            }
        }
    }

    /// Stops a turn that nobody wants any more; over a new connection if need be, for a moment.
    pub async fn abort(&self, turn: &Turn) {
        let deadline = Instant::now() + ABORT;
        let Ok(line) = self.line(deadline).await else { return };
        let aborted = line.client.call(&abort_of(&turn.session, &turn.run_id), deadline).await;
        if let Err(error) = aborted {
            tracing::warn!(%error, run = turn.run_id, "a turn could not be aborted");
        }
    }

    /// The connection, waited for while the gateway is away: for a moment, or as long as the turn has, if it has left.
    async fn patiently(&self, turn: &Turn, sent: Option<&Attempt>) -> Result<Arc<Line>, RelayError> {
        let patience = match sent {
            None => turn.deadline.min(Instant::now() + PATIENCE),
            Some(_) => turn.deadline,
        };
        loop {
            match self.line(patience).await {
                Err(RelayError::Unreachable(error)) if may_pass(&error) => {
                    if Instant::now() + LOOK_AGAIN >= patience {
                        return Err(match sent {
                            None => RelayError::Unreachable(error),
                            Some(_) => RelayError::Unknown(error.to_string()),
                        });
                    }
                    sleep(LOOK_AGAIN).await;
                }
                line => return line,
            }
        }
    }

    async fn line(&self, deadline: Instant) -> Result<Arc<Line>, RelayError> {
        let mut kept = self.line.lock().await;
        if let Some(line) = &*kept {
            return Ok(Arc::clone(line));
        }
        let gateway = OwnGateway::connect(&self.mesh, deadline).await.map_err(RelayError::Unreachable)?;
        let identity =
            gateway.call(&GatewayIdentityGet {}, deadline).await.map_err(RelayError::Unreachable)?;
        if identity.device_id == self.not {
            return Err(RelayError::Itself);
        }
        let line = Arc::new(Line { client: gateway.into_client(), ready: Mutex::default() });
        *kept = Some(Arc::clone(&line));
        Ok(line)
    }

    async fn forget(&self, lost: &Arc<Line>) {
        let mut kept = self.line.lock().await;
        // Somebody may have made a new one meanwhile.
        if kept.as_ref().is_some_and(|line| Arc::ptr_eq(line, lost)) {
            *kept = None;
        }
    }

    /// Sets the session up, and sends the turn for the first time.
    async fn begin(
        &self,
        line: &Line,
        turn: &Turn,
        attempt: &mut Option<Attempt>,
        pieces: &mpsc::Sender<String>,
    ) -> Result<Outcome, Setback> {
        line.set_up(turn).await.map_err(|error| setback(error, RelayError::Refused))?;
        *attempt = Some(Attempt::now(&line.client));
        let sent = self.send(line, turn, pieces).await;
        if matches!(sent, Err(Setback::NotTaken(_))) {
            *attempt = None;
        }
        sent
    }

    /// Looks what became of a turn, and goes on from there.
    async fn resume(
        &self,
        line: &Line,
        turn: &mut Turn,
        attempt: &mut Attempt,
        pieces: &mpsc::Sender<String>,
    ) -> Result<Outcome, Setback> {
        loop {
            let sought = Sought { session: &turn.session, run_id: &turn.run_id, deadline: turn.deadline };
            let unseen = |error: CallError| setback(error, |error| RelayError::Unknown(error.to_string()));
            let sign = look(&line.client, sought, attempt.sent_at).await.map_err(unseen)?;
            tracing::debug!(sign = sign.name(), run = turn.run_id, "looked");
            match sign {
                Sign::Answered(row) => return Ok(Outcome::Reply(row.text())),
                Sign::Taken | Sign::Queued | Sign::Held => {
                    let over = look::until_over(&line.client, sought, attempt).await.map_err(unseen)?;
                    if let Some(outcome) = over {
                        return Ok(outcome);
                    }
                    continue;
                }
                // It never ran, and its key is refused.
                Sign::Interrupted => turn.run_id = next_run_id(&turn.run_id),
                Sign::None { reaches_back } if reaches_back || attempt.is_remembered_by(&line.client) => {}
                Sign::None { .. } => {
                    let why = "our own gateway was restarted since, and shows no trace of it";
                    return Err(Setback::Final(RelayError::Unknown(why.to_owned())));
                }
            }
            line.set_up(turn).await.map_err(unseen)?;
            let before = std::mem::replace(attempt, Attempt::now(&line.client));
            let sent = self.send(line, turn, pieces).await;
            if matches!(sent, Err(Setback::NotTaken(_))) {
                // That this attempt was turned away says nothing about the one before it.
                *attempt = before;
            }
            return sent;
        }
    }

    /// Sends the turn and waits for its own result.
    async fn send(
        &self,
        line: &Line,
        turn: &Turn,
        pieces: &mpsc::Sender<String>,
    ) -> Result<Outcome, Setback> {
        let mut events = line.client.events();
        let run = line.client.start(&request(turn), turn.deadline).await;
        let run = run.map_err(|error| setback(error, RelayError::Refused))?;
        if run.is_in_flight() {
            // Its result goes to the connection that started it.
            return Err(Setback::Lost("the run belongs to another connection".to_owned()));
        }
        let finished = run.finished(turn.deadline);
        tokio::pin!(finished);
        let outcome = loop {
            tokio::select! {
                // What was said before the result is passed on before it.
                biased;
                event = events.next() => match event {
                    Some(event) => pass_on(&event, &turn.run_id, pieces).await,
                    None => break finished.await,
                },
                outcome = &mut finished => break outcome,
            }
        };
        match outcome.map_err(|error| setback(error, RelayError::Refused))? {
            Outcome::Failed(reason) if never_began(&reason) => Err(Setback::Lost(reason)),
            outcome => Ok(outcome),
        }
    }
}

impl Line {
    /// Makes sure, before the turn leaves, that the agent may do no more than it should in this session.
    async fn set_up(&self, turn: &Turn) -> Result<(), CallError> {
        let known = self.ready.lock().unwrap_or_else(PoisonError::into_inner).get(&turn.session).cloned();
        if known.as_ref() == Some(&turn.permission_mode) {
            return Ok(());
        }
        if turn.permission_mode.is_some() {
            // `full` is the gateway's own default, and to set it takes an admin.
            let permission_mode = turn.permission_mode.clone().filter(|mode| mode != "full");
            let patch = SessionsPatch { key: turn.session.clone(), permission_mode };
            self.client.call(&patch, turn.deadline).await?;
        }
        if known.is_none() {
            // Not awaited: the gateway handles requests in order.
            self.client.tell(&MessagesSubscribe { key: turn.session.clone() })?;
        }
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() >= MAX_READY {
            // Sessions are the peers' to name. Who is forgotten is set up again.
            ready.clear();
        }
        ready.insert(turn.session.clone(), turn.permission_mode.clone());
        Ok(())
    }
}

impl Attempt {
    /// One that leaves now.
    fn now(client: &Client) -> Self {
        Self { boot_id: client.hello().server.boot_id.clone(), sent_at: Timestamp::now(), is_ours: true }
    }
}

/// Aborts a turn that is dropped before its end.
struct Watch {
    client: Client,
    session: String,
    run_id: String,
    armed: bool,
}

impl Watch {
    fn new(client: &Client, turn: &Turn) -> Self {
        Self {
            client: client.clone(),
            session: turn.session.clone(),
            run_id: turn.run_id.clone(),
            armed: true,
        }
    }

    fn over(mut self) {
        self.armed = false;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.armed {
            // Where this cannot be written, the connection is gone.
            let _ = self.client.tell(&abort_of(&self.session, &self.run_id));
        }
    }
}

fn abort_of(session: &str, run_id: &str) -> ChatAbort {
    ChatAbort { session_key: session.to_owned(), run_id: Some(run_id.to_owned()) }
}

fn request(turn: &Turn) -> Agent {
    Agent {
        message: turn.message.clone(),
        idempotency_key: turn.run_id.clone(),
        session_key: Some(turn.session.clone()),
        extra_system_prompt: turn.system.clone(),
        input_provenance: turn.provenance.clone(),
        ..Agent::default()
    }
}

/// What it means that a request has no good answer; `refused` says what a refusal means.
fn setback(error: CallError, refused: impl FnOnce(CallError) -> RelayError) -> Setback {
    match error {
        CallError::Lost(how) | CallError::Unsent(how) => Setback::Lost(how.to_string()),
        CallError::Decode(error) => Setback::Lost(format!("an answer that makes no sense: {error}")),
        CallError::Deadline => Setback::Final(RelayError::Deadline),
        CallError::Refused(shape) if is_transient(&shape) => Setback::NotTaken(shape.message),
        error => Setback::Final(refused(error)),
    }
}

/// Whether a gateway may let us in a moment later.
fn may_pass(error: &MeshError) -> bool {
    let source = match error {
        MeshError::OwnGateway { source, .. } => source,
        MeshError::OwnGatewayCall { source } => {
            return matches!(source, CallError::Lost(_) | CallError::Unsent(_));
        }
        _ => return false,
    };
    match &**source {
        ConnectError::Refused(shape) => is_transient(shape),
        ConnectError::Tcp { .. } | ConnectError::Http(503) | ConnectError::Lost { .. } => true,
        _ => false,
    }
}

fn is_transient(shape: &ErrorShape) -> bool {
    matches!(shape.fault(), Fault::Unavailable { .. })
}

/// Passes a piece of our run's reply on. Text that is taken back cannot be: the whole reply counts in the end.
async fn pass_on(event: &GatewayEvent, run_id: &str, pieces: &mpsc::Sender<String>) {
    if &*event.name != "chat" {
        return;
    }
    let Ok(event) = event.read::<ChatEvent>() else { return };
    if event.run_id == run_id
        && event.state == ChatState::Delta
        && !event.replace
        && let Some(text) = event.delta_text
    {
        // Who listened may be gone.
        let _ = pieces.send(text).await;
    }
}
