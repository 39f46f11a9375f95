//! One figure: what a part of `./bench` prints, one JSON document a line, and what the table is made of.

use serde::{Deserialize, Serialize};

/// A figure, and what was run beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Which part it belongs to: `list`, `broadcast`, …
    pub part: String,
    /// What was measured; with `part` the name of the figure, so it has no changing numbers in it.
    pub what: String,
    /// How to measure it again.
    pub command: String,
    /// The figure; none when it could not be taken, and `note` says why.
    pub value: Option<f64>,
    /// Of `value` and `beside_value`: `ms`, `s`, `MiB`, `peers`, …
    pub unit: String,
    /// What was run beside it, in the same minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// And what that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside_value: Option<f64>,
    /// The one by the other, pair by pair where there were pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What must hold, in words; none where nothing was promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub must_hold: Option<String>,
    /// Whether it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// What else one has to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// A figure by itself.
    #[must_use]
    pub fn new(
        part: &str,
        what: impl Into<String>,
        command: impl Into<String>,
        value: f64,
        unit: &str,
    ) -> Self {
        Self {
            part: part.to_owned(),
            what: what.into(),
            command: command.into(),
            value: Some(value),
            unit: unit.to_owned(),
            ..Self::default()
        }
    }

    /// A figure that could not be taken here.
    #[must_use]
    pub fn missing(
        part: &str,
        what: impl Into<String>,
        command: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            part: part.to_owned(),
            what: what.into(),
            command: command.into(),
            note: Some(why.into()),
            ..Self::default()
        }
    }

    /// What was run beside it.
    #[must_use]
    pub fn beside(mut self, what: &str, value: f64) -> Self {
        self.beside = Some(what.to_owned());
        self.beside_value = Some(value);
        self.ratio = self.value.filter(|_| value > 0.0).map(|own| own / value);
        self
    }

    /// The ratio, where pairs were compared one by one.
    #[must_use]
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// What was promised, and whether it is so.
    #[must_use]
    pub fn must_hold(mut self, what: impl Into<String>, holds: bool) -> Self {
        self.must_hold = Some(what.into());
        self.holds = Some(holds);
        self
    }

    /// Promises are made for some sizes only.
    #[must_use]
    pub fn when(self, is_promised: bool, promise: impl FnOnce(Self) -> Self) -> Self {
        if is_promised { promise(self) } else { self }
    }

    /// What else one has to know.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Its name, among those of a run.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}: {}", self.part, self.what)
    }

    /// Prints it, for `./bench` to read.
    #[allow(clippy::print_stdout)] // A bench talks.
    pub fn print(&self) {
        println!("{}", serde_json::json!(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_printed() {
        let row = Row::new("slow", "send", "bench slow", 412.0, "ms")
            .beside("four round trips", 400.0)
            .must_hold("at most 1.1 times", true);
        assert_eq!(row.ratio, Some(1.03));
        let line = serde_json::to_string(&row).unwrap();
        assert!(line.contains(r#""besideValue":400.0"#) && line.contains(r#""mustHold":"at most"#), "{line}");
        assert_eq!(serde_json::from_str::<Row>(&line).unwrap(), row);
        assert_eq!(row.key(), "slow: send");
    }

    #[test]
    fn the_smallest_line_is_enough() {
        let line = r#"{"part":"soak","what":"growth","command":"soak","value":0.2,"unit":"MiB"}"#;
        assert_eq!(serde_json::from_str::<Row>(line).unwrap().value, Some(0.2));
    }
}
