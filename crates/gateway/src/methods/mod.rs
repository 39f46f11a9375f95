//! What a client may call, and who may call it.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::frame::{Frame, FrameError, Request, encode_response};
use openclaw_protocol::methods::{SCOPE_ADMIN, SCOPE_PAIRING, SCOPE_READ, SCOPE_WRITE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::conn::{Conn, Place};
use crate::denial::{self, Rule};
use crate::keys::{full_key, target};
use crate::policy::Rules;
use crate::principal::{Member, Principal};
use crate::shared::{Shared, lock};

mod admission;
pub(crate) mod chat;
mod device;
mod inbox;
pub(crate) mod info;
mod run;
mod setup;

pub(crate) use admission::conflict;

/// The events that a client may see, and whether a peer may.
const EVENTS: [(&str, For); 6] = [
    ("connect.challenge", For::All),
    ("tick", For::All),
    ("chat", For::All),
    ("shutdown", For::All),
    ("device.pair.requested", For::Owner),
    ("device.pair.resolved", For::Owner),
];

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    All,
    Owner,
}

impl For {
    fn is(self, who: &Principal) -> bool {
        self == Self::All || who.peer().is_none()
    }
}

/// What a method gives.
type Answer = Result<Value, ErrorShape>;

/// How a request is answered.
enum Step {
    /// At once.
    Now(Answer),
    /// When something has happened. The permit was taken before anything was changed: a request that is refused because
    /// too many wait has done nothing.
    Later(OwnedSemaphorePermit, Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// It has been answered already.
    Answered,
}

/// One call.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    conn: &'a Arc<Conn>,
    request: &'a Request<'a>,
    waiting: &'a Arc<Semaphore>,
}

/// Longest request id, in characters: it is kept until the answer.
const MAX_ID: usize = 512;
/// So many characters of an error's words are sent.
const MAX_WORDS: usize = 512;

