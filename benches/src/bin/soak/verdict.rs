//! What came of it: a table, and whether all holds that must.

use std::process::ExitCode;
use std::sync::PoisonError;

use agent_mesh_benches::Row;

use crate::Soak;
use crate::gauge::{Found, limits};
use crate::ledger::Totals;

/// So many complaints are printed in full.
const SHOWN: usize = 40;

/// Prints it.
pub fn pronounce(soak: &Soak, totals: &Totals, found: &[Found], held: &[String], as_json: bool) -> ExitCode {
    let states: Vec<_> = totals.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let struck = soak.struck.lock().unwrap_or_else(PoisonError::into_inner);
    let struck: Vec<_> = struck.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
    let counts = [
        ("messages lost", totals.lost),
        ("messages doubled", totals.doubled),
        ("wrong replies", totals.wrong),
        ("states that are not true", totals.untrue),
        ("processes that hold more at rest", held.len()),
        ("processes whose memory grows", found.iter().map(|found| found.faults.len()).sum()),
    ];
    let mut complaints = soak.complaints.all();
    complaints.extend(held.iter().cloned());
    complaints.extend(found.iter().flat_map(|found| found.faults.iter().cloned()));
    if as_json {
        counts.iter().for_each(|(what, count)| line(soak, what, *count));
        found.iter().for_each(|found| memory(soak, found));
    } else {
        println!("{} messages: {}", totals.messages, states.join(", "));
        println!("struck: {}", struck.join(", "));
        table(found);
        let counts: Vec<_> = counts.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        println!("{}", counts.join("; "));
    }
    for complaint in complaints.iter().take(SHOWN) {
        eprintln!("must not be: {complaint}");
    }
    if complaints.len() > SHOWN {
        eprintln!("and {} more", complaints.len() - SHOWN);
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command(soak: &Soak) -> String {
    format!("soak AGENT-MESH --seed {}", soak.seed)
}

/// What there may be nothing of.
fn line(soak: &Soak, what: &str, count: usize) {
    Row::new("soak", what, command(soak), count as f64, "").must_hold("none", count == 0).print();
}

/// The last quarter beside the second; of a process that lived all along, in a soak that was long enough.
fn memory(soak: &Soak, found: &Found) {
    let Some([second, last, slope]) = found.trend else { return };
    Row::new("soak", format!("own memory, {}", found.name), command(soak), last / 1024.0, "MiB")
        .beside("the second quarter", second / 1024.0)
        .must_hold(limits(), found.faults.is_empty())
        .note(format!("{slope:+.1} KiB a minute after the first quarter"))
        .print();
}

fn table(found: &[Found]) {
    println!(
        "| process | lives | resident KiB: first, most, last | own KiB: second quarter, last quarter, a minute | descriptors | \
         threads |"
    );
    println!("|---|---|---|---|---|---|");
    for row in found {
        let three = |[first, most, last]: [u64; 3]| format!("{first}, {most}, {last}");
        let trend = row.trend.map_or_else(
            || "-".to_owned(),
            |[second, last, slope]| format!("{second:.0}, {last:.0}, {slope:+.1}"),
        );
        println!(
            "| {} | {} | {} | {trend} | {} | {} |",
            row.name,
            row.lives,
            three(row.rss_kib),
            three(row.descriptors),
            three(row.threads)
        );
    }
}
