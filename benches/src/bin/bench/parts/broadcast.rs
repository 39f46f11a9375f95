//! `agent-mesh broadcast` to hundreds and thousands, every reply awaited and looked at.

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;

use crate::Size;
use crate::company::{BlackHoles, Company, Home};
use crate::measure::{Cost, Work, interleaved, median_of, pair_by_pair};
use crate::places::Places;

const COMMAND: &str = "agent-mesh broadcast --message TEXT --timeout 300 --json";
const FLOOR: &str = "as many bare clients (bare-crowd --ask)";

/// How many, and how often.
struct Team {
    peers: usize,
    rounds: usize,
}

/// What was found of one team.
struct Found {
    peers: usize,
    first: Cost,
    own: Vec<Cost>,
    floor: Vec<Cost>,
    lost: usize,
}

pub fn rows(places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
    let teams: &[Team] = match size {
        Size::Full => &[
            Team { peers: 100, rounds: 21 },
            Team { peers: 1_000, rounds: 7 },
            Team { peers: 10_000, rounds: 3 },
        ],
        Size::Short => &[Team { peers: 100, rounds: 7 }],
    };
    let most = teams.iter().map(|team| team.peers).max().unwrap_or_default();
    let company = Company::open(places, most, BlackHoles::None)?;
    let found: Vec<Found> =
        teams.iter().map(|team| measure(places, &company, team)).collect::<Result<_, _>>()?;
    let mut rows: Vec<Row> = found.iter().flat_map(Found::rows).collect();
    if size == Size::Full {
        rows.extend(found.iter().map(Found::first_contact));
    }
    if let ([small, ..], [.., large]) = (found.as_slice(), found.as_slice())
        && large.peers == 10_000
    {
        rows.push(each("wall", small, large, |cost| cost.wall_ms));
        rows.push(each("CPU", small, large, |cost| cost.cpu_ms));
    }
    Ok(rows)
}

fn measure(places: &Places, company: &Company, team: &Team) -> Result<Found, Failure> {
    let home = company.home(team.peers, 0)?;
    let mut lost = 0;
    // Keys, pins and device tokens: everybody is met for the first time.
    let first = broadcast(places, &home, "is the build green? 0", &mut lost)?;
    let (mut own_round, mut floor_round) = (0, 0);
    let mut own = || {
        own_round += 1;
        broadcast(places, &home, &format!("is the build green? {own_round}"), &mut lost)
    };
    let mut floor = || {
        floor_round += 1;
        let question = format!("is the build green? {floor_round}");
        let argv = [places.bench("bare-crowd"), home.agents_txt(), "--ask".into(), home.key(), question];
        Work::new(argv).cost(places, home.path())
    };
    let mut seen = interleaved(team.rounds, &mut [&mut own, &mut floor])?.into_iter();
    let (own, floor) = (seen.next().unwrap_or_default(), seen.next().unwrap_or_default());
    Ok(Found { peers: team.peers, first, own, floor, lost })
}

/// Broadcasts, and counts whose reply is not what this agent says to this message.
fn broadcast(places: &Places, home: &Home, message: &str, lost: &mut usize) -> Result<Cost, Failure> {
    let argv = [&places.product(), "broadcast", "--message", message, "--timeout", "300", "--json"];
    let cost = Work::new(argv).run(places, home.path())?;
    let document = cost.document()?;
    let results = document["results"].as_array().ok_or("there are no results")?;
    let good = home.team.iter().zip(results).filter(|(agent, result)| {
        result["to"]["emailPrefix"] == agent.name
            && result["state"] == "replied"
            && result["reply"]["text"] == format!("{} heard: {message}", agent.name)
    });
    *lost += home.team.len().max(results.len()) - good.count();
    Ok(cost)
}

impl Found {
    fn rows(&self) -> Vec<Row> {
        let wall = |cost: &Cost| cost.wall_ms / 1e3;
        let cpu = |cost: &Cost| cost.cpu_ms / 1e3;
        let is_promised = self.peers == 10_000;
        let (seconds, peak) = (median_of(&self.own, wall), median_of(&self.own, Cost::peak_mib));
        vec![
            self.row("", seconds, "s")
                .beside(FLOOR, median_of(&self.floor, wall))
                .ratio(pair_by_pair(&self.own, &self.floor, wall))
                .when(is_promised, |row| row.must_hold("at most 15 s", seconds <= 15.0)),
            self.row(", peak memory", peak, "MiB")
                .beside(FLOOR, median_of(&self.floor, Cost::peak_mib))
                .when(is_promised, |row| row.must_hold("at most 300 MB", peak * 1.048_576 <= 300.0)),
            self.row(", CPU", median_of(&self.own, cpu), "s")
                .beside(FLOOR, median_of(&self.floor, cpu))
                .ratio(pair_by_pair(&self.own, &self.floor, cpu)),
            self.row(", lost or wrong replies of all rounds", self.lost as f64, "replies")
                .must_hold("none", self.lost == 0),
        ]
    }

    /// Once only: not what a short form is held to.
    fn first_contact(&self) -> Row {
        let seconds = |cost: &Cost| cost.wall_ms / 1e3;
        self.row(", the first time: keys, pins, device tokens", seconds(&self.first), "s")
            .beside("the same later", median_of(&self.own, seconds))
            .note(format!("CPU {:.1} s, peak {:.0} MiB", self.first.cpu_ms / 1e3, self.first.peak_mib()))
    }

    fn row(&self, what: &str, value: f64, unit: &str) -> Row {
        Row::new("broadcast", format!("to {}{what}", self.peers), COMMAND, value, unit)
    }

    fn of_each(&self, of: impl Fn(&Cost) -> f64) -> f64 {
        median_of(&self.own, of) / self.peers as f64
    }
}

fn each(what: &str, small: &Found, large: &Found, of: impl Fn(&Cost) -> f64 + Copy) -> Row {
    let (few, many) = (small.of_each(of), large.of_each(of));
    Row::new("broadcast", format!("{what} for each peer of {}", large.peers), COMMAND, many, "ms")
        .beside(&format!("each of {}", small.peers), few)
        .must_hold("at most 1.3 times", many <= 1.3 * few)
}
