//! How often each turn was really run.

/// What the scripted agent ran: the witness for "no turn ran twice". A turn counts when the (pretended) model is
/// called, so requests that were refused, deduplicated or are still queued do not count.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    turns: Vec<(String, String)>,
}

impl Ledger {
    pub(crate) fn record(&mut self, key: &str, text: &str) {
        self.turns.push((key.to_owned(), text.to_owned()));
    }

    /// How often the turn with this idempotency key was run.
    #[must_use]
    pub fn runs_of_key(&self, key: &str) -> usize {
        self.turns.iter().filter(|(k, _)| k == key).count()
    }

    /// How often this text was run, under any key.
    #[must_use]
    pub fn runs_of_text(&self, text: &str) -> usize {
        self.turns.iter().filter(|(_, t)| t == text).count()
    }

    /// How many turns were run in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.turns.len()
    }

    /// The texts that were run more than once. Use a different text for each message of a test.
    #[must_use]
    pub fn repeated(&self) -> Vec<String> {
        let mut repeated: Vec<String> =
            self.turns.iter().map(|(_, t)| t.clone()).filter(|t| self.runs_of_text(t) > 1).collect();
        repeated.sort();
        repeated.dedup();
        repeated
    }
}
