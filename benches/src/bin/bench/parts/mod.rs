//! What can be measured, one file a part.

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use clap::ValueEnum;

use crate::Size;
use crate::places::Places;

mod broadcast;
mod list;

/// A part of the table, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// `list` of 1,000 and 10,000 peers, and with black holes
    List,
    /// `broadcast` to 100, 1,000 and 10,000 peers
    Broadcast,
}

impl Part {
    /// Those that a run has when none is named.
    pub fn usual(size: Size) -> &'static [Self] {
        match size {
            Size::Full => Self::value_variants(),
            Size::Short => &[Self::List, Self::Broadcast],
        }
    }

    /// Its name in the table.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Measures it.
    pub fn rows(self, places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
        match self {
            Self::List => list::rows(places, size),
            Self::Broadcast => broadcast::rows(places, size),
        }
    }
}
