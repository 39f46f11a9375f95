//! Letting devices in without asking: those whose ids stand in the registry, and those that redeemed an invite of ours.

use std::collections::HashMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use openclaw_client::CallError;
use openclaw_client::protocol::Fault;
use openclaw_client::protocol::methods::device::{
    PairApprove, PairList, PairedDevice, Pairings, PendingDevice,
};
use serde::Serialize;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep};

use crate::error::MeshError;
use crate::invite::proof::plain_name;
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;
use crate::record::To;
use crate::route::gateway::jittered;

mod book;

use book::Book;

/// How long our own gateway may take for one thing.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the files are looked at: only their time and size, which costs nothing; and those who wait, if any were left
/// alone.
const LOOK: Duration = Duration::from_secs(1);
/// The first pause before our own gateway is called again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// So many requests are remembered, so that none is told of twice.
const MAX_TOLD: usize = 10_000;

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Devices whose id the registry has for a teammate.
    pub from_registry: bool,
    /// Devices that show an invite of ours.
    pub invited: bool,
    /// Of those who were invited, only this one, by e-mail prefix.
    pub only: Option<String>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// `approved` or `left`.
    pub decision: Verdict,
    /// Why.
    pub reason: Reason,
    /// Whose device it is, if anything says so.
    pub to: Option<To>,
    /// The request; none if it was approved before, and the invite gave it its name.
    pub request_id: Option<String>,
    /// The device.
    pub device_id: String,
    /// What it calls itself.
    pub display_name: Option<String>,
    /// What it asks for.
    pub scopes: Vec<String>,
    /// Where it called from.
    pub remote_ip: Option<String>,
}

/// Whether a request was approved. What is left alone, people may still approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The device is in.
    Approved,
    /// Nothing was done.
    Left,
}

/// Why a request was approved, or left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The registry has its id for a teammate.
    Registry,
    /// It redeemed an invite of ours.
    Invite,
    /// Nothing says whose it is.
    NotKnown,
    /// The registry has its id for more than one teammate.
    Ambiguous,
    /// It asks for something else than to read and write.
    AsksForMore,
    /// Its invite let somebody in before.
    InviteUsed,
    /// Its invite has ended.
    InviteEnded,
    /// The request is there no more.
    Gone,
}

impl Reason {
    fn verdict(self) -> Verdict {
        if matches!(self, Self::Registry | Self::Invite) { Verdict::Approved } else { Verdict::Left }
    }
}

/// What happens while requests are watched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report {
    /// A request was decided on.
    Decided(Decision),
    /// Our own gateway, or a file, cannot be used just now.
    Trouble(MeshError),
    /// Our own gateway is there again.
    Back,
}

/// Decides on requests by rules.
pub struct Doorkeeper<'a> {
    mesh: &'a Mesh,
    rules: Rules,
    book: Book,
    /// What was last said of each request.
    told: HashMap<String, Reason>,
    /// Whether somebody waits who was left alone.
    left: bool,
}

impl<'a> Doorkeeper<'a> {
    /// Reads whom to let in.
    ///
    /// # Errors
    /// When the registry or the file of invites cannot be used.
    pub fn new(mesh: &'a Mesh, rules: Rules) -> Result<Self, MeshError> {
        let book = Book::read(mesh, &rules)?;
        Ok(Self { mesh, rules, book, told: HashMap::new(), left: false })
    }

    /// Decides on those who wait now.
    ///
    /// # Errors
    /// When our own gateway cannot be reached, or does not let us decide.
    pub async fn look(&mut self, deadline: Instant) -> Result<Vec<Decision>, MeshError> {
        let own = OwnGateway::connect(self.mesh, deadline).await?;
        let mut decisions = Vec::new();
        let mut keep = |report| {
            if let Report::Decided(decision) = report {
                decisions.push(decision);
            }
            ControlFlow::Continue(())
        };
        let looked = self.round(&own, &mut keep).await;
        own.close().await;
        looked.map(|_| decisions)
    }

