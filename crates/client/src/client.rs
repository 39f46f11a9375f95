//! The handle to a connection that stands.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use openclaw_protocol::connect::Hello;
use openclaw_protocol::frame::encode_request;
use openclaw_protocol::methods::Method;
use openclaw_protocol::methods::agent::Agent;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use crate::dial::Socket;
use crate::driver::{Answer, Command, Driver};
use crate::error::CallError;
use crate::life::Life;
use crate::run::Run;
use crate::secret::Secret;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(250);

/// A connection to a gateway that let us in. Cheap to clone; the connection ends when the last handle goes.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    hello: Hello,
    ahead_ms: i64,
    commands: mpsc::UnboundedSender<Command>,
    events: Arc<Publisher>,
    next_id: AtomicU64,
    life: Arc<Life>,
}

/// Something the gateway pushed.
#[derive(Debug, Clone)]
pub struct GatewayEvent {
    /// Its name, such as `chat`.
    pub name: Arc<str>,
    /// Its content, unparsed.
    pub payload: Arc<RawValue>,
}

impl GatewayEvent {
    /// Reads the content.
    ///
    /// # Errors
    /// When it is not what `T` wants.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.payload.get())
    }
}

/// Where events go, once somebody asked for them: its 1,024 places are the largest part of a connection, and most
/// connections never need one.
pub(crate) type Publisher = OnceLock<broadcast::Sender<GatewayEvent>>;

/// The events from the moment of subscription on.
pub struct Events(broadcast::Receiver<GatewayEvent>);

impl Events {
    /// The next event; `None` when the connection ended. A reader that falls more than 1,024 events behind misses the
    /// oldest: events show progress, answers carry results.
    pub async fn next(&mut self) -> Option<GatewayEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => tracing::debug!(missed, "events missed"),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// A request under way; dropped before its answer, it tells the driver to forget it.
pub(crate) struct Pending {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    answers: mpsc::UnboundedReceiver<Answer>,
    life: Arc<Life>,
}

impl Pending {
    /// The next answer to the request.
    pub(crate) async fn answer(&mut self, deadline: Instant) -> Result<Answer, CallError> {
        match timeout_at(deadline, self.answers.recv()).await {
            Err(_) => Err(CallError::Deadline),
            Ok(Some(Answer::Lost(lost))) => Err(CallError::Lost(lost)),
            Ok(Some(Answer::Unsent(lost))) => Err(CallError::Unsent(lost)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(CallError::Lost(self.life.end())),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The driver may be gone; then there is nothing to forget.
        let _ = self.commands.send(Command::Forget { id: self.id });
    }
}

/// The id of a request that leaves before there is a client, whose own begin behind it.
pub(crate) const EARLY: u64 = 0;

/// A request that left together with `connect`.
pub struct Early<M> {
    pending: Pending,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> Early<M> {
    /// Waits for its answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn answer(mut self, deadline: Instant) -> Result<M::Payload, CallError> {
        payload::<M>(self.pending.answer(deadline).await?)
    }
}

impl Client {
    pub(crate) fn start_driver(socket: Socket, hello: Hello, ahead_ms: i64, shown: Option<Secret>) -> Self {
        Self::drive(socket, hello, ahead_ms, shown, None)
    }

    /// The same, where a request has left under the id [`EARLY`].
    pub(crate) fn start_driver_asked<M: Method>(
        socket: Socket,
        hello: Hello,
        ahead_ms: i64,
        shown: Option<Secret>,
    ) -> (Self, Early<M>) {
        let (to, answers) = mpsc::unbounded_channel();
        let client = Self::drive(socket, hello, ahead_ms, shown, Some(to));
        let pending = client.pending(EARLY, answers);
        (client, Early { pending, method: PhantomData })
    }

    fn drive(
        socket: Socket,
        hello: Hello,
        ahead_ms: i64,
        shown: Option<Secret>,
        early: Option<mpsc::UnboundedSender<Answer>>,
    ) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let events = Arc::<Publisher>::default();
        let life = Arc::new(Life::new());
        let mut driver =
            Driver::new(socket, &hello.policy, received, Arc::clone(&events), Arc::clone(&life), shown);
        if let Some(to) = early {
            // Before it reads anything: the answer may be here already.
            driver.expect(EARLY, to);
        }
        tokio::spawn(driver.run());
        let next_id = AtomicU64::new(EARLY + 1);
        Self { shared: Arc::new(Shared { hello, ahead_ms, commands, events, next_id, life }) }
    }

    fn pending(&self, id: u64, answers: mpsc::UnboundedReceiver<Answer>) -> Pending {
        let (commands, life) = (self.shared.commands.clone(), Arc::clone(&self.shared.life));
        Pending { id, commands, answers, life }
    }

    /// What the gateway said when it let us in: its version, our rights, its limits, perhaps a device token.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.shared.hello
    }

    /// By how many milliseconds our clock is ahead of the gateway's: too many, never too few, by the time that its challenge
    /// took to come.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        self.shared.ahead_ms
    }

    /// Whether the connection has ended, as far as we know. One that ends in silence is noticed after two of the
    /// gateway's tick intervals.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.life.has_ended()
    }

    /// How long the gateway has been silent. It ticks every `policy.tickIntervalMs` at least.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.shared.life.silence()
    }

    /// The gateway's events from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.shared.events.get_or_init(|| broadcast::channel(1024).0).subscribe())
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`]; after [`CallError::Lost`] and [`CallError::Deadline`] the request may have been carried out.
    pub async fn call<M: Method>(&self, request: &M, deadline: Instant) -> Result<M::Payload, CallError> {
        let mut pending = self.send(request, false)?;
        payload::<M>(pending.answer(deadline).await?)
    }

    /// Sends a request whose answer nobody waits for. Requests are carried out in the order they were sent.
    ///
    /// # Errors
    /// When it cannot be written or is too large; not when the connection is gone.
    pub fn tell<M: Method>(&self, request: &M) -> Result<(), CallError> {
        match self.send(request, false) {
            Err(CallError::Unsent(_)) => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// Starts a run of an agent and waits until the gateway accepted it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn start(&self, request: &Agent, deadline: Instant) -> Result<Run, CallError> {
        Run::accepted(self.send(request, true)?, deadline).await
    }

    /// Says goodbye and waits, briefly, until it is on its way.
    pub async fn close(self) {
        let _ = self.shared.commands.send(Command::Close);
        let _ = timeout(GOODBYE, self.shared.commands.closed()).await;
    }

    fn send<M: Method>(&self, request: &M, two_answers: bool) -> Result<Pending, CallError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode_request(&id.to_string(), M::NAME, request).map_err(CallError::Encode)?;
        let limit = self.shared.hello.policy.max_payload;
        if frame.len() > limit {
            return Err(CallError::TooLarge { bytes: frame.len(), limit });
        }
        let (to, answers) = mpsc::unbounded_channel();
        if self.shared.commands.send(Command::Request { id, frame, to, two_answers }).is_err() {
            return Err(CallError::Unsent(self.shared.life.end()));
        }
        Ok(self.pending(id, answers))
    }
}

fn payload<M: Method>(answer: Answer) -> Result<M::Payload, CallError> {
    match answer {
        Answer::Good(payload) => {
            let raw = payload.as_ref().map_or("null", |raw| raw.get());
            serde_json::from_str(raw).map_err(CallError::Decode)
        }
        Answer::Bad(error) => Err(CallError::Refused(error)),
        Answer::Lost(lost) => Err(CallError::Lost(lost)),
        Answer::Unsent(lost) => Err(CallError::Unsent(lost)),
    }
}
