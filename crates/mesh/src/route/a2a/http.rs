//! One A2A agent over HTTP: one request, and its answer in one piece or as a stream.

use openclaw_client::{ConnectError, Fingerprint, Secret};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::A2aError;
use super::stream::Stream;
use super::task::{Happening, Task};
use super::wire::{Card, Reply, Request, SendMessage, TaskId, VERSION};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::route::http::client;

/// Where the card is, from the root.
const CARD: &str = "/.well-known/agent-card.json";
/// Largest answer, in bytes; OpenClaw's own are at most 1 MiB.
pub(super) const MAX_ANSWER: usize = 4 * 1024 * 1024;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// An agent, and how we call it.
pub(super) struct Remote<'a> {
    peer: &'a Peer,
    url: Url,
    http: Client,
    bearer: Option<Secret>,
    deadline: Instant,
}

impl<'a> Remote<'a> {
    pub(super) fn new(mesh: &Mesh, peer: &'a Peer, deadline: Instant) -> Result<Self, MeshError> {
        let unusable = |reason: String| MeshError::NoAddress { to: peer.to.clone(), reason };
        let url = peer.a2a.as_deref().ok_or_else(|| unusable("it has no a2aUrl".to_owned()))?;
        let url: Url = url.parse().map_err(|error| unusable(format!("a2aUrl: {error}")))?;
        let http = client(mesh, peer, &url)?;
        let bearer = mesh.a2a_token(&peer.to.email_prefix)?.cloned();
        Ok(Self { peer, url, http, bearer, deadline })
    }

    pub(super) fn failed(&self, source: A2aError) -> MeshError {
        match (self.peer.dial.pin, Fingerprint::refused_in(&source)) {
            (Some(expected), Some(actual)) => {
                self.peer.failed(ConnectError::PinMismatch { expected, actual })
            }
            _ => MeshError::A2a { to: self.peer.to.clone(), source },
        }
    }

    /// Fetches the card, which is public, and looks whether we speak the same.
    pub(super) async fn card(&self) -> Result<Card, A2aError> {
        let mut place = self.url.clone();
        place.set_path(CARD);
        place.set_query(None);
        let asking = self.http.get(place).header(ACCEPT, JSON);
        let card: Card = match self.ask(asking).await {
            Err(A2aError::Status(404)) => Err(A2aError::Card("there is none".to_owned())),
            Err(A2aError::BadAnswer(why)) => Err(A2aError::Card(why)),
            other => other,
        }?;
        card.check().map_err(A2aError::Card)?;
        Ok(card)
    }

    pub(super) async fn send(&self, message: &SendMessage<'_>) -> Result<Happening, A2aError> {
        self.call("SendMessage", message).await
    }

    /// Sends a message, and hears how its task goes on.
    pub(super) async fn send_streaming(&self, message: &SendMessage<'_>) -> Result<Stream, A2aError> {
        self.stream("SendStreamingMessage", message).await
    }

    /// Hears how a task goes on that was begun before.
    pub(super) async fn subscribe(&self, id: &str) -> Result<Stream, A2aError> {
        self.stream("SubscribeToTask", &TaskId { id }).await
    }

    pub(super) async fn task(&self, id: &str) -> Result<Task, A2aError> {
        self.call("GetTask", &TaskId { id }).await
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<Task, A2aError> {
        self.call("CancelTask", &TaskId { id }).await
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, params: &impl Serialize) -> Result<T, A2aError> {
        self.ask::<Reply<T>>(self.asking(method, params, JSON)?).await?.into_result()
    }

    /// A server that has nothing to stream, such as a refusal, may answer in one piece.
    async fn stream(&self, method: &str, params: &impl Serialize) -> Result<Stream, A2aError> {
        let accept = format!("{EVENTS}, {JSON}");
        let response = self.response(self.asking(method, params, &accept)?).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with(EVENTS)) {
            return Ok(Stream::new(response, self.deadline));
        }
        let answer: Reply<Happening> = self.read(response).await?;
        Ok(Stream::of_one(answer.into_result()?, self.deadline))
    }

    fn asking(
        &self,
        method: &str,
        params: &impl Serialize,
        accept: &str,
    ) -> Result<RequestBuilder, A2aError> {
        let body = serde_json::to_vec(&Request::new(method, params))
            .map_err(|error| A2aError::BadAnswer(error.to_string()))?;
        let asking = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, JSON)
            .header(ACCEPT, accept)
            .header("A2A-Version", VERSION)
            .body(body);
        Ok(match &self.bearer {
            Some(bearer) => asking.bearer_auth(bearer.expose()),
            None => asking,
        })
    }

    async fn ask<T: DeserializeOwned>(&self, asking: RequestBuilder) -> Result<T, A2aError> {
        let response = self.response(asking).await?;
        self.read(response).await
    }

    async fn response(&self, asking: RequestBuilder) -> Result<Response, A2aError> {
        let response = timeout_at(self.deadline, asking.send()).await.map_err(|_| A2aError::Deadline)?;
        let response = response.map_err(failed)?;
        match response.status().as_u16() {
            200..=299 => Ok(response),
            status @ (401 | 403) => Err(A2aError::Unauthorized(status)),
            status => Err(A2aError::Status(status)),
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, A2aError> {
        let bytes = timeout_at(self.deadline, body(response)).await.unwrap_or(Err(A2aError::Deadline))?;
        serde_json::from_slice(&bytes).map_err(|error| A2aError::BadAnswer(error.to_string()))
    }
}

pub(super) fn failed(error: reqwest::Error) -> A2aError {
    // Its address stands in our own words, where it may.
    let error = error.without_url();
    if error.is_connect() { A2aError::Unreachable(error) } else { A2aError::Lost(error) }
}

async fn body(mut response: Response) -> Result<Vec<u8>, A2aError> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_ANSWER {
            return Err(A2aError::BadAnswer(format!("it has more than {MAX_ANSWER} bytes")));
        }
    }
    Ok(bytes)
}
