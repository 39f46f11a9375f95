//! The open connections, and who of them hears what.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use openclaw_protocol::connect::{ClientInfo, Granted};
use openclaw_protocol::methods::{SCOPE_PAIRING, SCOPE_READ};

use crate::outbox::{Event, Outbox};
use crate::principal::Principal;
use crate::shares::Who;

/// Close code of a socket whose device was removed.
const CLOSE_REMOVED: u16 = 4001;

/// One authenticated connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Counts the connections of this process.
    pub(crate) number: u64,
    /// Who it is.
    pub(crate) principal: Principal,
    /// What it says of itself.
    pub(crate) client: ClientInfo,
    /// What it may do.
    pub(crate) granted: Granted,
    /// The device that proved itself.
    pub(crate) device: Option<String>,
    /// Whether it hears only the sessions that it subscribed to.
    pub(crate) session_scoped: bool,
    /// How to tell it something.
    pub(crate) outbox: Arc<Outbox>,
}

impl Conn {
    /// By what its runs are counted, and whose they are.
    pub(crate) fn who(&self) -> Who {
        match &self.principal {
            Principal::Owner => self.device.clone(),
            Principal::Peer(member) => Some(member.key.clone()),
        }
    }
}

/// All of them. Events of runs are found by session, so that ten thousand idle connections cost a run nothing.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    all: HashMap<u64, Peer>,
    every_session: HashMap<u64, Arc<Conn>>,
    by_session: HashMap<String, HashMap<u64, Arc<Conn>>>,
    closed: Option<(u16, &'static str)>,
}

#[derive(Debug)]
struct Peer {
    conn: Arc<Conn>,
    subscriptions: HashSet<String>,
}

impl Peers {
    /// A connection came.
    pub(crate) fn join(&mut self, conn: &Arc<Conn>) {
        if let Some((code, reason)) = self.closed {
            conn.outbox.closing().with(code, reason);
        }
        if conn.granted.allows(SCOPE_READ) && !conn.session_scoped {
            self.every_session.insert(conn.number, Arc::clone(conn));
        }
        let peer = Peer { conn: Arc::clone(conn), subscriptions: HashSet::new() };
        self.all.insert(conn.number, peer);
    }

    /// A connection went.
    pub(crate) fn leave(&mut self, number: u64) {
        self.every_session.remove(&number);
        let subscriptions = self.all.remove(&number).map(|peer| peer.subscriptions).unwrap_or_default();
        for key in subscriptions {
            if let Some(readers) = self.by_session.get_mut(&key) {
                readers.remove(&number);
                if readers.is_empty() {
                    self.by_session.remove(&key);
                }
            }
        }
    }

    /// Subscribes a connection to a session; false when it has too many already.
    pub(crate) fn subscribe(&mut self, number: u64, key: &str, max: usize) -> bool {
        let Some(peer) = self.all.get_mut(&number) else { return false };
        if peer.subscriptions.contains(key) {
            return true;
        }
        if peer.subscriptions.len() >= max {
            return false;
        }
        peer.subscriptions.insert(key.to_owned());
        self.by_session.entry(key.to_owned()).or_default().insert(number, Arc::clone(&peer.conn));
        true
    }

    /// Whether anybody would hear an event of this session.
    pub(crate) fn hears(&self, session: &str) -> bool {
        !self.every_session.is_empty() || self.by_session.contains_key(session)
    }

    /// Tells everybody who hears this session.
    pub(crate) fn tell_session(&self, session: &str, event: &Arc<Event>) {
        let subscribed = self.by_session.get(session).into_iter().flatten();
        let subscribed = subscribed.filter(|(number, _)| !self.every_session.contains_key(number));
        for (_, conn) in self.every_session.iter().chain(subscribed) {
            conn.outbox.event(event);
        }
    }

    /// Tells those who may approve devices.
    pub(crate) fn tell_approvers(&self, event: &Arc<Event>) {
        for peer in self.all.values().filter(|peer| peer.conn.granted.allows(SCOPE_PAIRING)) {
            peer.conn.outbox.event(event);
        }
    }

    /// Tells everybody.
    pub(crate) fn tell_all(&self, event: &Arc<Event>) {
        for peer in self.all.values() {
            peer.conn.outbox.event(event);
        }
    }

    /// Closes every connection, and those that come later.
    pub(crate) fn close_all(&mut self, code: u16, reason: &'static str) {
        self.closed = Some((code, reason));
        for peer in self.all.values() {
            peer.conn.outbox.closing().with(code, reason);
        }
    }

    /// Closes the connections of a removed device.
    pub(crate) fn close_device(&self, device: &str) {
        for peer in self.all.values().filter(|peer| peer.conn.device.as_deref() == Some(device)) {
            peer.conn.outbox.closing().with(CLOSE_REMOVED, "device removed");
        }
    }

    /// Whether a device is connected now.
    pub(crate) fn is_connected(&self, device: &str) -> bool {
        self.all.values().any(|peer| peer.conn.device.as_deref() == Some(device))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::budget::Budget;
    use crate::outbox::Out;

    fn conn(number: u64, scope: &str, session_scoped: bool) -> (Arc<Conn>, Receiver<Out>) {
        let (outbox, queue) = Outbox::new(8, 1000, Budget::new(usize::MAX));
        let client = ClientInfo {
            id: "cli".into(),
            mode: "cli".into(),
            version: "1".into(),
            platform: "x".into(),
            display_name: None,
            device_family: None,
        };
        let granted = Granted { scopes: vec![scope.into()], ..Granted::default() };
        let principal = Principal::Owner;
        let conn = Conn { number, principal, client, granted, device: None, session_scoped, outbox };
        (Arc::new(conn), queue)
    }

    #[test]
    fn a_session_is_heard_by_its_subscribers_and_by_those_without_the_cap() {
        let mut peers = Peers::default();
        let (every, mut every_queue) = conn(1, "operator.read", false);
        let (scoped, mut scoped_queue) = conn(2, "operator.read", true);
        let (blind, mut blind_queue) = conn(3, "operator.pairing", false);
        for conn in [&every, &scoped, &blind] {
            peers.join(conn);
        }
        assert!(peers.subscribe(2, "s", 1) && peers.subscribe(2, "s", 1) && !peers.subscribe(2, "t", 1));
        assert!(peers.subscribe(1, "s", 1), "subscribing twice over must not double the events");
        let event = Event::new("chat", &1).unwrap();
        peers.tell_session("s", &event);
        peers.tell_session("other", &event);
        let count = |queue: &mut Receiver<Out>| std::iter::from_fn(|| queue.try_recv().ok()).count();
        let heard = [&mut every_queue, &mut scoped_queue, &mut blind_queue].map(count);
        assert_eq!(heard, [2, 1, 0]);

        peers.leave(1);
        assert!(peers.hears("s") && !peers.hears("other"));
        peers.leave(2);
        assert!(!peers.hears("s") && peers.by_session.is_empty());
    }
}
