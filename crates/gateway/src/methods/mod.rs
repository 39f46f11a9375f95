//! What a client may call, and who may call it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::frame::{Frame, FrameError, Request, encode_response};
use openclaw_protocol::methods::{SCOPE_ADMIN, SCOPE_PAIRING, SCOPE_READ, SCOPE_WRITE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::peers::Conn;
use crate::shared::Shared;

pub(crate) mod chat;
mod device;
pub(crate) mod info;
mod run;

/// The events that a client may see.
pub(crate) const EVENTS: [&str; 6] =
    ["connect.challenge", "tick", "chat", "shutdown", "device.pair.requested", "device.pair.resolved"];

/// What a method gives.
type Answer = Result<Value, ErrorShape>;

/// How a request is answered.
enum Step {
    /// At once.
    Now(Answer),
    /// When something has happened.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// It has been answered already.
    Answered,
}

/// One call.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    conn: &'a Arc<Conn>,
    request: &'a Request<'a>,
}

type Handler = fn(&Call<'_>) -> Step;

/// Every method: its name, the scope it needs, what it does. The hello lists exactly these.
const METHODS: [(&str, Option<&str>, Handler); 19] = [
    ("health", None, |call| Step::Now(Ok(info::health(call.shared)))),
    ("status", Some(SCOPE_READ), |call| Step::Now(info::status(call.shared))),
    ("system-presence", Some(SCOPE_READ), |call| Step::Now(Ok(info::presence(call.shared)))),
    ("gateway.identity.get", Some(SCOPE_READ), |call| Step::Now(json(&call.shared.config.identity))),
    ("agents.list", Some(SCOPE_READ), |call| Step::Now(Ok(info::agents(call.shared)))),
    ("agent.identity.get", Some(SCOPE_READ), |call| Step::Now(Ok(info::agent_identity(call.shared)))),
    ("agent", Some(SCOPE_WRITE), run::agent),
    ("agent.wait", Some(SCOPE_WRITE), run::wait),
    ("chat.send", Some(SCOPE_WRITE), run::chat_send),
    ("chat.history", Some(SCOPE_READ), |call| Step::Now(chat::history(call))),
    ("chat.abort", Some(SCOPE_WRITE), |call| Step::Now(chat::abort(call))),
    ("sessions.list", Some(SCOPE_READ), |call| Step::Now(chat::sessions(call))),
    ("sessions.messages.subscribe", Some(SCOPE_READ), |call| Step::Now(chat::subscribe(call))),
    ("device.pair.list", Some(SCOPE_PAIRING), |call| Step::Now(Ok(device::list(call.shared)))),
    ("device.pair.approve", Some(SCOPE_PAIRING), device::approve),
    ("device.pair.reject", Some(SCOPE_PAIRING), |call| Step::Now(device::reject(call))),
    ("device.pair.remove", Some(SCOPE_PAIRING), device::remove),
    ("connect", None, |_| Step::Now(Err(ErrorShape::invalid("connect is only valid as the first request")))),
    ("", Some(SCOPE_ADMIN), |call| {
        Step::Now(Err(ErrorShape::invalid(format!("unknown method: {}", call.request.method))))
    }),
];

/// The names that the hello lists.
pub(crate) fn names() -> Vec<String> {
    let listed = METHODS.iter().map(|(name, ..)| *name).filter(|name| !matches!(*name, "" | "connect"));
    listed.map(str::to_owned).collect()
}

/// Takes the requests of one connection.
pub(crate) struct Desk {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    /// One permit a request that waits for something.
    waiting: Arc<Semaphore>,
}

impl Desk {
    pub(crate) fn new(shared: &Arc<Shared>, conn: &Arc<Conn>) -> Self {
        let waiting = Arc::new(Semaphore::new(shared.config.limits.waiting_requests));
        Self { shared: Arc::clone(shared), conn: Arc::clone(conn), waiting }
    }

    /// Takes one text.
    pub(crate) fn request(&mut self, text: &str) {
        let request = match Frame::decode(text) {
            Ok(Frame::Request(request)) if !request.id.is_empty() => request,
            // What is not even JSON is ignored, as the real gateway does.
            Err(FrameError::Json(error)) if !error.is_data() => return,
            Err(error) => return self.invalid(text, &error.to_string()),
            Ok(_) => return self.invalid(text, "not a request"),
        };
        let call = Call { shared: &self.shared, conn: &self.conn, request: &request };
        match dispatch(&call) {
            Step::Now(answer) => reply(&self.conn, &request.id, &answer),
            Step::Later(answer) => self.later(request.id.into_owned(), answer),
            Step::Answered => {}
        }
    }

    fn invalid(&self, text: &str, why: &str) {
        let id = serde_json::from_str::<Value>(text).ok();
        let id = id.as_ref().and_then(|frame| frame.get("id")).and_then(Value::as_str);
        let error = ErrorShape::invalid(format!("invalid request frame: {why}"));
        reply(&self.conn, id.filter(|id| !id.is_empty()).unwrap_or("invalid"), &Err(error));
    }

    fn later(&self, id: String, answer: Pin<Box<dyn Future<Output = Answer> + Send>>) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            let error = ErrorShape::unavailable("too many requests are waiting", "too-many-requests", 1000);
            return reply(&self.conn, &id, &Err(error));
        };
        let (conn, stop) = (Arc::clone(&self.conn), self.shared.stop.clone());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                answer = answer => reply(&conn, &id, &answer),
                () = conn.outbox.closing().wait() => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

/// Checks the scope before anything else of a request is looked at.
fn dispatch(call: &Call<'_>) -> Step {
    let name = &*call.request.method;
    let known = METHODS.iter().find(|(method, ..)| *method == name).or(METHODS.last());
    let Some((_, scope, handler)) = known else { return Step::Answered };
    match scope.filter(|scope| !call.conn.granted.allows(scope)) {
        Some(missing) => Step::Now(Err(ErrorShape::missing_scope(missing))),
        None => handler(call),
    }
}

fn reply(conn: &Conn, id: &str, answer: &Answer) {
    let text = encode_response(id, answer.as_ref().ok(), answer.as_ref().err());
    match text {
        Ok(text) => conn.outbox.answer(text),
        Err(error) => tracing::error!(%error, "an answer could not be written"),
    }
}

impl Call<'_> {
    /// The parameters; absent ones are an empty object.
    fn params<P: DeserializeOwned>(&self) -> Result<P, ErrorShape> {
        let text = self.request.params.map_or("{}", |raw| raw.get());
        serde_json::from_str(text).map_err(|error| self.invalid(&error))
    }

    /// In the words of the real gateway, as far as they are for machines.
    fn invalid(&self, why: &dyn std::fmt::Display) -> ErrorShape {
        ErrorShape::invalid(format!("invalid {} params: {why}", self.request.method))
    }
}

/// A payload as a value.
fn json<P: Serialize + ?Sized>(payload: &P) -> Answer {
    serde_json::to_value(payload).map_err(|error| ErrorShape::new("INTERNAL", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_lists_what_there_is() {
        let names = names();
        assert_eq!(names.len(), METHODS.len() - 2);
        assert!(names.iter().any(|name| name == "agent") && !names.iter().any(|name| name == "connect"));
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
