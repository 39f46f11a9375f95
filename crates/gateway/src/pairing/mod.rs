//! Devices: who waits for approval, who is in.

use std::collections::BTreeMap;
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::connect::Granted;
use openclaw_protocol::methods::{SCOPE_READ, SCOPE_WRITE};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::codes::Codes;
use crate::config::Limits;
use crate::secret::DeviceToken;

mod device;
mod stored;

use device::Pending;
pub(crate) use device::{Claim, Device};

/// How long a request waits for its approval.
const REQUEST_LIFE: Duration = Duration::from_secs(300);
/// The most that any remote device can get.
pub(crate) const REMOTE_SCOPES: [&str; 2] = [SCOPE_READ, SCOPE_WRITE];

/// How a device was approved that came over loopback with the owner's token.
const VIA_LOOPBACK: &str = "silent";

/// How a device was let in that the registry or the policy names.
const VIA_ACCESS: &str = "registry";

/// One moment on both clocks: the wall's for people, the monotonic one for deadlines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Milliseconds since the epoch.
    pub(crate) ms: i64,
    /// For measuring.
    pub(crate) at: Instant,
}

/// The devices of this gateway.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    paired: BTreeMap<String, Device>,
    /// Oldest first.
    pending: Vec<Pending>,
    /// How devices without the owner's token may ask.
    pub(crate) codes: Codes,
    /// Devices that are in and showed a code since, with the names that they gave themselves then, until they are read.
    pub(crate) redeemed: BTreeMap<String, String>,
    /// Whether a device was seen since the list was saved.
    pub(crate) is_outdated: bool,
    max_pending: usize,
    max_pending_per_ip: usize,
}

