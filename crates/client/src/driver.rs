//! The one task that owns the socket.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::{Sink, StreamExt};
use openclaw_protocol::connect::Policy;
use openclaw_protocol::frame::{Event, Response};
use openclaw_protocol::{ErrorShape, Frame};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{GatewayEvent, Publisher};
use crate::dial::Socket;
use crate::error::{Lost, unquoted};
use crate::life::Life;
use crate::run::is_running;
use crate::secret::Secret;

/// What a handle asks of the driver.
pub(crate) enum Command {
    Request { id: u64, frame: String, to: mpsc::UnboundedSender<Answer>, two_answers: bool },
    Forget { id: u64 },
    Close,
}

/// What the driver tells whoever waits for a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Good(Option<Box<RawValue>>),
    Bad(Box<ErrorShape>),
    Lost(Lost),
    /// The same, and the request was never written.
    Unsent(Lost),
}

struct Waiter {
    to: mpsc::UnboundedSender<Answer>,
    /// An answer that says the run goes on is followed by another one.
    two_answers: bool,
    /// That first answer was delivered.
    accepted: bool,
}

pub(crate) struct Driver {
    socket: Socket,
    commands: mpsc::UnboundedReceiver<Command>,
    events: Arc<Publisher>,
    life: Arc<Life>,
    waiters: HashMap<u64, Waiter>,
    /// Something was written to the socket's buffer and is not on its way yet.
    unflushed: bool,
    last_sign: Instant,
    patience: Duration,
    /// What we showed: no error may repeat it.
    shown: Option<Secret>,
}

impl Driver {
    pub(crate) fn new(
        socket: Socket,
        policy: &Policy,
        commands: mpsc::UnboundedReceiver<Command>,
        events: Arc<Publisher>,
        life: Arc<Life>,
        shown: Option<Secret>,
    ) -> Self {
        Self {
            socket,
            commands,
            events,
            life,
            shown,
            waiters: HashMap::new(),
            unflushed: false,
            last_sign: Instant::now(),
            // The reference client gives up after two silent tick intervals.
            patience: Duration::from_millis(policy.tick_interval_ms.clamp(1_000, 3_600_000) * 2),
        }
    }

    /// Somebody waits for the answer to a request that left before.
    pub(crate) fn expect(&mut self, id: u64, to: mpsc::UnboundedSender<Answer>) {
        self.waiters.insert(id, Waiter { to, two_answers: false, accepted: false });
    }

    /// Serves the socket until it dies or nobody holds a handle any more; then every waiter learns how it ended.
    pub(crate) async fn run(mut self) {
        let lost = loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Request { id, frame, to, two_answers }) => {
                        self.waiters.insert(id, Waiter { to, two_answers, accepted: false });
                        if let Err(error) = self.write(Message::text(frame)) {
                            break Lost::from(error);
                        }
                    }
                    Some(Command::Forget { id }) => drop(self.waiters.remove(&id)),
                    Some(Command::Close) | None => break self.say_goodbye().await,
                },
                message = progress(&mut self.socket, &mut self.unflushed) => match message {
                    Ok(message) => {
                        self.last_sign = Instant::now();
                        self.life.sign(self.last_sign);
                        if let Some(lost) = self.handle(message) {
                            break lost;
                        }
                    }
                    Err(lost) => break lost,
                },
                () = sleep_until(self.last_sign + self.patience) => break Lost::Silent,
            }
        };
        tracing::debug!(%lost, waiting = self.waiters.len(), "connection ended");
        // Set before the channel closes: whoever finds it closed finds the reason, too.
        self.life.ends(lost.clone());
        self.commands.close();
        for (_, waiter) in self.waiters.drain() {
            let _ = waiter.to.send(Answer::Lost(lost.clone()));
        }
        // What was asked after the loss ends the same way: nothing is left pending.
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Request { to, .. } = command {
                let _ = to.send(Answer::Unsent(lost.clone()));
            }
        }
    }

    /// Puts a message into the socket's buffer; [`progress`] sends it while it also reads, so that a gateway that
    /// does not read for a while can still be heard.
    fn write(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.unflushed = true;
        std::pin::Pin::new(&mut self.socket).start_send(message)
    }

    async fn say_goodbye(&mut self) -> Lost {
        let _ = tokio::time::timeout(Duration::from_millis(200), self.socket.close(None)).await;
        Lost::Dropped("closed by us".to_owned())
    }

    fn handle(&mut self, message: Message) -> Option<Lost> {
        match message {
            Message::Text(text) => self.handle_text(&text),
            Message::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_text(text),
                Err(_) => tracing::debug!("a binary frame that is no text was ignored"),
            },
            Message::Close(frame) => return Some(Lost::from(frame)),
            // tungstenite has queued the pong; it leaves with the next flush.
            Message::Ping(_) => self.unflushed = true,
            Message::Pong(_) | Message::Frame(_) => {}
        }
        None
    }

    fn handle_text(&mut self, text: &str) {
        match Frame::decode(text) {
            Ok(Frame::Response(response)) => self.deliver(response),
            Ok(Frame::Event(event)) => self.publish(&event),
            Ok(Frame::Request(_) | Frame::Unknown) => tracing::debug!("a frame of no use was ignored"),
            Err(error) => tracing::debug!(%error, "a malformed frame was ignored"),
        }
    }

    fn deliver(&mut self, response: Response<'_>) {
        let Ok(id) = response.id.parse::<u64>() else {
            return tracing::debug!("an answer to a request we never made was ignored");
        };
        // Late, duplicate and foreign answers find no waiter.
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        let answer = match response.error {
            Some(error) => Answer::Bad(unquoted(error, self.shown.as_ref())),
            None if response.ok => Answer::Good(response.payload.map(ToOwned::to_owned)),
            None => Answer::Bad(Box::new(ErrorShape::new("UNKNOWN", "failed without a reason"))),
        };
        let running = waiter.two_answers && response.ok && response.payload.is_some_and(says_running);
        if !running {
            let _ = waiter.to.send(answer);
            self.waiters.remove(&id);
        } else if !std::mem::replace(&mut waiter.accepted, true) {
            // A second `accepted` would be taken for the end of the run.
            let _ = waiter.to.send(answer);
        }
    }

    fn publish(&self, event: &Event<'_>) {
        // Copied only for somebody: a busy gateway sends far more events than anybody reads.
        let Some(events) = self.events.get().filter(|events| events.receiver_count() > 0) else { return };
        let Some(payload) = event.payload else { return };
        let event = GatewayEvent { name: Arc::from(&*event.name), payload: Arc::from(payload.to_owned()) };
        let _ = events.send(event);
    }
}

fn says_running(payload: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Status {
        status: String,
    }
    serde_json::from_str::<Status>(payload.get()).is_ok_and(|s| is_running(&s.status))
}

/// Sends what is buffered and waits for the next message, both at once.
async fn progress(socket: &mut Socket, unflushed: &mut bool) -> Result<Message, Lost> {
    poll_fn(|cx| {
        if *unflushed && let Poll::Ready(flushed) = std::pin::Pin::new(&mut *socket).poll_flush(cx) {
            *unflushed = false;
            if let Err(error) = flushed {
                // A gateway that closes may have said why: that is still to be read.
                tracing::debug!(%error, "writing");
            }
        }
        match socket.poll_next_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Ok(message)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Lost::from(error))),
            Poll::Ready(None) => Poll::Ready(Err(Lost::Dropped("no close frame".to_owned()))),
        }
    })
    .await
}
