//! Many peers at once, and what a dead one costs the others: nothing.
//!
//! Two things are scarce. A *turn* is the right to dial and to speak. There are few, so that neither this machine nor the
//! network is swamped, and what a live gateway says is read when it comes. A *place* is a descriptor for the socket. A
//! gateway that is silent keeps its place, for only the connect timeout tells that it is dead; its turn goes to the next
//! peer. So all the dead are waited for side by side, and nobody waits behind them.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep};

/// A gateway that has sent no challenge for so long gives its turn away. Those of one continent answer sooner; one that
/// answers later gets another turn.
const SILENT: Duration = Duration::from_millis(100);
/// Whoever waited so long for that turn dials again: a gateway hangs up on those who do not say who they are, the real one
/// after 15 s.
const STALE: Duration = Duration::from_secs(5);

/// Bounds for an operation with many peers.
#[derive(Debug)]
pub(crate) struct Crowd {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// What one peer has of them, for as long as it is under way.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    /// How long the peer stood ready and had to wait for others.
    waited: Mutex<Duration>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Crowd {
    /// With so many turns and places, at least one of each.
    pub(crate) fn new(turns: usize, places: usize) -> Self {
        let bound = |most: usize| Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Self { turns: bound(turns), places: bound(places) }
    }

    /// Runs a task for each peer, the first first, each as soon as there is a turn for it. Results come as they come, with
    /// their number.
    pub(crate) fn each<P, F: Future>(
        self,
        peers: impl IntoIterator<Item = P>,
        task: impl Fn(P, Arc<Turn>) -> F,
    ) -> impl Stream<Item = (usize, F::Output)> {
        // One peer at a time asks for its first turn: whoever needs another one has at most that one before him.
        let starts = stream::unfold((self, peers.into_iter().enumerate()), async |(crowd, mut peers)| {
            let (number, peer) = peers.next()?;
            let turn = Arc::new(crowd.turn().await);
            Some(((number, peer, turn), (crowd, peers)))
        });
        let tasks = starts.map(move |(number, peer, turn)| {
            let done = task(peer, turn);
            async move { (number, done.await) }
        });
        tasks.buffer_unordered(usize::MAX)
    }

    /// The same, with all results in the order of the peers.
    pub(crate) async fn all<P, F: Future>(
        self,
        peers: impl IntoIterator<Item = P>,
        task: impl Fn(P, Arc<Turn>) -> F,
    ) -> Vec<F::Output> {
        let mut results: Vec<_> = self.each(peers, task).collect().await;
        results.sort_unstable_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    }

    async fn turn(&self) -> Turn {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        Turn {
            turns: Arc::clone(&self.turns),
            held: Mutex::new(turn),
            waited: Mutex::default(),
            _place: place,
        }
    }
}

impl Turn {
    /// Waits for what a gateway says first. While it is silent, others have the turn; it is had again when this returns.
    /// Says, too, whether that took so long that the gateway has to be dialled anew.
    pub(crate) async fn lend<T>(&self, answer: impl Future<Output = T>) -> (T, bool) {
        let mut answer = pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => return (answer, false),
            () = sleep(SILENT) => self.give_away(),
        }
        let answer = answer.await;
        let answered = Instant::now();
        self.take_back().await;
        let waited = answered.elapsed();
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner) += waited;
        (answer, waited >= STALE)
    }

    /// A deadline without the time that others took: nobody's message is late because of them.
    pub(crate) fn extended(&self, deadline: Instant) -> Instant {
        deadline + *self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That time, for whoever moves the deadline for good: it counts once.
    pub(crate) fn waited(&self) -> Duration {
        std::mem::take(&mut *self.waited.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn give_away(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    async fn take_back(&self) {
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    /// Milliseconds until a gateway answers; none: never.
    async fn dial(answers_after: Option<u64>) -> Result<u64, ()> {
        match answers_after {
            Some(ms) => sleep(Duration::from_millis(ms)).await,
            None => timeout(TIMEOUT, std::future::pending::<()>()).await.map_err(drop)?,
        }
        Ok(answers_after.unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_cost_one_timeout_together() {
        let start = Instant::now();
        let peers = vec![None; 100];
        let found =
            Crowd::new(4, 1000).all(peers, async |peer, turn: Arc<Turn>| turn.lend(dial(peer)).await.0);
        assert!(found.await.iter().all(Result::is_err));
        // Those that begin last have waited for 24 turns before.
        assert_eq!(start.elapsed().as_millis(), (TIMEOUT + SILENT * 24).as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_behind_the_dead_and_results_keep_their_order() {
        let peers = [None, None, Some(50), None, Some(20), Some(300), None, Some(10)];
        let done = Mutex::new(Vec::new());
        let start = Instant::now();
        let task = async |peer, turn: Arc<Turn>| {
            let answer = turn.lend(dial(peer)).await.0;
            done.lock().unwrap().push((answer, start.elapsed().as_millis()));
            answer
        };
        let found = Crowd::new(1, 1000).all(peers, task).await;
        assert_eq!(found.iter().map(|answer| answer.ok()).collect::<Vec<_>>(), peers);
        let done = done.into_inner().unwrap();
        // Two that are dead, 50 ms, one that is dead, 20 ms, then 300 ms beside the rest.
        let live = [(Ok(50), 250), (Ok(20), 370), (Ok(10), 580), (Ok(300), 670)];
        assert_eq!(done[..4], live);
        assert!(done[4..].iter().all(|(answer, _)| answer.is_err()));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_speak_at_once_than_there_are_turns_and_no_more_are_under_way_than_there_are_places() {
        let (speaking, most, under_way, most_under_way) =
            <(AtomicUsize, AtomicUsize, AtomicUsize, AtomicUsize)>::default();
        let enter = |count: &AtomicUsize, most: &AtomicUsize| {
            most.fetch_max(count.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        };
        // Half of them answer when they have given their turn away.
        let peers = (0..200).map(|n| if n % 2 == 0 { 5 } else { 250 });
        let task = async |ms, turn: Arc<Turn>| {
            enter(&under_way, &most_under_way);
            turn.lend(dial(Some(ms))).await.0.unwrap();
            enter(&speaking, &most);
            sleep(Duration::from_millis(40)).await;
            speaking.fetch_sub(1, Ordering::Relaxed);
            under_way.fetch_sub(1, Ordering::Relaxed);
        };
        assert_eq!(Crowd::new(3, 8).all(peers, task).await.len(), 200);
        let (most, most_under_way) = (most.into_inner(), most_under_way.into_inner());
        assert!((2..=3).contains(&most) && (4..=8).contains(&most_under_way), "{most} {most_under_way}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gets_his_turn_late_is_told_to_dial_again() {
        // The first is silent for longer than SILENT; the second speaks for a while then.
        let peers = [(150, Duration::ZERO), (1, STALE * 2), (1, Duration::ZERO)];
        let task = async |(ms, speaks), turn: Arc<Turn>| {
            let (_, stale) = turn.lend(dial(Some(ms))).await;
            sleep(speaks).await;
            stale
        };
        assert_eq!(Crowd::new(1, 8).all(peers, task).await, [true, false, false]);
    }
}