type Handler = fn(&Call<'_>) -> Step;

/// Every method: its name, whose it is, the scope it needs, what it does. The hello lists exactly these.
const METHODS: [(&str, For, Option<&str>, Handler); 24] = [
    ("health", For::All, None, |call| Step::Now(Ok(info::health(call.shared, &call.conn.principal)))),
    ("status", For::All, Some(SCOPE_READ), |call| Step::Now(Ok(info::status(call)))),
    ("system-presence", For::Owner, Some(SCOPE_READ), |call| Step::Now(Ok(info::presence(call.shared)))),
    ("gateway.identity.get", For::All, Some(SCOPE_READ), |call| {
        Step::Now(json(&call.shared.config.identity))
    }),
    ("agents.list", For::All, Some(SCOPE_READ), |call| Step::Now(Ok(info::agents(call)))),
    ("agent.identity.get", For::Owner, Some(SCOPE_READ), |call| {
        Step::Now(Ok(info::agent_identity(call.shared)))
    }),
    ("agent", For::All, Some(SCOPE_WRITE), run::agent),
    ("agent.wait", For::All, Some(SCOPE_WRITE), run::wait),
    ("chat.send", For::All, Some(SCOPE_WRITE), run::chat_send),
    ("chat.history", For::All, Some(SCOPE_READ), chat::history),
    ("chat.abort", For::All, Some(SCOPE_WRITE), |call| Step::Now(chat::abort(call))),
    ("sessions.list", For::Owner, Some(SCOPE_READ), |call| Step::Now(chat::sessions(call))),
    ("sessions.messages.subscribe", For::All, Some(SCOPE_READ), |call| Step::Now(chat::subscribe(call))),
    ("device.pair.list", For::Owner, Some(SCOPE_PAIRING), |call| Step::Now(Ok(device::list(call.shared)))),
    ("device.pair.approve", For::Owner, Some(SCOPE_PAIRING), device::approve),
    ("device.pair.reject", For::Owner, Some(SCOPE_PAIRING), |call| Step::Now(device::reject(call))),
    ("device.pair.remove", For::Owner, Some(SCOPE_PAIRING), device::remove),
    ("device.pair.setupCode", For::Owner, Some(SCOPE_ADMIN), |call| Step::Now(setup::mint(call))),
    ("mesh.inbox.list", For::Owner, Some(SCOPE_PAIRING), |call| Step::Now(Ok(inbox::list(call.shared)))),
    ("mesh.inbox.show", For::Owner, Some(SCOPE_PAIRING), |call| Step::Now(inbox::show(call))),
    ("mesh.inbox.approve", For::Owner, Some(SCOPE_PAIRING), inbox::approve),
    ("mesh.inbox.reject", For::Owner, Some(SCOPE_PAIRING), inbox::reject),
    ("mesh.pause", For::Owner, Some(SCOPE_PAIRING), |call| inbox::pause(call, true)),
    ("mesh.resume", For::Owner, Some(SCOPE_PAIRING), |call| inbox::pause(call, false)),
];

/// The names that the hello lists.
pub(crate) fn names(who: &Principal) -> Vec<String> {
    METHODS.iter().filter(|(_, whose, ..)| whose.is(who)).map(|(name, ..)| (*name).to_owned()).collect()
}

/// The events that the hello lists.
pub(crate) fn events(who: &Principal) -> Vec<String> {
    EVENTS.iter().filter(|(_, whose)| whose.is(who)).map(|(name, _)| (*name).to_owned()).collect()
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
        if request.id.chars().count() > MAX_ID {
            return self.invalid("{}", "at /id: must NOT have more than 512 characters");
        }
        let call = Call { shared: &self.shared, conn: &self.conn, request: &request, waiting: &self.waiting };
        self.shared.metrics.request();
        match dispatch(&call) {
            Step::Now(answer) => {
                if let Err(error) = &answer {
                    let from = self.conn.principal.key();
                    self.shared.refused(from, &request.id, &request.method, error);
                }
                reply(&self.conn, &request.id, &answer);
            }
            Step::Later(permit, answer) => self.later(request.id.into_owned(), permit, answer),
            Step::Answered => {}
        }
    }

    fn invalid(&self, text: &str, why: &str) {
        let id = id_of(text).filter(|id| !id.is_empty() && id.chars().count() <= MAX_ID);
        let error = ErrorShape::invalid(format!("invalid request frame: {}", beginning(why)));
        reply(&self.conn, id.as_deref().unwrap_or("invalid"), &Err(error));
    }

    fn later(
        &self,
        id: String,
        permit: OwnedSemaphorePermit,
        answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    ) {
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

/// Checks who calls, and with which scope, before anything else of a request is looked at.
fn dispatch(call: &Call<'_>) -> Step {
    if let Err(denied) = count(call) {
        return Step::Now(Err(denied));
    }
    let name = &*call.request.method;
    let known = METHODS.iter().find(|(method, ..)| *method == name);
    let Some((_, whose, scope, handler)) = known else { return Step::Now(Err(unknown(call))) };
    if let Some(missing) = scope.filter(|scope| !call.conn.granted.allows(scope)) {
        return Step::Now(Err(ErrorShape::missing_scope(missing)));
    }
    // What is the owner's does not exist for others.
    if whose.is(&call.conn.principal) { handler(call) } else { Step::Now(Err(unknown(call))) }
}

/// Counts a request of a peer.
fn count(call: &Call<'_>) -> Result<(), ErrorShape> {
    match (call.conn.principal.peer(), call.conn.rules()) {
        (Some(member), Some(rules)) => count_request(call.shared, member, &rules),
        _ => Ok(()),
    }
}

/// Counts a request of a peer, however it came.
pub(crate) fn count_request(shared: &Shared, member: &Member, rules: &Rules) -> Result<(), ErrorShape> {
    let most = rules.requests_per_minute;
    let counted = lock(&shared.meters).request(&member.key, most, Instant::now());
    counted.map_err(|wait| denial::later(Rule::RequestsPerMinute, most, wait))
}

/// What is no method. As at the real gateway, only an admin learns that it is none.
fn unknown(call: &Call<'_>) -> ErrorShape {
    match &*call.request.method {
        "connect" => ErrorShape::invalid("connect is only valid as the first request"),
        _ if !call.conn.granted.allows(SCOPE_ADMIN) => ErrorShape::missing_scope(SCOPE_ADMIN),
        name => ErrorShape::invalid(format!("unknown method: {}", beginning(name))),
    }
}

/// The id of a frame that is otherwise wrong. Nothing but the id is kept: as a tree, such a frame would take twelve
/// times its size, and it may have 25 MiB.
fn id_of(text: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    serde_json::from_str::<Id<'_>>(text).ok().map(|frame| frame.id)
}

/// Errors quote what they complain about: that can be as long as a frame.
pub(crate) fn beginning(text: &str) -> &str {
    text.char_indices().nth(MAX_WORDS).map_or(text, |(end, _)| &text[..end])
}

pub(crate) fn reply(conn: &Conn, id: &str, answer: &Answer) {
    let text = encode_response(id, answer.as_ref().ok(), answer.as_ref().err());
    match text {
        Ok(text) => conn.outbox.answer(text),
        Err(error) => tracing::error!(%error, "an answer could not be written"),
    }
}

impl Call<'_> {
    /// The session that a key means to this client.
    fn session(&self, key: &str) -> Result<Place, ErrorShape> {
        self.allowed(full_key(key)?)
    }

    /// The session that a `sessionKey` and an `agentId` mean to this client.
    fn target(&self, key: Option<&str>, agent: Option<&str>) -> Result<Place, ErrorShape> {
        self.allowed(target(key, agent)?)
    }

    fn allowed(&self, full: String) -> Result<Place, ErrorShape> {
        let agent = full.split(':').nth(1).unwrap_or_default().to_owned();
        let place = self.conn.session(full);
        match self.conn.rules() {
            Some(rules) if !rules.agents.allow(&agent) => Err(denial::forbidden(Rule::Agents)),
            Some(rules) if !rules.sessions.allow(&place.name) => Err(denial::forbidden(Rule::Sessions)),
            _ => Ok(place),
        }
    }

    /// For a request that has to wait: taken before it changes anything.
    fn permit(&self) -> Result<OwnedSemaphorePermit, ErrorShape> {
        Arc::clone(self.waiting)
            .try_acquire_owned()
            .map_err(|_| ErrorShape::unavailable("too many requests are waiting", "too-many-requests", 1000))
    }

    /// The parameters; absent ones are an empty object.
    fn params<P: DeserializeOwned>(&self) -> Result<P, ErrorShape> {
        let text = self.request.params.map_or("{}", |raw| raw.get());
        serde_json::from_str(text).map_err(|error| self.invalid(&error))
    }

    /// In the words of the real gateway, as far as they are for machines.
    fn invalid(&self, why: &dyn std::fmt::Display) -> ErrorShape {
        let why = why.to_string();
        ErrorShape::invalid(format!("invalid {} params: {}", self.request.method, beginning(&why)))
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
        let listed = [
            "health",
            "status",
            "system-presence",
            "gateway.identity.get",
            "agents.list",
            "agent.identity.get",
            "agent",
            "agent.wait",
            "chat.send",
            "chat.history",
            "chat.abort",
            "sessions.list",
            "sessions.messages.subscribe",
            "device.pair.list",
            "device.pair.approve",
            "device.pair.reject",
            "device.pair.remove",
            "device.pair.setupCode",
            "mesh.inbox.list",
            "mesh.inbox.show",
            "mesh.inbox.approve",
            "mesh.inbox.reject",
            "mesh.pause",
            "mesh.resume",
        ];
        assert_eq!(names(&Principal::Owner), listed);
    }

    #[test]
    fn a_peer_may_talk_and_look_after_what_is_his() {
        let peer = Principal::Peer(Default::default());
        let listed = [
            "health",
            "status",
            "gateway.identity.get",
            "agents.list",
            "agent",
            "agent.wait",
            "chat.send",
            "chat.history",
            "chat.abort",
            "sessions.messages.subscribe",
        ];
        assert_eq!(names(&peer), listed);
        assert_eq!(events(&peer), ["connect.challenge", "tick", "chat", "shutdown"]);
    }

    #[test]
    fn only_the_id_of_a_wrong_frame_is_read() {
        // A tree of it could not even be built: serde_json stops at a depth of 128.
        let deep = format!(r#"{{"id":"7","x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
        assert_eq!(id_of(&deep).as_deref(), Some("7"));
        assert!(matches!(id_of(r#"{"x":1,"id":"7"}"#), Some(Cow::Borrowed("7"))));
        for none in ["{}", "[]", r#"{"id":7}"#, r#"{"id":null}"#, "7"] {
            assert_eq!(id_of(none), None, "{none}");
        }
    }
}
