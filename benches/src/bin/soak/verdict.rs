//! What came of it: a table, and whether all holds that must.

use std::process::ExitCode;
use std::sync::PoisonError;

use serde_json::json;

use crate::Soak;
use crate::gauge::Found;
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
        line(soak, "complaints", complaints.len());
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

fn line(soak: &Soak, what: &str, count: usize) {
    let line = json!({
        "part": "soak", "what": what, "command": format!("soak --seed {}", soak.seed), "value": count, "unit": "",
        "beside": null, "besideValue": null, "ratio": null, "mustHold": 0, "holds": count == 0,
    });
    println!("{line}");
}

fn table(found: &[Found]) {
    println!(
        "| process | lives | resident KiB: first, most, last | second quarter, last quarter, KiB a minute | descriptors | \
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
