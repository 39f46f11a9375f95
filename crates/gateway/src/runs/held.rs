//! Runs that wait for the owner's word. They are known, and they count as waiting; but they are in no lane, so that
//! nothing waits behind them.

use std::sync::Arc;
use std::time::Duration;

use openclaw_protocol::ErrorShape;

use super::{Job, Origin, Run, Runs, Stage, restarting};
use crate::agent::Sender;
use crate::conn::ShownClient;
use crate::ledger::{Accepted, Held, Unfinished};
use crate::memory::OWNER;
use crate::principal::{Member, Principal};
use crate::secret::sha256;
use crate::shares::Who;
use crate::taking::Keeping;

/// A run that waits for the owner's word.
#[derive(Debug)]
pub(crate) struct HeldRun {
    /// Its name for the owner.
    pub(crate) id: String,
    pub(crate) job: Job,
    /// Under which name its run is written down once it is let in.
    pub(crate) kept: Option<String>,
    /// Since when, milliseconds since the epoch.
    pub(crate) since: i64,
    /// Its place among those that are held.
    number: u64,
}

impl Runs {
    /// Makes a run known that is to be held, unless there is no room. In between it is written down.
    pub(crate) fn reserve(&mut self, id: String, job: Job, since: i64) -> Result<HeldRun, ErrorShape> {
        self.make_known(&job)?;
        self.arrivals += 1;
        Ok(HeldRun { id, job, kept: None, since, number: self.arrivals })
    }

    /// Holds a run that was reserved. Two that came together may be written down in another order than they came.
    pub(crate) fn hold(&mut self, held: HeldRun) {
        let place = self.held.partition_point(|other| other.number < held.number);
        self.held.insert(place, held);
    }

    /// Holds a run that was held before a restart, whether there is room or not.
    pub(crate) fn hold_again(&mut self, held: Held) {
        let (id, kept, since) = (held.id.clone(), held.kept.clone(), held.since);
        let job = Job::from(held);
        self.know_again(&job);
        self.arrivals += 1;
        self.held.push(HeldRun { id, job, kept, since, number: self.arrivals });
    }

    /// Puts a run back into its lane that was there before a restart, whether there is room or not.
    pub(crate) fn take_up(&mut self, unfinished: Unfinished) {
        let kept = Keeping::Done(Accepted::New(unfinished.run.kept.clone()));
        let stage = unfinished.began_at.map_or(Stage::Waits, Stage::Began);
        let job = Job { kept, stage, ..Job::from(unfinished.run) };
        self.know_again(&job);
        self.enqueue(job);
    }

    fn know_again(&mut self, job: &Job) {
        self.table.insert(job.run.place(), Arc::clone(&job.run));
        self.queued.add(&job.run.who, job.size());
    }

    /// Those that are held, oldest first.
    pub(crate) fn held(&self) -> &[HeldRun] {
        &self.held
    }

    /// Whether a run is held.
    pub(crate) fn is_held(&self, run: &Arc<Run>) -> bool {
        self.held.iter().any(|held| Arc::ptr_eq(&held.job.run, run))
    }

    /// Takes a held run out, so that nobody else decides about it. It is put back, let in, or given up.
    pub(crate) fn take_held(&mut self, id: &str) -> Option<HeldRun> {
        let index = self.held.iter().position(|held| held.id == id)?;
        Some(self.held.remove(index))
    }

    /// Gives a run back that was reserved or held, to be finished.
    pub(crate) fn give_up(&mut self, held: HeldRun) -> Job {
        self.queued.remove(&held.job.run.who, held.job.size());
        held.job
    }

    /// Lets a held run into its lane; says whether that has to be started.
    pub(crate) fn let_in(&mut self, held: HeldRun) -> bool {
        self.enqueue(Job { kept: Keeping::Done(Accepted::New(held.kept)), ..held.job })
    }

    /// Whether new runs are taken.
    pub(crate) fn is_open(&self) -> Result<(), ErrorShape> {
        if self.draining { Err(restarting(Origin::Agent)) } else { Ok(()) }
    }
}

impl HeldRun {
    /// As the ledger keeps it.
    pub(crate) fn written(&self) -> Held {
        self.job.written(&self.id, self.since)
    }
}

impl From<Held> for Job {
    /// Nobody waits for its second answer any more: whoever sent it asks for its run.
    fn from(held: Held) -> Self {
        let (principal, who) = match &*held.peer {
            OWNER => (Principal::Owner, Who::Owner(held.device_id.clone())),
            key => {
                let (key, device_id) = (key.to_owned(), held.device_id.clone());
                let member = Member { key, name: held.name, device_id, ..Member::default() };
                (Principal::Peer(Arc::new(member)), Who::Peer(held.peer))
            }
        };
        let origin = if held.is_chat { Origin::Chat } else { Origin::Agent };
        let digest = sha256(held.message.as_bytes());
        let client = serde_json::from_value::<ShownClient>(held.client).unwrap_or_default();
        let display_name = client.display_name.clone();
        Self {
            run: Arc::new(Run::new(held.run_id, origin, held.session, who, digest, held.since)),
            message: held.message,
            provenance: held.provenance,
            sender: Sender { principal, device_id: held.device_id, display_name },
            client: Arc::new(client),
            timeout: held.timeout_ms.map(Duration::from_millis),
            reply_to: None,
            kept: Keeping::default(),
            earlier: None,
            stage: Stage::Waits,
        }
    }
}
