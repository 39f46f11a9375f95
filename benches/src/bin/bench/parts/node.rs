//! The reference Node client on the same work: one connect, one `agent` call, the reply.

use std::path::Path;
use std::process::Command;

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;

use super::send::send;
use crate::Size;
use crate::company::{BlackHoles, Company};
use crate::machine;
use crate::measure::{Cost, Work, interleaved, median_of, pair_by_pair};
use crate::places::{Places, text};

const COMMAND: &str = "agent-mesh send --to NAME --message TEXT --quiet";
const BESIDE: &str = "@openclaw/gateway-client in Node (benches/reference-call.mjs)";

pub fn rows(places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
    let interop = places.root.join("interop");
    if !Command::new(interop.join("setup")).status()?.success() {
        return Ok(vec![Row::missing("node", "send", COMMAND, "interop/setup could not install it")]);
    }
    let node = text(&interop.join(".venv/bin/node"));
    let company = Company::open(places, 1, BlackHoles::None)?;
    let home = company.home(1, 0)?;
    let agent = &home.team[0];
    let device = make_device(&node, places, home.path())?;
    let call = text(&places.root.join("benches/reference-call.mjs"));
    let url = format!("ws://{}", agent.address);
    let (mut own_round, mut node_round) = (0, 0);
    let mut own = || {
        own_round += 1;
        send(places, &home, &format!("is the build green? {own_round}"))
    };
    let mut reference = || {
        node_round += 1;
        let message = format!("is the build green? {node_round}");
        let session = "agent:main:mesh:alice";
        let argv = [&node, &call, &url, &device, &agent.token, session, &message];
        let cost = Work::new(argv).cost(places, home.path())?;
        if cost.stdout.trim_end().ends_with(&message) { Ok(cost) } else { Err(cost.stdout.into()) }
    };
    own()?;
    reference()?;
    let rounds = if size == Size::Full { 60 } else { 10 };
    let seen = interleaved(rounds, &mut [&mut own, &mut reference])?;
    let row = |what: &str, unit: &str, of: &dyn Fn(&Cost) -> f64| {
        Row::new("node", what, COMMAND, median_of(&seen[0], of), unit)
            .beside(BESIDE, median_of(&seen[1], of))
            .ratio(pair_by_pair(&seen[0], &seen[1], of))
    };
    let a_fifth = |row: Row| {
        let holds = row.ratio.is_some_and(|ratio| ratio <= 0.2);
        row.must_hold("at most a fifth", holds)
    };
    Ok(vec![
        a_fifth(row("send, CPU", "ms", &|cost| cost.cpu_ms)),
        a_fifth(row("send, peak memory", "MiB", &Cost::peak_mib)),
        row("send, wall", "ms", &|cost| cost.wall_ms),
    ])
}

/// A device of its own for the reference client: it keeps keys in another form.
fn make_device(node: &str, places: &Places, home: &Path) -> Result<String, Failure> {
    const SCRIPT: &str = "import('./interop/lib/wire.mjs').then(({ makeDevice }) => console.log(JSON.stringify(makeDevice())))";
    let device = machine::said(node, &["-e", SCRIPT], &places.root).ok_or("Node made no device")?;
    let path = home.join("reference-device.json");
    std::fs::write(&path, device)?;
    Ok(text(&path))
}
