//! The threads that read.
//!
//! They are the archive's own. glibc gives each thread a heap, and keeps for it what one that has opened the file once had, up to
//! a MiB: on a pool's threads, any of which may be the next to read, that was each one's in the end, and it took an hour until a
//! process that lives on had stopped to grow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// So long a thread waits for the next read.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The readers of one archive: so many reads at a time. There are as many descriptors, too: SQLite cannot close a reader's while
/// the writing connection has its lock, which it always has.
#[derive(Clone, Default)]
pub(super) struct Readers([Arc<Seat>; Readers::MOST]);

/// Where one reads at a time.
struct Seat {
    free: Arc<Semaphore>,
    /// Its thread, if there is one.
    thread: Mutex<Option<Sender<Job>>>,
}

impl Readers {
    pub(super) const MOST: usize = 2;

    /// Runs a read on the first thread that is free, and gives what it gives; none, if there can be no thread, or it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (seat, permit) = self.seat().await?;
        let (tell, told) = oneshot::channel();
        seat.put(Box::new(move || {
            let given = read();
            // Whoever asked may have left; the next one has the seat whether or not.
            drop(permit);
            let _ = tell.send(given);
        }))?;
        told.await.ok()
    }

    /// The first one, if it is free: what a second one once had is not needed then.
    async fn seat(&self) -> Option<(&Arc<Seat>, OwnedSemaphorePermit)> {
        let Self([first, second]) = self;
        tokio::select! {
            biased;
            permit = Arc::clone(&first.free).acquire_owned() => Some((first, permit.ok()?)),
            permit = Arc::clone(&second.free).acquire_owned() => Some((second, permit.ok()?)),
        }
    }
}

impl Default for Seat {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(1)), thread: Mutex::default() }
    }
}

impl Seat {
    /// Gives the thread something to do, and starts it where there is none.
    fn put(self: &Arc<Self>, job: Job) -> Option<()> {
        let mut thread = self.lock();
        let jobs = match &mut *thread {
            Some(jobs) => jobs,
            none => none.insert(self.start()?),
        };
        jobs.send(job).ok()
    }

    fn start(self: &Arc<Self>) -> Option<Sender<Job>> {
        let (sender, jobs) = mpsc::channel();
        let seat = Arc::downgrade(self);
        let work = move || {
            while let Some(job) = next(&jobs, || seat.upgrade()) {
                // Whoever asked is told that there is no answer; the next one gets his.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        };
        thread::Builder::new().name("archive-reader".to_owned()).spawn(work).ok()?;
        Some(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sender<Job>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next job. None when there was none for long, or the archive is closed; nobody gives this thread any then.
fn next(jobs: &Receiver<Job>, seat: impl FnOnce() -> Option<Arc<Seat>>) -> Option<Job> {
    match jobs.recv_timeout(IDLE) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let seat = seat()?;
            let mut thread = seat.lock();
            let late = jobs.try_recv().ok();
            if late.is_none() {
                *thread = None;
            }
            late
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_reads_after_the_other_on_one_thread_and_a_panic_is_no_answer() {
        let readers = Readers::default();
        let here = || thread::current().id();
        let first = readers.run(here).await.unwrap();
        assert_eq!(readers.run(here).await.unwrap(), first);
        assert_ne!(here(), first);
        assert_eq!(readers.run(|| panic!("a read that fails")).await, None::<()>);
        assert_eq!(readers.run(here).await.unwrap(), first, "its thread and its seat outlive that");
    }

    #[tokio::test]
    async fn so_many_read_at_a_time() {
        let readers = Readers::default();
        let (open, gates): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel::<()>()).unzip();
        let (began, begins) = mpsc::channel();
        let reads = gates.into_iter().enumerate().map(|(number, gate)| {
            let (readers, began) = (readers.clone(), began.clone());
            tokio::spawn(async move {
                let read = move || {
                    began.send(number).unwrap();
                    gate.recv().is_ok()
                };
                readers.run(read).await
            })
        });
        let reads: Vec<_> = reads.collect();
        tokio::task::yield_now().await;
        let two = [begins.recv().unwrap(), begins.recv().unwrap()];
        assert!(begins.try_recv().is_err(), "the third waits for a seat");
        open[two[0]].send(()).unwrap();
        let third = tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
        assert!(!two.contains(&third));
        open[two[1]].send(()).unwrap();
        open[third].send(()).unwrap();
        for read in reads {
            assert_eq!(read.await.unwrap(), Some(true));
        }
    }
}
