//! What is known of a connection's life from outside the task that owns it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

use crate::error::Lost;

pub(crate) struct Life {
    began: Instant,
    /// When the gateway last gave a sign, in milliseconds after the beginning.
    last_sign: AtomicU64,
    end: OnceLock<Lost>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last_sign: AtomicU64::new(0), end: OnceLock::new() }
    }

    /// The gateway gave a sign.
    pub(crate) fn sign(&self, at: Instant) {
        let after = at.saturating_duration_since(self.began).as_millis();
        self.last_sign.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn silence(&self) -> Duration {
        let sign = Duration::from_millis(self.last_sign.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(sign)
    }

    /// It ended.
    pub(crate) fn ends(&self, how: Lost) {
        let _ = self.end.set(how);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// How it ended. Only a task that was stopped from outside, with its runtime, leaves no word.
    pub(crate) fn end(&self) -> Lost {
        self.end.get().cloned().unwrap_or_else(|| Lost::Dropped("the connection is gone".to_owned()))
    }
}
