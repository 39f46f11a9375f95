//! New rules while the gateway runs: who has lost his access goes, everybody else stays connected.

use std::sync::Arc;

use crate::access::Access;
use crate::auth::Way;
use crate::conn::Conn;
use crate::policy::{Mode, Rules};
use crate::principal::Member;
use crate::shared::{Shared, lock};

/// Close code of a socket whose access was withdrawn.
const CLOSE_WITHDRAWN: u16 = 4001;
/// Close code: come again, and be somebody else.
const CLOSE_RENAMED: u16 = 1012;

/// A way to change who may come in and what they may do, while the gateway runs.
#[derive(Debug, Clone)]
pub struct Reload(Arc<Shared>);

impl Reload {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// Waits until a device is approved, or one that is in shows a one-time code: something new may be known of it.
    pub async fn approved(&self) {
        self.0.approvals.notified().await;
    }

    /// The devices that were in already when they showed a one-time code, each with the name that it gave itself then;
    /// those that were not told of before.
    #[must_use]
    pub fn redeemed(&self) -> Vec<(String, String)> {
        std::mem::take(&mut lock(&self.0.pairing).redeemed).into_iter().collect()
    }

    /// From now on this holds. Connections of peers who may not come in any more are closed with 4001.
    pub fn access(&self, access: Access) {
        let shared = &self.0;
        let access = Arc::new(access);
        *lock(&shared.access) = Arc::clone(&access);
        let is_members = |id: &str| access.of_device(id).is_some();
        let forgot = lock(&shared.pairing).forget_members(is_members);
        let peers = lock(&shared.peers).of_peers();
        for conn in peers {
            look_again(shared, &access, &conn);
        }
        if forgot {
            let shared = Arc::clone(shared);
            shared.tasks.clone().spawn(async move {
                if let Err(error) = shared.save().await {
                    tracing::error!(%error, "cannot save the device list");
                }
            });
        }
    }
}

/// Looks whether a connection may stay, and gives it the rules that hold now.
pub(crate) fn look_again(shared: &Shared, access: &Access, conn: &Conn) {
    let Some(now) = conn.principal.peer() else { return };
    match standing(shared, access, conn) {
        Standing::AsBefore => {}
        Standing::Member(member, rules) if member.key == now.key && rules.mode != Mode::Deny => {
            *lock(&conn.rules) = Some(rules);
        }
        Standing::Member(_, rules) if rules.mode != Mode::Deny => {
            conn.outbox.closing().with(CLOSE_RENAMED, "you have another name here now");
        }
        _ => conn.outbox.closing().with(CLOSE_WITHDRAWN, "access withdrawn"),
    }
}

enum Standing {
    AsBefore,
    Member(Arc<Member>, Arc<Rules>),
    Nobody,
}

/// Who a connection would be if it came now, by what proved it when it came.
fn standing(shared: &Shared, access: &Access, conn: &Conn) -> Standing {
    let device = conn.device.as_deref();
    let member = match conn.way {
        Way::Owner | Way::Nobody => return Standing::AsBefore,
        Way::Token(hash) => access.of_hash(hash, device),
        Way::Device => device.and_then(|id| {
            let approved = || lock(&shared.pairing).device(id).map(|device| access.approved(device));
            access.of_device(id).or_else(approved)
        }),
    };
    member.map_or(Standing::Nobody, |member| {
        let rules = access.rules(&member);
        Standing::Member(member, rules)
    })
}
