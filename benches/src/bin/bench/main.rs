//! `./bench`: all figures, beside something else, in one table and in `docs/performance.md`. Started by the script `bench` in
//! the project's folder, which builds what this measures.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs;
use std::process::ExitCode;

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use clap::Parser;
use jiff::Timestamp;

mod company;
mod machine;
mod measure;
mod parts;
mod places;
mod recorded;
mod report;
mod warm;

use parts::Part;
use places::Places;
use recorded::{Measured, Recorded};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// What is promised, as it is promised.
    Full,
    /// Enough to see that something got much worse.
    Short,
}

/// Measure agent-mesh beside something else, and write docs/performance.md
///
/// Without the name of a part all are measured, and then the short form, whose ratios later short runs are held to.
#[derive(Debug, Parser)]
#[command(name = "./bench")]
struct Args {
    /// Only these
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
    /// Seconds instead of an hour; writes nothing, and exits 1 only when a ratio is more than double the recorded one
    #[arg(long)]
    short: bool,
    /// Print, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: Places,
}

fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    if args.short { short(&args.places, &args) } else { full(&args.places, &args) }
}

/// Measures; what did not hold is in the table and no failure: the table is for people to judge.
fn full(places: &Places, args: &Args) -> Result<ExitCode, Failure> {
    let mut recorded = Recorded::of_this_host(&places.root)?;
    let parts = if args.parts.is_empty() { Part::usual(Size::Full) } else { &args.parts };
    let mut broken = false;
    for part in parts {
        let before = machine::load();
        eprintln!("measuring {} …", part.name());
        match part.rows(places, Size::Full) {
            Ok(rows) => {
                print!("{}", report::table(&rows));
                let measured = Measured {
                    date: format!("{:.0}", Timestamp::now()),
                    commit: machine::commit(&places.root),
                    load: (before, machine::load()),
                    rows,
                };
                recorded.parts.insert(part.name(), measured);
            }
            Err(error) => {
                eprintln!("{} could not be measured: {error}", part.name());
                broken = true;
            }
        }
        // After each part: the next one may take an hour, or never end.
        if !args.dry_run {
            write(places, &mut recorded)?;
        }
    }
    let judged = Part::usual(Size::Short).iter().filter(|part| parts.contains(part));
    recorded.keep_short(&measure(places, judged)?);
    if !args.dry_run {
        write(places, &mut recorded)?;
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write(places: &Places, recorded: &mut Recorded) -> Result<(), Failure> {
    recorded.versions = machine::versions(places);
    recorded.write(&places.root)?;
    Ok(fs::write(places.root.join("docs/performance.md"), report::document(recorded))?)
}

/// Measures a little, and compares the ratios with the recorded ones.
fn short(places: &Places, args: &Args) -> Result<ExitCode, Failure> {
    let parts = if args.parts.is_empty() { Part::usual(Size::Short) } else { &args.parts };
    let rows = measure(places, parts)?;
    print!("{}", report::table(&rows));
    let Some(recorded) = Recorded::read(&places.root)? else {
        println!("\nno ratio is recorded: {} is not there", Recorded::path(&places.root).display());
        return Ok(ExitCode::FAILURE);
    };
    let doubled = recorded.doubled(&rows);
    for what in &doubled {
        println!("\nmore than {} times the recorded ratio: {what}", recorded::MOST);
    }
    Ok(if doubled.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure<'a>(places: &Places, parts: impl IntoIterator<Item = &'a Part>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for part in parts {
        eprintln!("measuring {}, the short form …", part.name());
        rows.extend(part.rows(places, Size::Short)?);
    }
    Ok(rows)
}
