//! How a task goes on, as server-sent events. All is bounded: an event, the stream, the silence in it, and our time.
//!
//! A stream that ends early is no failure: the task is asked after, and listened to again.

use std::collections::VecDeque;

use openclaw_client::protocol::sse::Events;
use reqwest::Response;
use tokio::time::{Duration, Instant, timeout_at};

use super::A2aError;
use super::http::{MAX_ANSWER, failed};
use super::task::Happening;
use super::wire::Reply;

/// Largest stream, in bytes. A piece of four letters takes some three hundred.
const MAX_STREAM: usize = 16 * 1024 * 1024;
/// Longest silence. Servers that care show every 15 s or so that they are there; the others are asked.
const SILENCE: Duration = Duration::from_secs(60);

/// A stream of one request.
pub(super) struct Stream {
    /// None when all has come.
    response: Option<Response>,
    events: Events,
    come: VecDeque<String>,
    /// What came in one piece, and is no stream.
    whole: Option<Happening>,
    /// Something came. Before that, nobody knows how the message could be asked after.
    begun: bool,
    /// So many bytes may still come.
    room: usize,
    deadline: Instant,
}

impl Stream {
    pub(super) fn new(response: Response, deadline: Instant) -> Self {
        Self {
            response: Some(response),
            events: Events::new(MAX_ANSWER),
            come: VecDeque::new(),
            whole: None,
            begun: false,
            room: MAX_STREAM,
            deadline,
        }
    }

    /// One that came as a whole.
    pub(super) fn of_one(happening: Happening, deadline: Instant) -> Self {
        Self {
            response: None,
            events: Events::new(0),
            come: VecDeque::new(),
            whole: Some(happening),
            begun: true,
            room: 0,
            deadline,
        }
    }

    /// What happens next; nothing at the end.
    ///
    /// # Errors
    /// When the stream breaks, or is none.
    pub(super) async fn next(&mut self) -> Result<Option<Happening>, A2aError> {
        if let Some(whole) = self.whole.take() {
            return Ok(Some(whole));
        }
        loop {
            if let Some(data) = self.come.pop_front() {
                self.begun = true;
                let event: Reply<Happening> =
                    serde_json::from_str(&data).map_err(|error| A2aError::BadAnswer(error.to_string()))?;
                return event.into_result().map(Some);
            }
            let Some(response) = &mut self.response else { return Ok(None) };
            let silence = if self.begun { Instant::now() + SILENCE } else { self.deadline };
            let bytes = timeout_at(silence.min(self.deadline), response.chunk()).await;
            match bytes.map_err(|_| A2aError::Deadline)?.map_err(failed)? {
                Some(bytes) => {
                    self.room = self.room.checked_sub(bytes.len()).ok_or_else(too_much)?;
                    self.come.extend(self.events.feed(&bytes).map_err(|_| too_much())?);
                }
                None => {
                    self.response = None;
                    self.come.extend(std::mem::replace(&mut self.events, Events::new(0)).end());
                }
            }
        }
    }
}

fn too_much() -> A2aError {
    A2aError::BadAnswer("the stream is larger than it may be".to_owned())
}
