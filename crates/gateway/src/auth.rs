//! Who a client is, and what it may do. Where the owner comes in, the table is that of the real gateway in token mode.
//!
//! | from | credential | device | result |
//! |---|---|---|---|
//! | loopback | shared token | none, or `gateway-client`/`backend` | the owner: the requested scopes |
//! | loopback | shared token | any other client | the same, silently paired, a device token |
//! | any | none; remote: or the shared token | a member's by the registry or the policy | that member, a device token |
//! | any | none; remote: or the shared token | approved | a peer: the requested scopes within the approved ones, a device token; by name if it was invited |
//! | any | none; remote: or the shared token | new | a pairing request |
//! | any | device token | its own | the requested scopes, or a refusal if more is asked |
//! | any | one-time code | approved or a member's | as without |
//! | any | one-time code | new | a pairing request; the code is that device's from then on |
//! | any | a member's own token | none, or any but another member's | that member |
//! | remote | shared token | none | no scopes |
//!
//! No peer ever gets more than `operator.read` and `operator.write`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::ErrorShape;
use openclaw_protocol::connect::{ConnectParams, Granted};
use serde_json::{Value, json};

use crate::access::Access;
use crate::denial::{Rule, forbidden};
use crate::lockout::{Kind, Lockout};
use crate::pairing::{Claim, Device, Now, Pairing, REMOTE_SCOPES};
use crate::policy::{Mode, Rules};
use crate::principal::{Member, Principal};
use crate::secret::{SharedToken, TokenHash};

mod offered;
mod words;

use offered::{Offered, Wrong};
use words::{
    METADATA_UPGRADE, NOT_PAIRED, SCOPE_UPGRADE, Why, device_identity_required, rate_limited, scope_mismatch,
    token_mismatch,
};

/// A client at the door: its request was read, and its device proof (if any) holds.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) params: &'a ConnectParams,
    /// The id of the device that signed.
    pub(crate) device: Option<&'a str>,
    pub(crate) ip: IpAddr,
}

/// The door: what is needed to decide.
#[derive(Debug)]
pub(crate) struct Door<'a> {
    pub(crate) token: &'a SharedToken,
    pub(crate) access: &'a Access,
    pub(crate) pairing: &'a mut Pairing,
    pub(crate) lockout: &'a mut Lockout,
    pub(crate) now: Now,
}

/// A client that may come in.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Who it is.
    pub(crate) principal: Principal,
    /// What proved that.
    pub(crate) way: Way,
    /// What the policy says of a peer.
    pub(crate) rules: Option<Arc<Rules>>,
    /// For the hello.
    pub(crate) granted: Granted,
    /// The device list changed and has to be saved before the hello.
    pub(crate) changed: bool,
}

impl Entry {
    fn owner(granted: Granted, changed: bool) -> Self {
        Self { principal: Principal::Owner, way: Way::Owner, rules: None, granted, changed }
    }
}

/// What proved who a client is: as long as that holds, it may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The owner's token or device.
    Owner,
    /// A device that is approved or a member's.
    Device,
    /// A member's own token.
    Token(TokenHash),
    /// Nothing: it has no rights.
    Nobody,
}

/// A client that may not.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: ErrorShape,
    /// How long the answer is held back.
    pub(crate) delay: Duration,
    /// What the close says, if not the error's message.
    pub(crate) reason: Option<String>,
    /// A new row for those who may approve.
    pub(crate) requested: Option<Value>,
}

impl From<ErrorShape> for Box<Refusal> {
    fn from(error: ErrorShape) -> Self {
        Self::new(Refusal { error, delay: Duration::ZERO, reason: None, requested: None })
    }
}

/// What a good credential proves.
#[derive(Debug, Clone)]
enum Proof {
    /// The owner's token.
    Shared,
    /// The token of a member.
    Member(Arc<Member>, TokenHash),
    /// The token of the device that signed.
    Device,
    /// The signature of a device that is known: it needs no token.
    Signature,
    /// The signature of one that is not.
    Stranger,
    /// A one-time code, by the device it belongs to, which is not known yet.
    Code,
    /// The same, by one that is: it is in, and may have got a name by it.
    Redeemed,
}

