//! What is counted, and the line that says it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::strike::KINDS;

#[derive(Debug, Default)]
pub struct Totals {
    /// Cuts that struck, by kind.
    pub cuts: BTreeMap<&'static str, u32>,
    pub trials: u32,
    pub messages: u32,
    pub replied: u32,
    /// Cannot be known: the truth, where it is so.
    pub unknown: u32,
    /// Said by `send`, and nothing ran.
    pub unreachable: u32,
    /// Our process was killed before the archive had the message, and nothing ran.
    pub never_begun: u32,
    /// The gateway was restarting and refused the message; `send` said so, and nothing ran.
    pub busy: u32,
    pub lost: u32,
    pub doubled: u32,
    pub wrong: u32,
    /// Rows, states or receipts that do not say what happened.
    pub untrue: u32,
    /// The longest trial and its number: a long wait for nothing shows here.
    pub slowest: (Duration, u32),
    /// Everything that must not be, in words.
    pub complaints: Vec<String>,
}

impl Totals {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: Self) {
        for (kind, count) in other.cuts {
            *self.cuts.entry(kind).or_default() += count;
        }
        self.trials += other.trials;
        self.messages += other.messages;
        self.replied += other.replied;
        self.unknown += other.unknown;
        self.unreachable += other.unreachable;
        self.never_begun += other.never_begun;
        self.busy += other.busy;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong += other.wrong;
        self.untrue += other.untrue;
        self.slowest = self.slowest.max(other.slowest);
        self.complaints.extend(other.complaints);
    }

    pub fn all_cuts(&self) -> u32 {
        self.cuts.values().sum()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cuts (", self.all_cuts())?;
        for (n, kind) in KINDS.iter().enumerate() {
            write!(f, "{}{kind} {}", if n == 0 { "" } else { ", " }, self.cuts.get(kind).unwrap_or(&0))?;
        }
        let Self {
            trials,
            messages,
            replied,
            unknown,
            unreachable,
            never_begun,
            busy,
            lost,
            doubled,
            wrong,
            untrue,
            ..
        } = self;
        write!(
            f,
            ") in {trials} trials, {messages} messages: replied {replied}, unknown {unknown}, unreachable \
             {unreachable}, never begun {never_begun}, busy {busy}, lost {lost}, doubled {doubled}, wrong {wrong}, untrue {untrue}"
        )
    }
}
