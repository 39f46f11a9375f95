//! What became of the entries of one file when another one's were taken over.

use serde::Serialize;

/// The e-mail prefixes of the entries, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Merged {
    /// They are new here.
    pub added: Vec<String>,
    /// Theirs took the place of ours.
    pub replaced: Vec<String>,
    /// Ours stayed, or both say the same.
    pub kept: Vec<String>,
}

impl Merged {
    /// Whether anything is different now.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.added.is_empty() || !self.replaced.is_empty()
    }

    pub(crate) fn note(&mut self, email_prefix: &str, known: bool, changed: bool) {
        let list = match (known, changed) {
            (false, _) => &mut self.added,
            (true, true) => &mut self.replaced,
            (true, false) => &mut self.kept,
        };
        list.push(email_prefix.to_owned());
    }

    pub(crate) fn sorted(mut self) -> Self {
        for list in [&mut self.added, &mut self.replaced, &mut self.kept] {
            list.sort();
        }
        self
    }
}
