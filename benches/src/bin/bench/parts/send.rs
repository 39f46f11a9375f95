//! One message and its reply: as a process of its own, and over a connection that stands. Beside it a bare client that keeps
//! as much as surely.

use std::path::Path;

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use agent_team_mesh::archive::Archive;

use crate::Size;
use crate::company::{BlackHoles, Company, Home};
use crate::measure::{Cost, Work, interleaved, median_of, pair_by_pair, quantile};
use crate::places::{Places, text};
use crate::warm::{Warm, in_turn};

const FLOOR: &str = "bare client, two commits";
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];

pub fn rows(places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
    let company = Company::open(places, 1, BlackHoles::None)?;
    let home = company.home(1, 0)?;
    // Keys, pins, a device token, an archive; and one that the floor fills.
    send(places, &home, "hello")?;
    let archive = home.path().join("floor.db");
    drop(Archive::open(&archive)?);
    // The outliers of few rounds are chance.
    let (processes, batches, quantiles) = match size {
        Size::Full => (10_000, 100, &QUANTILES[..]),
        Size::Short => (60, 10, &QUANTILES[..1]),
    };
    let mut rows = of_its_own(places, &home, &archive, processes, quantiles)?;
    rows.extend(warm(places, &home, &archive, batches, quantiles)?);
    Ok(rows)
}

/// `agent-mesh send`, and the reply of the one teammate.
pub fn send(places: &Places, home: &Home, message: &str) -> Result<Cost, Failure> {
    let name = &home.team[0].name;
    let argv = [&places.product(), "send", "--to", name, "--message", message, "--quiet"];
    let cost = Work::new(argv).cost(places, home.path())?;
    if cost.stdout.trim_end() != format!("{name} heard: {message}") {
        return Err(format!("said {message:?}, heard {:?}", cost.stdout).into());
    }
    Ok(cost)
}

fn of_its_own(
    places: &Places,
    home: &Home,
    archive: &Path,
    rounds: usize,
    quantiles: &[(&str, f64)],
) -> Result<Vec<Row>, Failure> {
    let agent = &home.team[0];
    let url = format!("ws://{}", agent.address);
    let (mut own_round, mut floor_round) = (0, 0);
    let mut own = || {
        own_round += 1;
        send(places, home, &format!("is the build green? {own_round}"))
    };
    let mut floor = || {
        floor_round += 1;
        let message = format!("is the build green? {floor_round}");
        let (client, key, archive) = (places.bench("bare-client"), home.key(), text(archive));
        let session = "agent:main:mesh:alice";
        let argv =
            [&client, &url, &key, "token", &agent.token, "alice", session, &message, "--commits", &archive];
        Work::new(argv).cost(places, home.path())
    };
    own()?;
    floor()?;
    let seen = interleaved(rounds, &mut [&mut own, &mut floor])?;
    let ratio = pair_by_pair(&seen[0], &seen[1], |cost| cost.wall_ms);
    let command = "agent-mesh send --to NAME --message TEXT --quiet";
    let mut rows = Vec::new();
    for &(name, part) in quantiles {
        let of = |costs: &[Cost]| quantile(costs.iter().map(|cost| cost.wall_ms), part);
        let row = Row::new("send", format!("a process of its own, {name}"), command, of(&seen[0]), "ms");
        let is_promised = part == 0.5;
        rows.push(
            row.beside(FLOOR, of(&seen[1]))
                .when(is_promised, |row| row.ratio(ratio).must_hold("at most 1.3 times", ratio <= 1.3)),
        );
    }
    let cpu = |cost: &Cost| cost.cpu_ms;
    rows.push(
        Row::new("send", "a process of its own, CPU", command, median_of(&seen[0], cpu), "ms")
            .beside(FLOOR, median_of(&seen[1], cpu))
            .note(format!("{rounds} pairs")),
    );
    Ok(rows)
}

/// Over a connection that stands: a hundred, and then the other one a hundred.
fn warm(
    places: &Places,
    home: &Home,
    archive: &Path,
    batches: usize,
    quantiles: &[(&str, f64)],
) -> Result<Vec<Row>, Failure> {
    const BATCH: usize = 100;
    let (path, archive) = (text(home.path()), text(archive));
    let mut own = Warm::start(places, &["mesh", &path])?;
    let mut floor = Warm::start(places, &["bare", &path, "--commits", &archive])?;
    in_turn(&mut [&mut own, &mut floor], batches, BATCH)?;
    let ratio = own.beside(&floor);
    let command = "warm mesh HOME (agent_team_mesh::ops::send)";
    let mut rows = Vec::new();
    for &(name, part) in quantiles {
        let row =
            Row::new("send", format!("over a warm connection, {name}"), command, own.quantile(part), "ms");
        let is_promised = part == 0.5;
        rows.push(
            row.beside(FLOOR, floor.quantile(part))
                .when(is_promised, |row| row.ratio(ratio).must_hold("at most 1.2 times", ratio <= 1.2)),
        );
    }
    if let Some(row) = rows.last_mut() {
        row.note = Some(format!("{} sends each", batches * BATCH));
    }
    if quantiles.len() > 1 {
        let row =
            Row::new("send", "over a warm connection, allocations", command, own.allocations(), "times");
        rows.push(row.beside(FLOOR, floor.allocations()).note("each send; SQLite's own apart"));
    }
    Ok(rows)
}
