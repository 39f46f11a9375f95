//! Changes to a file that is always written as a whole: what gathers while one thread writes goes out with the next write.
//! An operation with thousands of peers would else write a file of thousands of entries thousands of times.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// While many changes are made, the file is written so often at most.
const AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// Changes that are not in their file yet.
#[derive(Debug)]
pub(crate) struct Gathered<T> {
    waiting: Mutex<Vec<T>>,
    /// Held by the thread that writes: when it last did.
    written: Mutex<Option<Instant>>,
    /// How many operations are under way that make many changes.
    busy: AtomicUsize,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), written: Mutex::default(), busy: AtomicUsize::new(0) }
    }
}

impl<T> Gathered<T> {
    /// Many changes are about to be made: until [`Gathered::end`], most of them may wait.
    pub(crate) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// They were made; what still waits is to be written.
    pub(crate) fn end(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a change, and says whether it is to be written now.
    pub(crate) fn add(&self, change: T) -> bool {
        lock(&self.waiting).push(change);
        if self.busy.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let written = self.written.try_lock().map(|written| *written);
        written.is_ok_and(|written| written.is_none_or(|written| written.elapsed() >= AT_MOST_EVERY))
    }

    /// Looks at what waits.
    pub(crate) fn waiting(&self) -> MutexGuard<'_, Vec<T>> {
        lock(&self.waiting)
    }

    /// Writes what waits, if anything does: whoever waited for his turn often finds that another wrote his part. What could
    /// not be written waits on.
    pub(crate) fn write<E>(&self, write: impl FnOnce(&[T]) -> Result<(), E>) -> Result<(), E> {
        let mut written = lock(&self.written);
        let changes = mem::take(&mut *lock(&self.waiting));
        if changes.is_empty() {
            return Ok(());
        }
        let result = write(&changes);
        *written = Some(Instant::now());
        if result.is_err() {
            lock(&self.waiting).splice(0..0, changes);
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