impl Door<'_> {
    /// Decides.
    pub(crate) fn admit(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        let offered = Offered::new(caller.params.auth.as_ref());
        let proof = self.check(&offered, caller);
        let counted = offered.kind().filter(|_| !caller.is_local());
        if !matches!(
            proof,
            Ok(Proof::Member(..) | Proof::Device | Proof::Signature | Proof::Code | Proof::Redeemed)
        ) {
            // What nobody can guess is looked at first: a lockout is for those who guess, not for who shares their address.
            let locked = counted.and_then(|kind| self.lockout.locked(caller.ip, kind, self.now.at));
            if let Some(left) = locked {
                return Err(rate_limited(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).into());
            }
        }
        match proof {
            Ok(Proof::Shared) if caller.is_local() => self.owner(caller),
            Ok(Proof::Shared) => self.remote_with_shared_token(caller),
            Ok(Proof::Member(member, hash)) => self.with_own_token(caller, member, hash),
            Ok(Proof::Device) => self.with_device_token(caller),
            Ok(Proof::Signature) => self.known_device(caller),
            Ok(Proof::Redeemed) => self.redeemed(caller),
            Ok(Proof::Stranger | Proof::Code) => Err(self.stranger(caller)),
            Err(wrong) => Err(self.refuse(wrong, counted, caller)),
        }
    }

    /// A guess from remote counts towards the lockout, one from loopback is answered late.
    fn refuse(&mut self, wrong: Wrong, counted: Option<Kind>, caller: &Caller<'_>) -> Box<Refusal> {
        let mut refusal = Box::<Refusal>::from(wrong.error);
        if wrong.counts && caller.is_local() {
            refusal.delay = self.lockout.local_failure(self.now.at);
        } else if let (true, Some(kind)) = (wrong.counts, counted) {
            self.lockout.failure(caller.ip, kind, self.now.at);
        }
        refusal
    }

    fn check(&mut self, offered: &Offered<'_>, caller: &Caller<'_>) -> Result<Proof, Wrong> {
        let device = caller.device.and_then(|id| self.pairing.device(id));
        let is_device_token =
            |text: Option<&str>| text.is_some_and(|text| device.is_some_and(|device| device.token.is(text)));
        let is_known =
            device.is_some() || caller.device.is_some_and(|id| self.access.of_device(id).is_some());
        if let Some((member, hash)) =
            offered.shared.and_then(|text| self.access.of_token(text, caller.device))
        {
            return Ok(Proof::Member(member, hash));
        }
        if is_device_token(offered.shared) || is_device_token(offered.device) {
            return Ok(Proof::Device);
        }
        if offered.shared.is_some_and(|token| self.token.is(token)) {
            return Ok(if caller.is_local() || !is_known { Proof::Shared } else { Proof::Signature });
        }
        // Only where it is what the device signed.
        if let (Some(code), Some(device), Some(Kind::Bootstrap)) =
            (offered.bootstrap, caller.device, offered.kind())
            && self.pairing.codes.redeem(code, device, &caller.params.scopes, self.now)
        {
            return Ok(if is_known { Proof::Redeemed } else { Proof::Code });
        }
        match (offered.kind(), caller.device) {
            (None, Some(_)) if is_known => Ok(Proof::Signature),
            (None, Some(_)) => Ok(Proof::Stranger),
            _ => Err(offered.wrong(caller.device.is_some())),
        }
    }

    /// Loopback and the shared token: this is the owner.
    fn owner(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        let granted = granted(caller.params.scopes.clone());
        let Some(claim) = caller.claim().filter(|_| !caller.is_backend()) else {
            return Ok(Entry::owner(granted, false));
        };
        let changed = self.pairing.approve_silently(claim.clone(), self.now)?;
        self.pairing.seen(&claim, self.now);
        let granted = match self.pairing.device(&claim.device_id) {
            Some(device) => with_token(granted, device),
            None => granted,
        };
        Ok(Entry::owner(granted, changed))
    }

    /// The shared token from remote, by a device that is not known, or by none: it gives nothing.
    fn remote_with_shared_token(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        if caller.device.is_some() {
            return Err(self.stranger(caller));
        }
        let (principal, way) = (Principal::Peer(Arc::new(Member::nobody())), Way::Nobody);
        let rules = Some(Arc::default());
        Ok(Entry { principal, way, rules, granted: granted(Vec::new()), changed: false })
    }

    /// A member's own token, with or without a device. Whoever has taken it does not become him by a device of his own.
    fn with_own_token(
        &mut self,
        caller: &Caller<'_>,
        member: Arc<Member>,
        hash: TokenHash,
    ) -> Result<Entry, Box<Refusal>> {
        let invited = |id| self.pairing.device(id).and_then(|_| self.access.guest(id));
        let devices = caller.device.and_then(|id| self.access.of_device(id).or_else(|| invited(id)));
        if devices.is_some_and(|other| other.key != member.key) {
            return Err(self.refuse(Wrong::counted(token_mismatch(true)), Some(Kind::Shared), caller));
        }
        self.peer(member, Way::Token(hash), granted(messaging(&caller.params.scopes)), false)
    }

    fn with_device_token(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        let known = caller.claim().and_then(|claim| Some((self.pairing.device(&claim.device_id)?, claim)));
        let Some((device, claim)) = known else { return Err(device_identity_required().into()) };
        let member = self.access.of_device(&claim.device_id);
        if member.is_none() && !caller.is_local() && !device.is_unchanged(&claim) {
            return Err(self.ask(&claim.remote(), &METADATA_UPGRADE));
        }
        let may = |scope: &String| match member {
            Some(_) => REMOTE_SCOPES.contains(&scope.as_str()),
            None => device.allows(scope, caller.is_local()),
        };
        if !claim.scopes.iter().all(may) {
            return Err(scope_mismatch().into());
        }
        let granted = with_token(granted(claim.scopes.clone()), device);
        let is_owners = member.is_none() && caller.is_local() && device.is_owners();
        let member = member.unwrap_or_else(|| self.access.approved(device));
        self.pairing.seen(&claim, self.now);
        // One that the owner let in by coming over loopback with it is his own, as long as it comes from there.
        if is_owners {
            Ok(Entry::owner(granted, false))
        } else {
            self.peer(member, Way::Device, granted, false)
        }
    }

    /// A device that is approved, or a member's: its signature is enough.
    fn known_device(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        let Some(claim) = caller.claim().map(Claim::remote) else {
            return Err(device_identity_required().into());
        };
        let member = self.access.of_device(&claim.device_id);
        if let (None, Some(device)) = (&member, self.pairing.device(&claim.device_id)) {
            if !device.is_unchanged(&claim) {
                return Err(self.ask(&claim, &METADATA_UPGRADE));
            }
            if !claim.scopes.iter().all(|scope| device.allows(scope, false)) {
                return Err(self.ask(&claim, &SCOPE_UPGRADE));
            }
        }
        let changed = member.is_some() && self.pairing.enrol(&claim, self.now)?;
        self.pairing.seen(&claim, self.now);
        let Some(device) = self.pairing.device(&claim.device_id) else {
            return Err(device_identity_required().into());
        };
        let granted = with_token(granted(claim.scopes.clone()), device);
        let member = member.unwrap_or_else(|| self.access.approved(device));
        self.peer(member, Way::Device, granted, changed)
    }

    /// A device that is known shows a code. No request says so: the owner's side is told of it instead.
    fn redeemed(&mut self, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
        let entry = self.known_device(caller)?;
        if let (Some(device), Some(name)) = (caller.device, &caller.params.client.display_name) {
            self.pairing.redeemed.insert(device.to_owned(), name.clone());
        }
        Ok(entry)
    }

    /// A device that nobody knows asks to be approved, whatever it has shown beside its signature.
    fn stranger(&mut self, caller: &Caller<'_>) -> Box<Refusal> {
        match caller.claim().map(Claim::remote) {
            Some(claim) => self.ask(&claim, &NOT_PAIRED),
            None => device_identity_required().into(),
        }
    }

    /// A peer comes in, unless the policy says that he does not.
    fn peer(
        &self,
        member: Arc<Member>,
        way: Way,
        granted: Granted,
        changed: bool,
    ) -> Result<Entry, Box<Refusal>> {
        let rules = self.access.rules(&member);
        if rules.mode == Mode::Deny {
            return Err(forbidden(Rule::Mode).into());
        }
        Ok(Entry { principal: Principal::Peer(member), way, rules: Some(rules), granted, changed })
    }

    /// Files a pairing request and says so.
    fn ask(&mut self, claim: &Claim, why: &Why) -> Box<Refusal> {
        let (pending, new) = match self.pairing.request(claim, self.now) {
            Ok(filed) => filed,
            Err(error) => return error.into(),
        };
        let mut details = json!({
            "code": "PAIRING_REQUIRED", "reason": why.reason, "requestId": pending.request_id,
            "remediationHint": why.hint, "deviceId": claim.device_id,
            "requestedRole": "operator", "requestedScopes": claim.scopes,
        });
        if let Some(device) = self.pairing.device(&claim.device_id) {
            details["approvedRoles"] = json!(["operator"]);
            details["approvedScopes"] = json!(device.claim.scopes);
        }
        let message = format!("pairing required: {}", why.words);
        Box::new(Refusal {
            delay: Duration::ZERO,
            reason: Some(format!("{message} (requestId: {})", pending.request_id)),
            error: ErrorShape::new("NOT_PAIRED", message).with_details(details),
            requested: new.then(|| pending.row()),
        })
    }
}

