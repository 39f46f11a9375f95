//! A connection in memory: what an A2A client asks for goes the way of every other client's requests.

use std::sync::{Arc, Mutex, OnceLock};

use openclaw_protocol::ErrorShape;
use openclaw_protocol::a2a::VERSION;
use openclaw_protocol::connect::{ClientInfo, Granted};
use openclaw_protocol::event::ChatEvent;
use openclaw_protocol::frame::{Frame, encode_request};
use openclaw_protocol::methods::{SCOPE_READ, SCOPE_WRITE};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Caller;
use crate::auth::Way;
use crate::conn::Conn;
use crate::methods::Desk;
use crate::outbox::{Out, Outbox};
use crate::principal::Principal;
use crate::shared::{Shared, lock};

/// The id of the one request that a line is for.
const ID: &str = "1";

/// A connection of a peer that has no socket.
pub(super) struct Line {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    desk: Desk,
    queue: mpsc::Receiver<Out>,
}

/// What is heard on it.
#[derive(Debug)]
pub(super) enum Heard {
    /// An answer to the request.
    Answer(Result<Box<RawValue>, ErrorShape>),
    /// How a run of this peer goes on.
    Chat(Box<ChatEvent>),
}

impl Line {
    /// A line that hears how the caller's runs go on, if the policy lets him.
    pub(super) fn open(shared: &Arc<Shared>, caller: &Caller) -> Self {
        let limits = &shared.config.limits;
        let (outbox, queue) =
            Outbox::new(limits.buffered_frames, limits.buffered_bytes, Arc::clone(&shared.budget));
        let rules = shared.access().rules(&caller.member);
        let conn = Arc::new(Conn {
            number: shared.next_connection(),
            principal: Principal::Peer(Arc::clone(&caller.member)),
            way: Way::Token(caller.token),
            client: ClientInfo {
                id: "gateway-client".to_owned(),
                mode: "backend".to_owned(),
                version: VERSION.to_owned(),
                platform: "a2a".to_owned(),
                display_name: Some("A2A".to_owned()),
                device_family: None,
            },
            shown: OnceLock::new(),
            granted: Granted {
                scopes: vec![SCOPE_READ.to_owned(), SCOPE_WRITE.to_owned()],
                ..Granted::default()
            },
            device: None,
            session_scoped: false,
            outbox,
            rules: Mutex::new(Some(rules)),
            names: Mutex::default(),
        });
        lock(&shared.peers).join(&conn);
        let desk = Desk::new(shared, &conn);
        Self { shared: Arc::clone(shared), conn, desk, queue }
    }

    /// Calls a method.
    pub(super) fn ask(&mut self, method: &str, params: &Value) {
        match encode_request(ID, method, params) {
            Ok(text) => self.desk.request(&text),
            Err(error) => tracing::error!(%error, "a request could not be written"),
        }
    }

    /// The next that is heard; none when the line is cut, because the peer's token was taken back or we stop.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        loop {
            let out = tokio::select! {
                biased;
                () = self.conn.outbox.closing().wait() => return None,
                () = self.shared.stop.cancelled() => return None,
                out = self.queue.recv() => out?,
            };
            self.conn.outbox.took(&out);
            match out {
                Out::Answer(text) => match Frame::decode(&text) {
                    Ok(Frame::Response(response)) => {
                        return Some(Heard::Answer(match (response.error, response.payload) {
                            (Some(error), _) => Err(error),
                            (None, Some(payload)) => Ok(payload.to_owned()),
                            (None, None) => Ok(RawValue::NULL.to_owned()),
                        }));
                    }
                    other => tracing::error!(?other, "an answer of ours cannot be read"),
                },
                Out::Event(event) => {
                    if let Some(chat) = event.read("chat") {
                        return Some(Heard::Chat(Box::new(chat)));
                    }
                }
                Out::Ping => {}
            }
        }
    }

    /// The answer to the request.
    pub(super) async fn answer(&mut self) -> Option<Result<Box<RawValue>, ErrorShape>> {
        loop {
            if let Heard::Answer(answer) = self.next().await? {
                return Some(answer);
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        lock(&self.shared.peers).leave(self.conn.number);
    }
}
