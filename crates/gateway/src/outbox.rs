//! What a connection is still to be told, and the one task that tells it.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Sink, SinkExt};
use openclaw_protocol::frame::encode_event;
use openclaw_protocol::handshake::close_reason;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;

/// Close code for a reader that does not read.
const CLOSE_SLOW: u16 = 1008;
/// When all outboxes together hold too much, each may hold so much less.
const CROWDED: usize = 16;

/// An event, written once for all its readers. Only the number differs among them.
#[derive(Debug)]
pub(crate) struct Event {
    name: &'static str,
    payload: Box<RawValue>,
}

impl Event {
    /// None when the payload is not JSON, which no payload of this crate is.
    pub(crate) fn new<P: Serialize + ?Sized>(name: &'static str, payload: &P) -> Option<Arc<Self>> {
        let payload = to_raw_value(payload).ok()?;
        Some(Arc::new(Self { name, payload }))
    }

    /// Its content, if this is its name and it is what `T` wants.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        (self.name == name).then(|| serde_json::from_str(self.payload.get()).ok()).flatten()
    }

    fn size(&self) -> usize {
        self.payload.get().len()
    }
}

/// One thing to send.
#[derive(Debug)]
pub(crate) enum Out {
    Answer(String),
    Event(Arc<Event>),
    Ping,
}

impl Out {
    fn size(&self) -> usize {
        match self {
            Self::Answer(text) => text.len(),
            Self::Event(event) => event.size(),
            Self::Ping => 0,
        }
    }
}

/// Why and how a connection ends; the first to say so decides.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    token: CancellationToken,
    frame: OnceLock<(u16, Cow<'static, str>)>,
}

impl Closing {
    /// Ends the connection with a close frame.
    pub(crate) fn with(&self, code: u16, reason: impl Into<Cow<'static, str>>) {
        if !self.token.is_cancelled() {
            let _ = self.frame.set((code, reason.into()));
            self.token.cancel();
        }
    }

    /// Ends the connection without one: the peer has gone or said goodbye itself.
    pub(crate) fn silently(&self) {
        self.token.cancel();
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) {
        self.token.cancelled().await;
    }

    fn message(&self) -> Option<Message> {
        let (code, reason) = self.frame.get()?;
        let reason = close_reason(reason).into();
        Some(Message::Close(Some(CloseFrame { code: (*code).into(), reason })))
    }
}

/// The sending end of a connection. Never blocks: who does not read is dropped.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Out>,
    bytes: AtomicUsize,
    skipped: AtomicU64,
    slow: CancellationToken,
    max_bytes: usize,
    budget: Arc<Budget>,
    closing: Closing,
}

impl Outbox {
    /// An outbox and what its writer reads from.
    pub(crate) fn new(
        max_frames: usize,
        max_bytes: usize,
        budget: Arc<Budget>,
    ) -> (Arc<Self>, mpsc::Receiver<Out>) {
        let (queue, receiver) = mpsc::channel(max_frames.max(2));
        let outbox = Self {
            queue,
            bytes: AtomicUsize::new(0),
            skipped: AtomicU64::new(0),
            slow: CancellationToken::new(),
            max_bytes,
            budget,
            closing: Closing::default(),
        };
        (Arc::new(outbox), receiver)
    }

    /// How this connection ends.
    pub(crate) fn closing(&self) -> &Closing {
        &self.closing
    }

    /// Sends an answer. It is never skipped: a reader that has no room for it is dropped.
    pub(crate) fn answer(&self, text: String) {
        let size = text.len();
        let held = self.bytes.load(Ordering::Relaxed);
        // A single answer may be larger than the bound when nothing else waits.
        if (held > 0 && held + size > self.max_bytes()) || !self.push(Out::Answer(text)) {
            self.drop_reader();
        }
    }

    /// Sends an event, or skips it when the reader is behind; the gap in `seq` tells the reader.
    pub(crate) fn event(&self, event: &Arc<Event>) {
        let behind = self.queue.capacity() <= self.queue.max_capacity() / 2
            || self.bytes.load(Ordering::Relaxed) + event.size() > self.max_bytes() / 2;
        if behind || !self.push(Out::Event(Arc::clone(event))) {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a WebSocket ping.
    pub(crate) fn ping(&self) {
        self.push(Out::Ping);
    }

    /// Little once all outboxes together hold too much: then those that hold the most make room, and a reader that keeps
    /// up notices nothing.
    fn max_bytes(&self) -> usize {
        if self.budget.is_used_up() { self.max_bytes / CROWDED } else { self.max_bytes }
    }

    fn push(&self, out: Out) -> bool {
        let size = out.size();
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.budget.add(size);
        let pushed = self.queue.try_send(out).is_ok();
        if !pushed {
            self.release(size);
        }
        pushed
    }

    /// For a reader that takes from the queue himself: this waits no longer.
    pub(crate) fn took(&self, out: &Out) {
        self.release(out.size());
    }

    fn release(&self, size: usize) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        self.budget.sub(size);
    }

    fn drop_reader(&self) {
        self.closing.with(CLOSE_SLOW, "slow consumer");
        self.slow.cancel();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.sub(self.bytes.load(Ordering::Relaxed));
    }
}

/// The writer: sends until the connection closes, then what is still queued, then the close frame.
pub(crate) async fn write<S>(outbox: &Outbox, mut queue: mpsc::Receiver<Out>, mut sink: S, patience: Duration)
where
    S: Sink<Message> + Unpin,
{
    let mut writer = Writer { outbox, seq: 0 };
    tokio::select! {
        () = writer.run(&mut queue, &mut sink) => outbox.closing.silently(),
        () = outbox.slow.cancelled() => {}
        () = outbox.closing.wait() => {}
    }
    let farewell = async {
        while !outbox.slow.is_cancelled()
            && let Ok(out) = queue.try_recv()
        {
            let message = writer.message(out);
            sink.feed(message).await.ok()?;
        }
        if let Some(close) = outbox.closing.message() {
            sink.send(close).await.ok()?;
        }
        sink.flush().await.ok()
    };
    // A peer that is gone or does not read cannot hold us.
    let _ = timeout(patience, farewell).await;
}

struct Writer<'a> {
    outbox: &'a Outbox,
    seq: u64,
}

impl Writer<'_> {
    /// Ends when the socket does.
    async fn run<S: Sink<Message> + Unpin>(&mut self, queue: &mut mpsc::Receiver<Out>, sink: &mut S) {
        while let Some(out) = queue.recv().await {
            let message = self.message(out);
            if sink.feed(message).await.is_err() {
                return;
            }
            // Several frames at a time cost one write.
            if queue.is_empty() && sink.flush().await.is_err() {
                return;
            }
        }
    }

    fn message(&mut self, out: Out) -> Message {
        self.outbox.release(out.size());
        match out {
            Out::Answer(text) => Message::text(text),
            Out::Ping => Message::Ping(Vec::new().into()),
            Out::Event(event) => {
                self.seq += 1 + self.outbox.skipped.swap(0, Ordering::Relaxed);
                let text = encode_event(event.name, &*event.payload, Some(self.seq));
                text.map_or_else(|_| Message::Ping(Vec::new().into()), Message::text)
            }
        }
    }
}