impl Caller<'_> {
    fn is_local(&self) -> bool {
        self.ip.is_loopback()
    }

    /// The reference client's way of saying "a program of the owner": it never becomes a device of its own.
    fn is_backend(&self) -> bool {
        let client = &self.params.client;
        client.id == "gateway-client" && client.mode == "backend"
    }

    fn claim(&self) -> Option<Claim> {
        self.device.map(|id| Claim::new(self.params, id, self.ip.to_string()))
    }
}

/// What of these scopes a peer gets. An admin's rights hold those of messaging, so whoever asks for them means these, too.
fn messaging(asked: &[String]) -> Vec<String> {
    let asked = Granted { scopes: asked.to_vec(), ..Granted::default() };
    REMOTE_SCOPES.into_iter().filter(|scope| asked.allows(scope)).map(str::to_owned).collect()
}

/// Without `method`: the real gateway says it, but its own published schema (2026.9.1) does not know the field.
fn granted(scopes: Vec<String>) -> Granted {
    Granted { role: "operator".to_owned(), scopes, ..Granted::default() }
}

fn with_token(granted: Granted, device: &Device) -> Granted {
    let token = device.token.expose().to_owned();
    Granted { device_token: Some(token), issued_at_ms: Some(device.token_at_ms), ..granted }
}