impl Pairing {
    /// A gateway that knows nobody yet.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            codes: Codes::new(limits.setup_codes),
            max_pending: limits.pending_devices,
            max_pending_per_ip: limits.pending_devices_per_ip,
            ..Self::default()
        }
    }

    /// An approved device.
    pub(crate) fn device(&self, id: &str) -> Option<&Device> {
        self.paired.get(id)
    }

    /// Remembers that an approved device connected, and the name it gave itself this time.
    pub(crate) fn seen(&mut self, claim: &Claim, now: Now) {
        if let Some(device) = self.paired.get_mut(&claim.device_id) {
            device.last_seen_at_ms = Some(now.ms);
            self.is_outdated = true;
            device.claimed_name = device.claim.other_name(claim);
        }
    }

    /// Files a request, or finds the one this device has filed already; the flag says whether it is new.
    pub(crate) fn request(&mut self, claim: &Claim, now: Now) -> Result<(Pending, bool), ErrorShape> {
        self.pending.retain(|pending| pending.expires > now.at);
        let mine = self.pending.iter().position(|p| p.claim.device_id == claim.device_id);
        if let Some(i) = mine.filter(|i| self.pending[*i].claim.asks_the_same(claim)) {
            let pending = &mut self.pending[i];
            // A newer invite is proven by a newer name.
            pending.claimed_name = pending.claim.other_name(claim);
            return Ok((pending.clone(), false));
        }
        // A request that asks for something else gets a new id: nobody may approve what he was not shown.
        if let Some(outdated) = mine {
            self.pending.remove(outdated);
        }
        if !self.make_room(claim) {
            return Err(ErrorShape::unavailable(
                "too many pairing requests are waiting",
                "pairing-full",
                60_000,
            ));
        }
        let pending = Pending {
            request_id: Uuid::new_v4().to_string(),
            is_repair: self.paired.contains_key(&claim.device_id),
            claim: claim.clone(),
            claimed_name: None,
            ts: now.ms,
            expires: now.at + REQUEST_LIFE,
        };
        self.pending.push(pending.clone());
        Ok((pending, true))
    }

    /// One address cannot fill the queue for the others: beyond its share its newest request replaces its oldest.
    fn make_room(&mut self, claim: &Claim) -> bool {
        let network = claim.network();
        let is_mine = |pending: &Pending| pending.claim.network() == network;
        let mine = self.pending.iter().filter(|pending| is_mine(pending)).count();
        let is_full = self.pending.len() >= self.max_pending;
        if is_full || mine >= self.max_pending_per_ip {
            let Some(oldest) = self.pending.iter().position(is_mine) else { return false };
            self.pending.remove(oldest);
        }
        true
    }

    /// Lets a device in. The approver must hold every scope that he gives.
    pub(crate) fn approve(
        &mut self,
        request_id: &str,
        approver: &Granted,
        now: Now,
    ) -> Result<&Device, ErrorShape> {
        let index = self.position(request_id, now)?;
        let lacks = self.pending[index].claim.scopes.iter().find(|scope| !approver.allows(scope));
        if let Some(scope) = lacks {
            return Err(ErrorShape::invalid(format!("missing scope: {scope}")));
        }
        let Pending { claim, claimed_name, .. } = self.pending.remove(index);
        let kept = self.paired.get(&claim.device_id).map(|device| (device.token.clone(), device.token_at_ms));
        self.admit(claim, claimed_name, "owner", kept, now)
    }

    /// Lets a device in because it came over loopback with the owner's token; says whether anything changed. A device
    /// that asks for more than it has gets a new token; the old one is worthless then.
    pub(crate) fn approve_silently(&mut self, claim: Claim, now: Now) -> Result<bool, ErrorShape> {
        let known = self.paired.get(&claim.device_id);
        if known.is_some_and(|device| claim.scopes.iter().all(|scope| device.allows(scope, true))) {
            return Ok(false);
        }
        self.admit(claim, None, VIA_LOOPBACK, None, now).map(|_| true)
    }

    /// Lets the device of a member in, unless it is in already; says whether anything changed. It keeps a token as any
    /// other does, so that it need not be told apart where tokens are shown.
    pub(crate) fn enrol(&mut self, claim: &Claim, now: Now) -> Result<bool, ErrorShape> {
        if self.paired.contains_key(&claim.device_id) {
            return Ok(false);
        }
        self.pending.retain(|pending| pending.claim.device_id != claim.device_id);
        let claim = Claim { scopes: REMOTE_SCOPES.map(str::to_owned).to_vec(), ..claim.clone() };
        self.admit(claim, None, VIA_ACCESS, None, now).map(|_| true)
    }

    /// Forgets the devices that were let in as members' and are so no more; says whether there were any.
    pub(crate) fn forget_members(&mut self, is_members: impl Fn(&str) -> bool) -> bool {
        let before = self.paired.len();
        self.paired.retain(|id, device| device.approved_via != VIA_ACCESS || is_members(id));
        self.paired.len() < before
    }

    fn admit(
        &mut self,
        mut claim: Claim,
        claimed_name: Option<String>,
        via: &str,
        token: Option<(DeviceToken, i64)>,
        now: Now,
    ) -> Result<&Device, ErrorShape> {
        let no_random = || ErrorShape::new("UNAVAILABLE", "the system gives no randomness");
        let (token, token_at_ms) = match token {
            Some(kept) => kept,
            None => (DeviceToken::generate().ok_or_else(no_random)?, now.ms),
        };
        let before = self.paired.remove(&claim.device_id);
        for scope in before.iter().flat_map(|device| &device.claim.scopes) {
            if !claim.scopes.contains(scope) {
                claim.scopes.push(scope.clone());
            }
        }
        let device = Device {
            token,
            token_at_ms,
            approved_via: via.to_owned(),
            created_at_ms: before.as_ref().map_or(now.ms, |device| device.created_at_ms),
            approved_at_ms: now.ms,
            last_seen_at_ms: before.and_then(|device| device.last_seen_at_ms),
            claimed_name,
            claim,
        };
        Ok(self.paired.entry(device.claim.device_id.clone()).or_insert(device))
    }

    /// Turns a request down; gives the device.
    pub(crate) fn reject(&mut self, request_id: &str, now: Now) -> Result<String, ErrorShape> {
        let index = self.position(request_id, now)?;
        Ok(self.pending.remove(index).claim.device_id)
    }

    /// Forgets a device.
    pub(crate) fn remove(&mut self, device_id: &str) -> Result<(), ErrorShape> {
        self.codes.forget(device_id);
        self.paired.remove(device_id).map(drop).ok_or_else(|| ErrorShape::invalid("unknown deviceId"))
    }

    fn position(&mut self, request_id: &str, now: Now) -> Result<usize, ErrorShape> {
        self.pending.retain(|pending| pending.expires > now.at);
        let found = self.pending.iter().position(|pending| pending.request_id == request_id);
        found.ok_or_else(|| ErrorShape::invalid("unknown requestId"))
    }

    /// Those who wait, oldest first.
    pub(crate) fn pending_rows(&mut self, now: Now) -> Vec<Value> {
        self.pending.retain(|pending| pending.expires > now.at);
        self.pending.iter().map(Pending::row).collect()
    }

    /// Those who are in.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.paired.values()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Now {
        Now { ms: 1_000, at: Instant::now() }
    }

    fn claim(id: &str, scopes: &[&str]) -> Claim {
        Claim {
            device_id: id.into(),
            public_key: "key".into(),
            display_name: Some("alice".into()),
            platform: "agent-mesh".into(),
            device_family: None,
            client_id: "gateway-client".into(),
            client_mode: "backend".into(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            remote_ip: "10.0.0.2".into(),
        }
    }

    fn owner() -> Granted {
        Granted { scopes: vec!["operator.admin".into()], ..Granted::default() }
    }

    #[test]
    fn a_device_reuses_its_request_until_it_expires_or_asks_for_more() {
        let (mut pairing, start) = (Pairing::new(&Limits::default()), now());
        let read = claim("a", &[SCOPE_READ]);
        let (first, new) = pairing.request(&read, start).unwrap();
        assert!(new);
        let (again, new) = pairing.request(&read, start).unwrap();
        assert_eq!((again.request_id == first.request_id, new), (true, false));

        let (more, new) = pairing.request(&claim("a", &[SCOPE_WRITE]), start).unwrap();
        assert!(new && more.request_id != first.request_id);
        let outdated = pairing.approve(&first.request_id, &owner(), start).unwrap_err();
        assert_eq!(outdated.message, "unknown requestId");

        let later = Now { ms: 0, at: start.at + REQUEST_LIFE };
        assert!(pairing.pending_rows(later).is_empty());
    }

    #[test]
    fn nobody_gives_what_he_does_not_have() {
        let mut pairing = Pairing::new(&Limits::default());
        let (request, _) = pairing.request(&claim("a", &[SCOPE_READ, SCOPE_WRITE]), now()).unwrap();
        let weak = Granted { scopes: vec!["operator.pairing".into()], ..Granted::default() };
        let refused = pairing.approve(&request.request_id, &weak, now()).unwrap_err();
        assert_eq!(refused.message, "missing scope: operator.read");
        assert_eq!(pairing.pending_rows(now()).len(), 1, "the request is still there");
    }

    #[test]
    fn a_remote_claim_is_cut_to_messaging() {
        let asked = claim("a", &["operator.admin", SCOPE_READ, "operator.pairing"]).remote();
        assert_eq!(asked.scopes, [SCOPE_READ]);
    }

    #[test]
    fn an_admin_device_has_only_messaging_from_remote() {
        let mut pairing = Pairing::new(&Limits::default());
        assert!(pairing.approve_silently(claim("a", &["operator.admin"]), now()).unwrap());
        let device = pairing.device("a").unwrap();
        assert!(device.allows("operator.pairing", true) && device.allows(SCOPE_WRITE, false));
        assert!(!device.allows("operator.pairing", false) && !device.allows("operator.admin", false));
    }

    #[test]
    fn a_silent_upgrade_makes_the_old_token_worthless() {
        let mut pairing = Pairing::new(&Limits::default());
        let mut silently = |scope: &str| {
            let changed = pairing.approve_silently(claim("a", &[scope]), now()).unwrap();
            (changed, pairing.device("a").unwrap().clone())
        };
        let (_, first) = silently(SCOPE_READ);
        let (changed, same) = silently(SCOPE_READ);
        assert!(same.token.is(first.token.expose()) && !changed);
        let (changed, wider) = silently(SCOPE_WRITE);
        assert!(!wider.token.is(first.token.expose()) && changed);
        assert_eq!(wider.claim.scopes, [SCOPE_WRITE, SCOPE_READ]);
    }

    #[test]
    fn the_queue_of_requests_is_bounded() {
        let limits = Limits { pending_devices: 3, pending_devices_per_ip: 2, ..Limits::default() };
        let mut pairing = Pairing::new(&limits);
        let mut ask = |ip: &str, id: &str| {
            let claim = Claim { remote_ip: ip.into(), ..claim(id, &[]) };
            let filed = pairing.request(&claim, now()).map(drop).map_err(|error| error.code);
            let waiting: Vec<_> = pairing.pending.iter().map(|p| p.claim.device_id.clone()).collect();
            (filed, waiting.concat())
        };
        // One holder of the token with 64 keys made everybody else's request fail.
        for id in ["a", "b", "c"] {
            ask("10.0.0.2", id).0.unwrap();
        }
        assert_eq!(ask("10.0.0.3", "d"), (Ok(()), "bcd".into()), "the newest two of one address");
        assert_eq!(ask("10.0.0.4", "e"), (Err("UNAVAILABLE".into()), "bcd".into()));
        assert_eq!(ask("10.0.0.3", "f"), (Ok(()), "bcf".into()), "a full queue takes one for one");
    }

    #[test]
    fn a_device_keeps_the_name_that_it_was_approved_under() {
        let mut pairing = Pairing::new(&Limits::default());
        let (request, _) = pairing.request(&claim("a", &[SCOPE_READ]), now()).unwrap();
        pairing.approve(&request.request_id, &owner(), now()).unwrap();
        let mut connect_as = |name: Option<&str>| {
            let claim = Claim { display_name: name.map(str::to_owned), ..claim("a", &[SCOPE_READ]) };
            pairing.seen(&claim, now());
            let row = Pairing::from_bytes(&pairing.to_bytes().unwrap(), &Limits::default()).unwrap();
            let row = row.device("a").unwrap().row();
            (row["displayName"].clone(), row["claimedDisplayName"].clone())
        };
        assert_eq!(connect_as(Some("bob")), (json!("alice"), json!("bob")));
        assert_eq!(connect_as(Some("alice")), (json!("alice"), Value::Null));
        assert_eq!(connect_as(None), (json!("alice"), Value::Null));
    }

    #[test]
    fn a_request_keeps_the_name_that_it_was_shown_under() {
        let mut pairing = Pairing::new(&Limits::default());
        let mut ask_as = |name: &str| {
            let claim = Claim { display_name: Some(name.into()), ..claim("a", &[SCOPE_READ]) };
            let (request, new) = pairing.request(&claim, now()).unwrap();
            let row = request.row();
            (new, row["displayName"].clone(), row["claimedDisplayName"].clone())
        };
        assert_eq!(ask_as("mallory"), (true, json!("mallory"), Value::Null));
        assert_eq!(ask_as("alice"), (false, json!("mallory"), json!("alice")));
        let id = pairing.pending[0].request_id.clone();
        let approved = pairing.approve(&id, &owner(), now()).unwrap().row();
        assert_eq!(
            (&approved["displayName"], &approved["claimedDisplayName"]),
            (&json!("mallory"), &json!("alice"))
        );
    }

    #[test]
    fn the_platform_is_pinned_and_a_family_once_given() {
        let mut pairing = Pairing::new(&Limits::default());
        pairing.approve_silently(claim("a", &[]), now()).unwrap();
        let with = |platform: &str, family: Option<&str>| Claim {
            platform: platform.into(),
            device_family: family.map(str::to_owned),
            ..claim("a", &[])
        };
        let device = pairing.device("a").unwrap();
        assert!(device.is_unchanged(&with(" Agent-Mesh ", None)));
        assert!(device.is_unchanged(&with("agent-mesh", Some("later"))));
        assert!(!device.is_unchanged(&with("linux", None)));
        let pinned = Device { claim: with("agent-mesh", Some("pod")), ..device.clone() };
        assert!(!pinned.is_unchanged(&with("agent-mesh", None)));
    }

    #[test]
    fn devices_survive_the_store_and_rows_show_no_token() {
        let mut pairing = Pairing::new(&Limits::default());
        let (request, _) = pairing.request(&claim("a", &[SCOPE_READ]), now()).unwrap();
        let token = pairing.approve(&request.request_id, &owner(), now()).unwrap().token.clone();
        let restored = Pairing::from_bytes(&pairing.to_bytes().unwrap(), &Limits::default()).unwrap();
        let device = restored.device("a").unwrap();
        assert!(device.token.is(token.expose()));
        assert!(!device.row().to_string().contains(token.expose()));
        assert!(Pairing::from_bytes(br#"{"version":2,"devices":[]}"#, &Limits::default()).is_err());
    }
}
