//! Random cuts of every kind, many at once.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use crate::all::all;
use crate::home::Home;
use crate::totals::Totals;
use crate::trial::Trial;

/// Trials under way at once: most of their time they wait for a pause to end.
const LANES: usize = 16;
/// What `cargo test` does by itself.
const SHORT: u32 = 150;

#[allow(clippy::disallowed_methods, reason = "a test is told by its environment")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let digits = text.strip_prefix("0x").map_or((text.as_str(), 10), |digits| (digits, 16));
    Some(u64::from_str_radix(digits.0, digits.1).unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test]
async fn whatever_breaks_nothing_is_lost_doubled_or_mixed_up() {
    let seed = setting("FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x2026_1123);
    let wanted = setting("FAULT_CUTS").map_or(SHORT, |cuts| u32::try_from(cuts).unwrap());
    println!("FAULT_SEED={seed:#x} FAULT_CUTS={wanted}");
    let begun = Instant::now();
    let (next, totals) = (Cell::new(0), RefCell::new(Totals::default()));
    let lane = async || {
        // One home for all trials of a lane: its archive grows, as a user's does.
        let home = Home::of("alice", "ws://127.0.0.1:1");
        loop {
            let number = next.get();
            next.set(number + 1);
            let mut counted = Totals::default();
            Trial::plan(seed, number).await.play(&home, &mut counted).await;
            let mut totals = totals.borrow_mut();
            totals.add(counted);
            if totals.all_cuts() >= wanted {
                return;
            }
        }
    };
    if let Some(only) = setting("FAULT_ONLY") {
        let home = Home::of("alice", "ws://127.0.0.1:1");
        let trial = Trial::plan(seed, u32::try_from(only).unwrap()).await;
        let mut counted = Totals::default();
        println!("{trial:?}");
        trial.play(&home, &mut counted).await;
        totals.borrow_mut().add(counted);
    } else {
        all((0..LANES).map(|_| lane())).await;
    }
    let totals = totals.into_inner();
    let (slowest, number) = totals.slowest;
    println!(
        "faults against the testkit: {totals} (seed {seed:#x}, {:.0} s; the slowest was trial {number} with {:.0} s)",
        begun.elapsed().as_secs_f64(),
        slowest.as_secs_f64()
    );
    assert!(totals.complaints.is_empty(), "FAULT_SEED={seed:#x}\n{}", totals.complaints.join("\n"));
}
