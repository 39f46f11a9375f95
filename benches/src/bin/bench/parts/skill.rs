//! The bash skill, where it is at hand: `BASH_SKILL` is the path of its script. A copy of its folder gets a team of ours, so
//! that nothing of it is changed. It knows no port but OpenClaw's own, so the agents listen there.

use std::fs;
use std::path::Path;
use std::process::Command;

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;

use super::send::send;
use crate::company::{Company, Home};
use crate::measure::{Cost, Work, interleaved, median_of, pair_by_pair};
use crate::places::{Places, text};

/// The only port that the skill knows.
const PORT: u16 = 18_789;
const PEERS: usize = 500;

pub fn rows(places: &Places) -> Result<Vec<Row>, Failure> {
    let Some(script) = &places.bash_skill else {
        let command = "BASH_SKILL=path/to/its/script ./bench skill";
        let why = "the bash skill was not at hand when this was written";
        return Ok(vec![Row::missing("skill", "list and send", command, why)]);
    };
    let company = Company::on_port(places, PEERS, PORT)?;
    let home = company.home(PEERS, 0)?;
    let name = script.file_name().ok_or("BASH_SKILL is not the path of a script")?;
    let folder =
        script.parent().and_then(Path::parent).ok_or("BASH_SKILL is not in a skill's scripts folder")?;
    let copy = home.path().join("skill");
    if !Command::new("cp").arg("-R").arg(folder).arg(&copy).status()?.success() {
        return Err(format!("{} could not be copied", folder.display()).into());
    }
    fs::create_dir_all(copy.join("references"))?;
    fs::copy(
        home.path().join(".config/agent-team-mesh/registry.json"),
        copy.join("references/registry.json"),
    )?;
    let skill = Skill { places, home: &home, script: text(&copy.join("scripts").join(name)) };
    Ok(vec![skill.list()?, skill.send()?])
}

struct Skill<'a> {
    places: &'a Places,
    home: &'a Home,
    script: String,
}

impl Skill<'_> {
    fn list(&self) -> Result<Row, Failure> {
        let own = Work::new([self.places.product(), "list".into(), "--json".into()]);
        let mut own = || own.cost(self.places, self.home.path());
        let mut theirs = || self.run(&["list"], &self.home.team[PEERS - 1].name);
        self.row(&format!("list, {PEERS} online"), "agent-mesh list --json", 5, &mut own, &mut theirs)
    }

    fn send(&self) -> Result<Row, Failure> {
        let message = "is the build green?";
        let name = &self.home.team[0].name;
        let mut own = || send(self.places, self.home, message);
        let mut theirs = || self.run(&["send", "--to", name, "--message", message], message);
        let command = "agent-mesh send --to NAME --message TEXT --quiet";
        self.row("send", command, 3, &mut own, &mut theirs)
    }

    fn row(
        &self,
        what: &str,
        command: &str,
        rounds: usize,
        own: &mut dyn FnMut() -> Result<Cost, Failure>,
        theirs: &mut dyn FnMut() -> Result<Cost, Failure>,
    ) -> Result<Row, Failure> {
        own()?;
        let seen = interleaved(rounds, &mut [own, theirs])?;
        let wall = |cost: &Cost| cost.wall_ms;
        Ok(Row::new("skill", what, command, median_of(&seen[0], wall), "ms")
            .beside("the bash skill's script", median_of(&seen[1], wall))
            .ratio(pair_by_pair(&seen[0], &seen[1], wall))
            .note(format!(
                "CPU {:.0} ms beside {:.0}",
                median_of(&seen[0], |cost| cost.cpu_ms),
                median_of(&seen[1], |cost| cost.cpu_ms)
            )))
    }

    /// Runs the script; what it prints must have this in it, or it did not do its work.
    fn run(&self, args: &[&str], expected: &str) -> Result<Cost, Failure> {
        // It calls the `openclaw` command, several times, and finds no other Node than this one.
        let path = format!(
            "PATH={0}/.venv/bin:{0}/node_modules/.bin:/usr/bin:/bin",
            text(&self.places.root.join("interop"))
        );
        let argv = ["/usr/bin/env", &path, "bash", &self.script].into_iter().chain(args.iter().copied());
        let cost = Work::new(argv).cost(self.places, self.home.path())?;
        if cost.stdout.contains(expected) {
            return Ok(cost);
        }
        Err(format!("the skill did not say {expected:?}: {}{}", cost.stdout, cost.stderr).into())
    }
}
