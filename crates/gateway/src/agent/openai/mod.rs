//! An agent that is a model behind an OpenAI-compatible interface: Chat Completions, streamed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use openclaw_protocol::sse::Events;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use super::{Agent, AgentFailure, Deltas, ReplyFuture, Turn};
use crate::memory::{End, Memory, Room};

mod answer;
#[cfg(test)]
mod tests;

use answer::Answer;

/// How long the server may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// One event, or one answer that is no stream, has at most so many bytes beside the reply itself.
const MAX_EVENT: usize = 1024 * 1024;
/// So much of a refusal is read.
const MAX_REFUSAL: usize = 16 * 1024;
/// Between two tries of a server that is busy and does not say when to come again: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A server that wants us back at once is given a moment all the same.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The key of the model's server; wiped when dropped.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Takes a key; blanks around it are none of it.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(Zeroizing::new(key.trim().to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// Which model, and how it is asked.
#[derive(Debug, Clone)]
pub struct Model {
    /// The base of the interface, such as `http://127.0.0.1:11434/v1`.
    pub url: String,
    /// The model's name there.
    pub name: String,
    /// The key, if the server wants one.
    pub key: Option<ApiKey>,
    /// The owner's instructions to the model.
    pub system: Option<String>,
    /// How long one answer may take, with all tries.
    pub timeout: Duration,
    /// How many bytes an answer may have.
    pub max_reply: usize,
    /// How much of the conversation the model is told again with each message.
    pub history: Room,
}

/// Why a model cannot be asked. Shows neither the key nor the URL, in which somebody may have put one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The URL is none that we can use.
    #[error("the model's URL is not usable: {0}")]
    Url(&'static str),
    /// The key cannot stand in a header.
    #[error("the key of the model's server holds characters that no key has")]
    Key,
    /// The HTTP client cannot be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Asks a model for each message.
///
/// With each message the model is told the newest part of its session's conversation, which comes from a [`Memory`]:
/// it lives on across restarts, and this agent itself keeps nothing. Who sent the message is told in the system's
/// part, in words that no peer can write.
///
/// A server that is busy (429, 503) is asked again while the turn has time, but never once it has begun to answer. What
/// it says in a refusal is not passed on: it may quote the key or the conversation.
pub struct OpenAiAgent {
    client: Client,
    endpoint: Url,
    headers: HeaderMap,
    model: Model,
    memory: Arc<dyn Memory>,
}

impl fmt::Debug for OpenAiAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiAgent").field("model", &self.model.name).finish_non_exhaustive()
    }
}

impl OpenAiAgent {
    /// An agent that asks this model and has this memory. Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL, or the key, cannot be used.
    pub fn new(model: Model, memory: Arc<dyn Memory>) -> Result<Self, ModelError> {
        // Without a provider reqwest panics; a second call of this changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = endpoint(&model.url)?;
        let is_here = is_loopback(&endpoint);
        if model.key.is_some() && endpoint.scheme() == "http" && !is_here {
            return Err(ModelError::Url("the key would cross the network in plain text; use https"));
        }
        let mut builder = Client::builder()
            .user_agent(concat!("agent-mesh/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .referer(false)
            // The key and the conversation go to the server that was named, and to no other.
            .redirect(Policy::none());
        if is_here {
            // A proxy has another idea of what 127.0.0.1 is.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(ModelError::Client)?;
        let headers = headers(model.key.as_ref())?;
        Ok(Self { client, endpoint, headers, model, memory })
    }
}

impl Agent for OpenAiAgent {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let deadline = Instant::now() + self.model.timeout;
            let cancel = turn.cancel.clone();
            // Whichever way this ends, the request ends with it.
            tokio::select! {
                result = timeout_at(deadline, self.ask(&turn, &deltas, deadline)) => {
                    result.unwrap_or(Err(AgentFailure::TimedOut))
                }
                () = cancel.cancelled() => Err(AgentFailure::Cancelled),
            }
        })
    }
}

impl OpenAiAgent {
    async fn ask(&self, turn: &Turn, deltas: &Deltas, deadline: Instant) -> Result<String, AgentFailure> {
        let request = json!({
            "model": self.model.name, "messages": self.conversation(turn).await, "stream": true,
        });
        let response = self.open(&request.to_string(), turn, deadline).await?;
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_none_or(|kind| !kind.starts_with("application/json"));
        if is_stream { self.stream(response, turn, deltas).await } else { self.whole(response, turn).await }
    }

