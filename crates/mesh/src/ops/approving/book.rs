//! Whom to let in, as the files say.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use openclaw_client::protocol::methods::device::{PairedDevice, PendingDevice};
use openclaw_client::protocol::methods::{SCOPE_READ, SCOPE_WRITE};

use super::{Reason, Rules};
use crate::error::MeshError;
use crate::invite::{Guests, Standing};
use crate::mesh::Mesh;
use crate::record::To;
use crate::registry::Registry;

/// The registry's device ids, and our invites.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Whose a device is; more than one is a mistake.
    devices: HashMap<String, Vec<To>>,
    guests: Guests,
    stamps: [Option<Stamp>; 2],
}

/// What changes when a file is replaced: when it was written, how long it is, and which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(i64, i64, u64, u64);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self(data.mtime(), data.mtime_nsec(), data.len(), data.ino()))
    }
}

impl Book {
    /// Reads what the rules need.
    pub(super) fn read(mesh: &Mesh, rules: &Rules) -> Result<Self, MeshError> {
        // Before the content: what is written meanwhile is read again.
        let mut book = Self { stamps: stamps(mesh), ..Self::default() };
        if rules.from_registry {
            for agent in Registry::load(&mesh.config().registry)?.agents {
                if let Some(id) = agent.device_id.as_deref().map(str::trim).filter(|id| !id.is_empty()) {
                    book.devices.entry(id.to_owned()).or_default().push(To::from(&agent));
                }
            }
        }
        if rules.invited {
            book.guests = mesh.sent_invites().read()?;
        }
        Ok(book)
    }

    /// Whether the files are others than those that were read.
    pub(super) fn is_stale(&self, mesh: &Mesh) -> bool {
        self.stamps != stamps(mesh)
    }

    /// Takes the files for read, as they are.
    pub(super) fn stamp(&mut self, mesh: &Mesh) {
        self.stamps = stamps(mesh);
    }

    /// Whether somebody may come by an invite.
    pub(super) fn awaits(&self, now: Timestamp) -> bool {
        self.guests.awaits(now)
    }

    /// Whose invite a device shows that is in already, if nobody came by it yet.
    pub(super) fn redeemed(&self, rules: &Rules, row: &PairedDevice, now: Timestamp) -> Option<To> {
        let proven = row.names().find_map(|name| match self.guests.standing(name, &row.device_id, now)? {
            Standing::Open(to) => Some(to),
            _ => None,
        });
        proven.or_else(|| self.guests.shown_by(&row.device_id)).filter(|to| is_meant(rules, to))
    }

    /// Whether a device may come in, and whose it is.
    pub(super) fn judge(&self, rules: &Rules, row: &PendingDevice, now: Timestamp) -> (Option<To>, Reason) {
        let (to, reason) = self.vouch(rules, row, now);
        let approves = matches!(reason, Reason::Registry | Reason::Invite);
        (to, if approves && !asks_to_talk(row) { Reason::AsksForMore } else { reason })
    }

    /// By which of its names a device shows an invite of ours.
    pub(super) fn proof<'a>(&self, row: &'a PendingDevice, now: Timestamp) -> Option<&'a str> {
        row.names().find(|name| self.guests.standing(name, &row.device_id, now).is_some())
    }

    fn vouch(&self, rules: &Rules, row: &PendingDevice, now: Timestamp) -> (Option<To>, Reason) {
        match self.devices.get(&row.device_id).map(Vec::as_slice) {
            Some([to]) => return (Some(to.clone()), Reason::Registry),
            Some([_, ..]) => return (None, Reason::Ambiguous),
            _ => {}
        }
        let shown = self.proof(row, now).and_then(|name| self.guests.standing(name, &row.device_id, now));
        match shown {
            Some(Standing::Open(to)) if is_meant(rules, &to) => (Some(to), Reason::Invite),
            Some(Standing::Used(to)) => (Some(to), Reason::InviteUsed),
            Some(Standing::Ended(to)) => (Some(to), Reason::InviteEnded),
            _ => (None, Reason::NotKnown),
        }
    }
}

fn is_meant(rules: &Rules, to: &To) -> bool {
    rules.only.as_ref().is_none_or(|only| only.eq_ignore_ascii_case(&to.email_prefix))
}

/// Whether it asks for messaging, all or part of it, and for nothing else.
fn asks_to_talk(row: &PendingDevice) -> bool {
    let talks = |scope: &String| [SCOPE_READ, SCOPE_WRITE].contains(&scope.as_str());
    !row.scopes.is_empty()
        && row.scopes.iter().all(talks)
        && row.role.as_deref().is_none_or(|role| role == "operator")
}

fn stamps(mesh: &Mesh) -> [Option<Stamp>; 2] {
    [Stamp::of(&mesh.config().registry), Stamp::of(mesh.sent_invites().path())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(prefix: &str) -> To {
        To { name: prefix.to_uppercase(), email_prefix: prefix.into() }
    }

    fn row(device: &str, scopes: &[&str]) -> PendingDevice {
        PendingDevice {
            request_id: "r".into(),
            device_id: device.into(),
            display_name: Some("agent-mesh:alice (a11ce)".into()),
            role: Some("operator".into()),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..PendingDevice::default()
        }
    }

    #[test]
    fn the_registry_vouches_for_one_device_and_for_talking_only() {
        let devices =
            [("hers".to_owned(), vec![to("alice")]), ("shared".to_owned(), vec![to("bob"), to("carol")])];
        let book = Book { devices: devices.into(), ..Book::default() };
        let rules = Rules { from_registry: true, ..Rules::default() };
        let judge = |row: &PendingDevice| book.judge(&rules, row, Timestamp::now());
        let rw = ["operator.read", "operator.write"];
        assert_eq!(judge(&row("hers", &rw)), (Some(to("alice")), Reason::Registry));
        assert_eq!(judge(&row("hers", &rw[..1])).1, Reason::Registry);
        assert_eq!(judge(&row("shared", &rw)), (None, Reason::Ambiguous));
        assert_eq!(judge(&row("mallorys", &rw)), (None, Reason::NotKnown), "a name is nothing");
        for greedy in [&[][..], &["operator.admin"], &["operator.read", "operator.pairing"]] {
            assert_eq!(judge(&row("hers", greedy)), (Some(to("alice")), Reason::AsksForMore), "{greedy:?}");
        }
        let node = PendingDevice { role: Some("node".into()), ..row("hers", &rw) };
        assert_eq!(judge(&node).1, Reason::AsksForMore);
    }
}
