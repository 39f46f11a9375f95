//! `benches/recorded.json`: the figures of the last full runs, and the ratios that short ones are held to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::parts::Part;

/// A short run fails when a ratio is more than so many times the recorded one.
pub const MOST: f64 = 2.0;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub machine: Machine,
    pub versions: BTreeMap<String, String>,
    /// The parts of full runs.
    pub parts: BTreeMap<String, Measured>,
    /// The ratios of a short run that was made by the full one.
    pub short: BTreeMap<String, f64>,
}

/// A part, when it was measured last.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub date: String,
    pub commit: String,
    /// How busy the host was, before and after.
    pub load: (f64, f64),
    pub rows: Vec<Row>,
}

impl Recorded {
    pub fn path(root: &Path) -> PathBuf {
        root.join("benches/recorded.json")
    }

    pub fn read(root: &Path) -> Result<Option<Self>, Failure> {
        let path = Self::path(root);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
    }

    /// The file of this host. What another one measured is forgotten: one table, one machine.
    pub fn of_this_host(root: &Path) -> Result<Self, Failure> {
        let machine = Machine::this();
        match Self::read(root)? {
            Some(recorded) if recorded.machine == machine => Ok(recorded),
            _ => Ok(Self {
                machine,
                versions: BTreeMap::new(),
                parts: BTreeMap::new(),
                short: BTreeMap::new(),
            }),
        }
    }

    pub fn write(&self, root: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)?;
        Ok(fs::write(Self::path(root), text + "\n")?)
    }

    /// The parts in the order of the table.
    pub fn in_order(&self) -> impl Iterator<Item = (Part, &Measured)> {
        Part::usual(crate::Size::Full).iter().filter_map(|part| Some((*part, self.parts.get(&part.name())?)))
    }

    /// Keeps the ratios of a short run.
    pub fn keep_short(&mut self, rows: &[Row]) {
        self.short.extend(rows.iter().filter_map(|row| Some((row.key(), row.ratio?))));
    }

    /// What got worse than noise explains, in words.
    pub fn doubled(&self, rows: &[Row]) -> Vec<String> {
        let judged = rows.iter().filter_map(|row| {
            let (now, before) = (row.ratio?, *self.short.get(&row.key())?);
            (now > before * MOST).then(|| format!("{}: {now:.2}, recorded {before:.2}", row.key()))
        });
        judged.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_doubled_ratio_fails_a_short_run() {
        let mut recorded = Recorded {
            machine: Machine::this(),
            versions: BTreeMap::new(),
            parts: BTreeMap::new(),
            short: BTreeMap::new(),
        };
        let row = |value| Row::new("list", "300 online", "list", value, "s").beside("floor", 1.0);
        recorded.keep_short(&[row(1.5), Row::new("list", "alone", "list", 7.0, "s")]);
        assert_eq!(recorded.short.len(), 1);
        assert_eq!(recorded.doubled(&[row(3.0)]), Vec::<String>::new());
        assert_eq!(recorded.doubled(&[row(3.1)]), ["list: 300 online: 3.10, recorded 1.50"]);
        assert_eq!(
            recorded.doubled(&[Row::new("list", "new", "list", 9.0, "s").beside("floor", 1.0)]),
            [""; 0]
        );
    }
}
