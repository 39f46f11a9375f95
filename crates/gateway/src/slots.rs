//! Who executes next: one slot a run, shared fairly among the devices that wait for one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::shared::lock;
use crate::shares::Who;

/// The slots for runs. Who holds the fewest is served first, and nobody may hold them all: runs are long, and a slot
/// that only comes free at the end of another's run is no share.
#[derive(Debug)]
pub(crate) struct Slots {
    state: Mutex<State>,
    per_device: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    held: HashMap<Who, usize>,
    waiting: HashMap<Who, VecDeque<Waiter>>,
    tickets: u64,
}

/// One that waits; the ticket tells how long.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    grant: oneshot::Sender<Slot>,
}

/// The right to execute one run; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Slot {
    all: Arc<Slots>,
    who: Who,
}

impl Slots {
    pub(crate) fn new(total: usize, per_device: usize) -> Arc<Self> {
        let total = total.max(1);
        let state = State { free: total, held: HashMap::new(), waiting: HashMap::new(), tickets: 0 };
        Arc::new(Self { state: Mutex::new(state), per_device: per_device.clamp(1, total) })
    }

    /// A slot, if there is one now.
    pub(crate) fn try_take(self: &Arc<Self>, who: &Who) -> Option<Slot> {
        let mut state = lock(&self.state);
        let may = state.free > 0 && state.held_by(who) < self.per_device;
        may.then(|| {
            state.hold(who);
            Slot { all: Arc::clone(self), who: who.clone() }
        })
    }

    /// Waits for a slot.
    pub(crate) async fn take(self: &Arc<Self>, who: &Who) -> Option<Slot> {
        if let Some(slot) = self.try_take(who) {
            return Some(slot);
        }
        let granted = lock(&self.state).wait(who);
        granted.await.ok()
    }
}

impl Slot {
    pub(crate) fn is_of(&self, who: &Who) -> bool {
        self.who == *who
    }
}

impl State {
    fn held_by(&self, who: &Who) -> usize {
        self.held.get(who).copied().unwrap_or(0)
    }

    fn hold(&mut self, who: &Who) {
        self.free -= 1;
        *self.held.entry(who.clone()).or_default() += 1;
    }

    fn wait(&mut self, who: &Who) -> oneshot::Receiver<Slot> {
        let (grant, granted) = oneshot::channel();
        self.tickets += 1;
        self.waiting.entry(who.clone()).or_default().push_back(Waiter { ticket: self.tickets, grant });
        granted
    }

    fn give_back(&mut self, who: &Who) {
        self.free += 1;
        if let Some(count) = self.held.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(who);
            }
        }
    }

    /// Of those who hold the fewest, the one that waits longest. One slot came free, so one at most can be served.
    fn serve_next(&mut self, per_device: usize) -> Option<(Who, Waiter)> {
        let waiting = self.waiting.iter();
        let may = waiting.filter(|(who, _)| self.free > 0 && self.held_by(who) < per_device);
        let first = |queue: &VecDeque<Waiter>| queue.front().map(|waiter| waiter.ticket);
        let who = may.min_by_key(|(who, queue)| (self.held_by(who), first(queue)))?.0.clone();
        let queue = self.waiting.get_mut(&who)?;
        let waiter = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&who);
        }
        self.hold(&who);
        Some((who, waiter))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.all.state);
            state.give_back(&self.who);
            state.serve_next(self.all.per_device)
        };
        // Outside the lock: a slot for somebody who has left is dropped here, and serves the next.
        if let Some((who, waiter)) = next {
            let _ = waiter.grant.send(Self { all: Arc::clone(&self.all), who });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn who(name: &str) -> Who {
        Who::Peer(name.to_owned())
    }

    #[tokio::test]
    async fn who_holds_the_fewest_is_next_and_nobody_holds_them_all() {
        let slots = Slots::new(3, 2);
        let (alice, bob) = (who("alice"), who("bob"));
        let one = slots.take(&alice).await.unwrap();
        let _two = slots.take(&alice).await.unwrap();
        let mut third = Box::pin(slots.take(&alice));
        assert!((&mut third).now_or_never().is_none(), "one is left for others");
        let bobs = slots.take(&bob).now_or_never().flatten().unwrap();

        let owner = Who::Owner(None);
        let (mut more, mut owners) = (Box::pin(slots.take(&bob)), Box::pin(slots.take(&owner)));
        assert!((&mut more).now_or_never().is_none() && (&mut owners).now_or_never().is_none());
        drop(one);
        assert!((&mut third).now_or_never().is_none(), "has one, and asked first");
        let owners = (&mut owners).now_or_never().flatten().expect("has none");
        drop((bobs, owners));
        assert!((&mut third).now_or_never().is_some() && (&mut more).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_left_while_waiting_takes_no_slot() {
        let slots = Slots::new(1, 1);
        let owner = Who::Owner(None);
        let one = slots.take(&owner).await.unwrap();
        let (leaves, waits) = (who("leaves"), who("waits"));
        let mut gone = Box::pin(slots.take(&leaves));
        let mut stays = Box::pin(slots.take(&waits));
        assert!((&mut gone).now_or_never().is_none() && (&mut stays).now_or_never().is_none());
        drop(gone);
        drop(one);
        assert!(stays.now_or_never().flatten().is_some());
        assert_eq!(lock(&slots.state).free, 1);
    }
}
