//! One authenticated connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use openclaw_protocol::connect::{ClientInfo, Granted};
use serde::{Deserialize, Serialize};

use crate::auth::Way;
use crate::keys::peer_session;
use crate::outbox::Outbox;
use crate::policy::Rules;
use crate::principal::Principal;
use crate::shared::lock;
use crate::shares::Who;

/// So many names of sessions are remembered; beyond them a session is shown by its full name.
const MAX_NAMES: usize = 64;

/// A session as a client means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its key.
    pub(crate) key: String,
    /// The key it had before the client's device had a name here, with what was said there.
    pub(crate) earlier: Option<String>,
    /// What the rules call it.
    pub(crate) name: String,
}

impl Place {
    /// Its keys, the earlier one first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.earlier.as_deref().into_iter().chain([&*self.key])
    }
}

/// What the history shows of a client. Each of its rows may have one of its own, so it is no tree of values: that took a kilobyte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ShownClient {
    pub(crate) id: String,
    pub(crate) mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
}

/// One authenticated connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Counts the connections of this process.
    pub(crate) number: u64,
    /// Who it is.
    pub(crate) principal: Principal,
    /// What proved that.
    pub(crate) way: Way,
    /// What it says of itself.
    pub(crate) client: ClientInfo,
    /// What the history shows of that: made for the first message, shared by all.
    pub(crate) shown: OnceLock<Arc<ShownClient>>,
    /// What it may do.
    pub(crate) granted: Granted,
    /// The device that proved itself.
    pub(crate) device: Option<String>,
    /// Whether it hears only the sessions that it subscribed to.
    pub(crate) session_scoped: bool,
    /// How to tell it something.
    pub(crate) outbox: Arc<Outbox>,
    /// What the policy says of a peer now.
    pub(crate) rules: Mutex<Option<Arc<Rules>>>,
    /// How a peer calls its sessions: what it is told of them has the names that it knows.
    pub(crate) names: Mutex<Names>,
}

impl Conn {
    /// By what its runs are counted, and whose they are.
    pub(crate) fn who(&self) -> Who {
        match &self.principal {
            Principal::Owner => Who::Owner(self.device.clone()),
            Principal::Peer(member) => Who::Peer(member.key.clone()),
        }
    }

    /// What it says of itself, as the history shows it.
    pub(crate) fn shown_client(&self) -> Arc<ShownClient> {
        let show = || {
            let ClientInfo { id, mode, display_name, .. } = self.client.clone();
            Arc::new(ShownClient { id, mode, display_name })
        };
        Arc::clone(self.shown.get_or_init(show))
    }

    /// Whose its runs were before its device had a name here.
    pub(crate) fn earlier_who(&self) -> Option<Who> {
        self.principal.peer().and_then(|member| member.earlier_key()).map(Who::Peer)
    }

    /// All of whose runs are its own.
    pub(crate) fn all_who(&self) -> impl Iterator<Item = Who> {
        [Some(self.who()), self.earlier_who()].into_iter().flatten()
    }

    /// What the policy says of it; nothing of the owner.
    pub(crate) fn rules(&self) -> Option<Arc<Rules>> {
        lock(&self.rules).clone()
    }

    /// The session that it means by a full key. The owner means what he says.
    pub(crate) fn session(&self, named: String) -> Place {
        let Some(member) = self.principal.peer() else {
            let name = named.splitn(3, ':').nth(2).unwrap_or_default().to_owned();
            return Place { key: named, earlier: None, name };
        };
        let (key, name) = peer_session(&named, &member.key);
        // He calls it today what he called it then.
        let earlier = member.earlier_key().map(|peer| peer_session(&named, &peer).0);
        let mut names = lock(&self.names);
        if let Some(earlier) = &earlier {
            names.remember(earlier.clone(), named.clone());
        }
        if key != named {
            names.remember(key.clone(), named);
        }
        Place { key, earlier, name }
    }

    /// How it calls a session.
    pub(crate) fn shown(&self, session: &str) -> String {
        let known = self.principal.peer().and_then(|_| lock(&self.names).of(session));
        known.unwrap_or_else(|| session.to_owned())
    }
}

/// Sessions and the names that a client has for them, the last used first.
#[derive(Debug, Default)]
pub(crate) struct Names(VecDeque<(String, String)>);

impl Names {
    fn remember(&mut self, session: String, name: String) {
        self.0.retain(|(known, _)| *known != session);
        self.0.truncate(MAX_NAMES - 1);
        self.0.push_front((session, name));
    }

    fn of(&self, session: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == session).map(|(_, name)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_session_holds_and_few_are_kept() {
        let mut names = Names::default();
        names.remember("s".into(), "a".into());
        names.remember("s".into(), "b".into());
        assert_eq!(names.of("s").as_deref(), Some("b"));
        for i in 0..1000 {
            names.remember(format!("s{i}"), "x".into());
        }
        assert_eq!((names.0.len(), names.of("s")), (MAX_NAMES, None));
    }
}
