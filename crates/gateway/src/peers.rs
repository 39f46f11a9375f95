//! The open connections, and who of them hears what.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use openclaw_protocol::methods::{SCOPE_PAIRING, SCOPE_READ};

use crate::conn::Conn;
use crate::keys::namespace;
use crate::outbox::Event;

/// Close code of a socket whose device was removed.
pub(crate) const CLOSE_REMOVED: u16 = 4001;

/// All of them. Events of runs are found by session, so that ten thousand idle connections cost a run nothing.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    all: HashMap<u64, Peer>,
    every_session: HashMap<u64, Arc<Conn>>,
    /// The same for peers: every session of theirs, by their key.
    own_sessions: HashMap<String, HashMap<u64, Arc<Conn>>>,
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
            if conn.principal.peer().is_none() {
                self.every_session.insert(conn.number, Arc::clone(conn));
            }
            for key in own_keys(conn) {
                self.own_sessions.entry(key).or_default().insert(conn.number, Arc::clone(conn));
            }
        }
        let peer = Peer { conn: Arc::clone(conn), subscriptions: HashSet::new() };
        self.all.insert(conn.number, peer);
    }

    /// A connection went.
    pub(crate) fn leave(&mut self, number: u64) {
        self.every_session.remove(&number);
        let Some(peer) = self.all.remove(&number) else { return };
        for key in peer.subscriptions {
            forget(&mut self.by_session, &key, number);
        }
        for key in own_keys(&peer.conn) {
            forget(&mut self.own_sessions, &key, number);
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
        !self.every_session.is_empty()
            || self.by_session.contains_key(session)
            || self.own_sessions(session).next().is_some()
    }

    /// Everybody who hears this session.
    pub(crate) fn listeners(&self, session: &str) -> Vec<Arc<Conn>> {
        let all = self.every_session.iter().chain(self.own_sessions(session));
        let subscribed = self.by_session.get(session).into_iter().flatten();
        let subscribed =
            subscribed.filter(|(_, conn)| conn.session_scoped || !conn.granted.allows(SCOPE_READ));
        all.chain(subscribed).map(|(_, conn)| Arc::clone(conn)).collect()
    }

    fn own_sessions(&self, session: &str) -> impl Iterator<Item = (&u64, &Arc<Conn>)> {
        let own = if self.own_sessions.is_empty() { None } else { namespace(session) };
        own.and_then(|key| self.own_sessions.get(&key)).into_iter().flatten()
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

    /// The connections of peers.
    pub(crate) fn of_peers(&self) -> Vec<Arc<Conn>> {
        let conns = self.all.values().map(|peer| &peer.conn);
        conns.filter(|conn| conn.principal.peer().is_some()).cloned().collect()
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

/// The keys under which a peer's sessions are: none for the owner.
fn own_keys(conn: &Conn) -> impl Iterator<Item = String> {
    let member = conn.principal.peer();
    member.into_iter().flat_map(|member| [Some(member.key.clone()), member.earlier_key()]).flatten()
}

fn forget(map: &mut HashMap<String, HashMap<u64, Arc<Conn>>>, key: &str, number: u64) {
    if let Some(readers) = map.get_mut(key) {
        readers.remove(&number);
        if readers.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock};

    use openclaw_protocol::connect::{ClientInfo, Granted};

    use super::*;
    use crate::auth::Way;
    use crate::budget::Budget;
    use crate::outbox::Outbox;
    use crate::principal::{Member, Principal};

    fn conn(number: u64, principal: Principal, scope: &str, session_scoped: bool) -> Arc<Conn> {
        let (outbox, _) = Outbox::new(8, 1000, Budget::new(usize::MAX));
        let client = ClientInfo {
            id: "cli".into(),
            mode: "cli".into(),
            version: "1".into(),
            platform: "x".into(),
            display_name: None,
            device_family: None,
        };
        let granted = Granted { scopes: vec![scope.into()], ..Granted::default() };
        Arc::new(Conn {
            number,
            principal,
            way: Way::Owner,
            client,
            shown: OnceLock::new(),
            granted,
            device: None,
            session_scoped,
            outbox,
            rules: Mutex::default(),
            names: Mutex::default(),
        })
    }

    fn heard(peers: &Peers, session: &str) -> Vec<u64> {
        let mut numbers: Vec<_> = peers.listeners(session).iter().map(|conn| conn.number).collect();
        numbers.sort_unstable();
        assert_eq!(peers.hears(session), !numbers.is_empty());
        numbers
    }

    #[test]
    fn a_session_is_heard_by_its_subscribers_and_by_those_without_the_cap() {
        let mut peers = Peers::default();
        let every = conn(1, Principal::Owner, "operator.read", false);
        let scoped = conn(2, Principal::Owner, "operator.read", true);
        let blind = conn(3, Principal::Owner, "operator.pairing", false);
        for conn in [&every, &scoped, &blind] {
            peers.join(conn);
        }
        assert!(peers.subscribe(2, "s", 1) && peers.subscribe(2, "s", 1) && !peers.subscribe(2, "t", 1));
        assert!(peers.subscribe(1, "s", 1));
        assert_eq!(heard(&peers, "s"), [1, 2], "subscribing twice over must not double the events");
        assert_eq!(heard(&peers, "other"), [1]);
        peers.leave(1);
        assert!(heard(&peers, "other").is_empty());
        peers.leave(2);
        assert!(heard(&peers, "s").is_empty() && peers.by_session.is_empty());
    }

    #[test]
    fn a_peer_without_the_cap_hears_its_own_sessions_only() {
        let mut peers = Peers::default();
        let member = Member { key: "alice".into(), ..Member::default() };
        peers.join(&conn(1, Principal::Peer(Arc::new(member)), "operator.read", false));
        for session in ["agent:main:mesh:alice", "agent:main:mesh:alice:deploy"] {
            assert_eq!(heard(&peers, session), [1], "{session}");
        }
        for session in
            ["agent:main:main", "agent:main:mesh:bob", "agent:main:mesh:alice2", "agent:main:alice"]
        {
            assert!(heard(&peers, session).is_empty(), "{session}");
        }
        peers.leave(1);
        assert!(peers.own_sessions.is_empty());
    }
}
