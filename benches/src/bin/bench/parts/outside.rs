//! Parts that are programs of their own: they print a row a line on stdout, and whatever else on stderr.

use std::path::Path;
use std::process::{Command, Stdio};

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;

use crate::places::Places;

/// A program of the benches. One that is not there is a row that says so.
pub fn program(places: &Places, part: &str, name: &str, args: &[&str]) -> Result<Vec<Row>, Failure> {
    let path = places.bench(name);
    if !Path::new(&path).exists() {
        return Ok(vec![Row::missing(part, "all of it", name, "there is no such program here")]);
    }
    run(Command::new(path).args(args), places)
}

/// A script in the folder of the benches.
pub fn script(places: &Places, name: &str) -> Result<Vec<Row>, Failure> {
    run(&mut Command::new(places.root.join("benches").join(name)), places)
}

fn run(command: &mut Command, places: &Places) -> Result<Vec<Row>, Failure> {
    let output = command.current_dir(&places.root).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    // A program may have more to say; an hour of measuring is not thrown away for that.
    let rows: Vec<Row> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // By itself it says with its exit code that something does not hold; here the rows do.
    if rows.is_empty() {
        return Err(format!("{:?} gave no figures: {}", command.get_program(), output.status).into());
    }
    Ok(rows)
}
