//! `agent-mesh list`: a thousand peers, ten thousand, and what it takes when a tenth of them never answers.

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;
use serde_json::Value;

use crate::Size;
use crate::company::{BlackHoles, Company, Home};
use crate::measure::{Cost, Work, interleaved, median_of, pair_by_pair};
use crate::places::Places;

/// `MESH_CONNECT_TIMEOUT` unless set.
const CONNECT_TIMEOUT: f64 = 5.0;

/// How many, how often, and in how many seconds it must be done.
struct Team {
    online: usize,
    rounds: usize,
    limit: Option<f64>,
}

pub fn rows(places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
    let teams: &[Team] = match size {
        Size::Full => &[
            Team { online: 1_000, rounds: 11, limit: Some(0.4) },
            Team { online: 10_000, rounds: 5, limit: Some(4.0) },
        ],
        Size::Short => &[Team { online: 300, rounds: 7, limit: None }],
    };
    let most = teams.iter().map(|team| team.online).max().unwrap_or_default();
    let company =
        Company::open(places, most, if size == Size::Full { BlackHoles::ATenth } else { BlackHoles::None })?;
    let mut rows = Vec::new();
    for team in teams {
        let home = company.home(team.online, 0)?;
        let (row, wall) = all_online(places, &home, team)?;
        rows.push(row);
        if size == Size::Full {
            let home = company.home(team.online * 9 / 10, team.online / 10)?;
            rows.push(a_tenth_silent(places, &home, team, wall)?);
        }
    }
    Ok(rows)
}

/// The figure, and its seconds.
fn all_online(places: &Places, home: &Home, team: &Team) -> Result<(Row, f64), Failure> {
    let floor = Work::new([places.bench("bare-crowd"), home.agents_txt()]);
    let mut own = || list(places, home, team.online);
    let mut beside = || floor.cost(places, home.path());
    // The first one makes the folders.
    own()?;
    let seen = interleaved(team.rounds, &mut [&mut own, &mut beside])?;
    let wall = |cost: &Cost| cost.wall_ms / 1e3;
    let found = median_of(&seen[0], wall);
    let row = Row::new("list", format!("{} online", team.online), "agent-mesh list --json", found, "s")
        .beside("as many bare connects and challenges (bare-crowd)", median_of(&seen[1], wall))
        .ratio(pair_by_pair(&seen[0], &seen[1], wall))
        .note(format!(
            "CPU {:.2} s beside {:.2}, peak {:.0} MiB beside {:.0}",
            median_of(&seen[0], |cost| cost.cpu_ms / 1e3),
            median_of(&seen[1], |cost| cost.cpu_ms / 1e3),
            median_of(&seen[0], Cost::peak_mib),
            median_of(&seen[1], Cost::peak_mib)
        ));
    let limit = team.limit.unwrap_or_default();
    let row =
        row.when(team.limit.is_some(), |row| row.must_hold(format!("at most {limit} s"), found <= limit));
    Ok((row, found))
}

fn a_tenth_silent(places: &Places, home: &Home, team: &Team, all_online: f64) -> Result<Row, Failure> {
    let mut own = || list(places, home, team.online - team.online / 10);
    let seen = interleaved(3, &mut [&mut own])?;
    let found = median_of(&seen[0], |cost| cost.wall_ms / 1e3);
    let more = found - all_online;
    let what = format!("{} of which a tenth black-holes: more than all online", team.online);
    Ok(Row::new("list", what, "agent-mesh list --json", more, "s")
        .beside("one connect timeout", CONNECT_TIMEOUT)
        .must_hold("one connect timeout, not more (5 % for noise)", more <= CONNECT_TIMEOUT * 1.05)
        .note(format!("{found:.2} s in all")))
}

/// Lists, and makes sure that as many are online as should be.
fn list(places: &Places, home: &Home, online: usize) -> Result<Cost, Failure> {
    let cost = Work::new([places.product(), "list".into(), "--json".into()]).cost(places, home.path())?;
    let document = cost.document()?;
    let count = |of: &Value| of.as_u64().and_then(|count| usize::try_from(count).ok());
    let summary = &document["summary"];
    if count(&summary["online"]) != Some(online) || count(&summary["total"]) != Some(home.team.len()) {
        return Err(format!("{online} of {} should be online: {summary}", home.team.len()).into());
    }
    Ok(cost)
}