    /// What the model is told: the owner's instructions, the newest turns of the session that were answered, and the
    /// message.
    async fn conversation(&self, turn: &Turn) -> Vec<Value> {
        let past = self.memory.session(&turn.session_key, self.model.history).await.unwrap_or_else(|error| {
            tracing::warn!(%error, run = turn.run_id, "the conversation so far cannot be read");
            Vec::new()
        });
        let say = |role: &str, text: &str| json!({ "role": role, "content": text });
        let framed = turn.framed();
        let mut messages = Vec::new();
        messages.extend(self.model.system.as_deref().map(|text| say("system", text)));
        messages.extend(framed.system.as_deref().map(|text| say("system", text)));
        for past in past {
            if let End::Replied(reply) = &past.end
                && past.run_id != turn.run_id
            {
                messages.push(say("user", &past.framed()));
                messages.push(say("assistant", reply));
            }
        }
        messages.push(say("user", &framed.message));
        messages
    }

    /// Sends the request, again while the server is busy; gives the answer once it begins.
    async fn open(&self, body: &str, turn: &Turn, deadline: Instant) -> Result<Response, AgentFailure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let request = self.client.post(self.endpoint.clone()).headers(self.headers.clone());
            let response = request
                .body(body.to_owned())
                .send()
                .await
                .map_err(|error| lost(error, turn, "the model's server cannot be reached"))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            let wait = retry_after(response.headers()).unwrap_or(pause).max(SHORTEST_PAUSE);
            if !is_busy || Instant::now() + wait >= deadline {
                return Err(refused(response, turn).await);
            }
            tracing::info!(%status, ?wait, run = turn.run_id, "the model's server is busy");
            // Before the pause: a connection that is kept for nothing is a seat taken from others.
            drop(response);
            sleep(wait).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn stream(
        &self,
        mut response: Response,
        turn: &Turn,
        deltas: &Deltas,
    ) -> Result<String, AgentFailure> {
        let mut events = Events::new(self.model.max_reply.saturating_add(MAX_EVENT));
        let mut answer = Answer::new(self.model.max_reply);
        while let Some(bytes) = chunk(&mut response, turn).await? {
            let complete =
                events.feed(&bytes).map_err(|_| AgentFailure::failed("the model's server sent too much"))?;
            for event in complete {
                let piece = answer.take(&event)?;
                if !piece.is_empty() {
                    deltas.push(piece).await;
                }
            }
        }
        if let Some(event) = events.end() {
            answer.take(&event)?;
        }
        answer.finish()
    }

    /// An answer in one piece: what a server sends that does not know how to stream.
    async fn whole(&self, mut response: Response, turn: &Turn) -> Result<String, AgentFailure> {
        let mut body = Vec::new();
        while let Some(bytes) = chunk(&mut response, turn).await? {
            if body.len() + bytes.len() > self.model.max_reply.saturating_mul(6).saturating_add(MAX_EVENT) {
                return Err(AgentFailure::failed("the model's server sent too much"));
            }
            body.extend_from_slice(&bytes);
        }
        let mut answer = Answer::new(self.model.max_reply);
        answer.take(&String::from_utf8_lossy(&body))?;
        answer.finish()
    }
}

async fn chunk(response: &mut Response, turn: &Turn) -> Result<Option<Bytes>, AgentFailure> {
    response.chunk().await.map_err(|error| lost(error, turn, "the model's answer broke off"))
}

fn endpoint(url: &str) -> Result<Url, ModelError> {
    let mut url = Url::parse(url).map_err(|_| ModelError::Url("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ModelError::Url("it begins with neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ModelError::Url("it holds a name or a password; give the key by file or environment"));
    }
    if !url.path().ends_with("/chat/completions") {
        let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn headers(key: Option<&ApiKey>) -> Result<HeaderMap, ModelError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    if let Some(ApiKey(key)) = key {
        let bearer = Zeroizing::new(format!("Bearer {}", key.as_str()));
        let mut value = HeaderValue::from_str(&bearer).map_err(|_| ModelError::Key)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// When the server wants us back, if it says so in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn refused(mut response: Response, turn: &Turn) -> AgentFailure {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_REFUSAL {
            break;
        }
    }
    let error =
        serde_json::from_slice::<Value>(&body).ok().and_then(|mut body| Some(body.get_mut("error")?.take()));
    let kind = error.as_ref().and_then(answer::kind).map(|kind| format!(" ({kind})")).unwrap_or_default();
    tracing::warn!(%status, kind, run = turn.run_id, "the model's server refused");
    AgentFailure::failed(format!("the model's server answered {}{kind}", status.as_u16()))
}

/// A failure on the way. The sender is told no more than what it means; the log gets the cause, without the URL.
fn lost(error: reqwest::Error, turn: &Turn, what: &'static str) -> AgentFailure {
    let error = error.without_url();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(%error, cause, run = turn.run_id, "{what}");
    AgentFailure::failed(what)
}