    /// Decides on those who wait, and on those who come, until `report` says that it is enough. A gateway that goes away
    /// is waited for; the files are read again when they change.
    ///
    /// # Errors
    /// When our own gateway was never reached, or no longer lets us decide.
    pub async fn watch(
        &mut self,
        report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send),
    ) -> Result<(), MeshError> {
        let (mut pause, mut was_in) = (FIRST_PAUSE, false);
        loop {
            let is_trouble = pause > FIRST_PAUSE;
            let error = match OwnGateway::connect(self.mesh, Instant::now() + PATIENCE).await {
                Ok(own) => {
                    (pause, was_in) = (FIRST_PAUSE, true);
                    if is_trouble && report(Report::Back).is_break() {
                        return Ok(());
                    }
                    match self.attend(&own, report).await {
                        Ok(()) => {
                            own.close().await;
                            return Ok(());
                        }
                        Err(error) => error,
                    }
                }
                Err(error) if !was_in || error.own_refusal().is_some_and(|fault| fault.is_auth()) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            // Told once, however often it is tried.
            if pause == FIRST_PAUSE && report(Report::Trouble(error)).is_break() {
                return Ok(());
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One connection to our own gateway. Ends well when it is enough.
    async fn attend(
        &mut self,
        own: &OwnGateway,
        report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send),
    ) -> Result<(), MeshError> {
        // From before the list is asked for: who comes in between is in both.
        let mut events = own.events();
        if self.round(own, report).await?.is_break() {
            return Ok(());
        }
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let flow = tokio::select! {
                event = events.next() => match event {
                    None => return Err(own.lost()),
                    Some(event) if &*event.name == "device.pair.requested" => match event.read() {
                        Ok(row) => {
                            self.reread(report);
                            self.decide(own, &row, report).await?
                        }
                        Err(error) => {
                            tracing::debug!(%error, "a request that cannot be read");
                            ControlFlow::Continue(())
                        }
                    },
                    Some(_) => ControlFlow::Continue(()),
                },
                // Who was not known before may be now: the files changed, or the device shows a newer invite, of which a
                // gateway tells nobody, since it is the same request; or it is in already, and there is no request.
                _ = looks.tick() => if self.reread(report) || self.left || self.book.awaits(Timestamp::now()) {
                    self.round(own, report).await?
                } else {
                    ControlFlow::Continue(())
                },
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }

    /// Reads the files again if they changed; says whether they did. Until they can be read, the old ones count.
    fn reread(&mut self, report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send)) -> bool {
        if !self.book.is_stale(self.mesh) {
            return false;
        }
        match Book::read(self.mesh, &self.rules) {
            Ok(book) => self.book = book,
            Err(error) => {
                self.book.stamp(self.mesh);
                // Nothing is decided here, so there is nothing to end.
                let _ = report(Report::Trouble(error));
                return false;
            }
        }
        true
    }

    /// Decides on everybody who waits, and names those who are in and showed an invite all the same.
    async fn round(
        &mut self,
        own: &OwnGateway,
        report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, MeshError> {
        let Pairings { pending, paired } = own.call(&PairList {}, Instant::now() + PATIENCE).await?;
        // After the list: whoever stands in it may be known since a moment before.
        self.reread(report);
        self.left = false;
        for row in &pending {
            if self.decide(own, row, report).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for row in &paired {
            if self.name(row, report)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A device that is in already came by its invite.
    fn name(
        &mut self,
        row: &PairedDevice,
        report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, MeshError> {
        let Some(to) = self.book.redeemed(&self.rules, row, Timestamp::now()) else {
            return Ok(ControlFlow::Continue(()));
        };
        for name in row.names() {
            super::invite::shown(self.mesh, &row.device_id, name)?;
        }
        self.mesh.sent_invites().joined(&row.device_id)?;
        self.reread(report);
        Ok(report(Report::Decided(named(row, to))))
    }

    async fn decide(
        &mut self,
        own: &OwnGateway,
        row: &PendingDevice,
        report: &mut (dyn FnMut(Report) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>, MeshError> {
        let said = self.told.get(&row.request_id).copied();
        // One that came while the list was asked for is in the list, and comes as an event, too.
        if said.is_some_and(|reason| reason.verdict() == Verdict::Approved) {
            return Ok(ControlFlow::Continue(()));
        }
        let (to, mut reason) = self.book.judge(&self.rules, row, Timestamp::now());
        if reason.verdict() == Verdict::Approved {
            reason = self.approve(own, row, reason).await?;
        }
        self.left |= reason.verdict() == Verdict::Left;
        if said == Some(reason) {
            return Ok(ControlFlow::Continue(()));
        }
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        self.told.insert(row.request_id.clone(), reason);
        Ok(report(Report::Decided(decision(row, to, reason))))
    }

    async fn approve(
        &self,
        own: &OwnGateway,
        row: &PendingDevice,
        reason: Reason,
    ) -> Result<Reason, MeshError> {
        let invites = self.mesh.sent_invites();
        if reason == Reason::Invite {
            let name = self.book.proof(row, Timestamp::now()).unwrap_or_default();
            if !invites.bind(name, &row.device_id)? {
                return Ok(Reason::InviteUsed);
            }
        }
        let request = PairApprove { request_id: row.request_id.clone() };
        match own.try_call(&request, Instant::now() + PATIENCE).await {
            Ok(_) => {
                if reason == Reason::Invite {
                    invites.joined(&row.device_id)?;
                }
                Ok(reason)
            }
            // Somebody else was faster, or it was withdrawn.
            Err(CallError::Refused(shape)) if shape.fault() == Fault::Other => Ok(Reason::Gone),
            Err(source) => Err(MeshError::OwnGatewayCall { source }),
        }
    }
}

fn named(row: &PairedDevice, to: To) -> Decision {
    Decision {
        at: Timestamp::now(),
        decision: Verdict::Approved,
        reason: Reason::Invite,
        to: Some(to),
        request_id: None,
        device_id: row.device_id.clone(),
        display_name: row.display_name.as_deref().map(|name| plain_name(name).to_owned()),
        scopes: row.scopes.clone(),
        remote_ip: None,
    }
}

fn decision(row: &PendingDevice, to: Option<To>, reason: Reason) -> Decision {
    Decision {
        at: Timestamp::now(),
        decision: reason.verdict(),
        reason,
        to,
        request_id: Some(row.request_id.clone()),
        device_id: row.device_id.clone(),
        display_name: row.display_name.as_deref().map(|name| plain_name(name).to_owned()),
        scopes: row.scopes.clone(),
        remote_ip: row.remote_ip.clone(),
    }
}
