//! A fleet of virtual agents, and the home folders of people who know some of them.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent_mesh_benches::bare::Failure;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::places::{Places, text};

/// `fleet`, running. It ends with us: its standard input does.
pub struct Company {
    process: Child,
    online: Vec<Agent>,
    black_holes: Vec<Agent>,
}

/// How many never answer.
#[derive(Debug, Clone, Copy)]
pub enum BlackHoles {
    None,
    ATenth,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Agent {
    pub name: String,
    pub address: String,
    pub token: String,
}

impl Company {
    /// At least so many who answer; where a tenth is to be silent, a ninth of that comes on top of them.
    pub fn open(places: &Places, online: usize, black_holes: BlackHoles) -> Result<Self, Failure> {
        let (all, percent) = match black_holes {
            BlackHoles::None => (online, 0),
            BlackHoles::ATenth => ((online * 10).div_ceil(9), 10),
        };
        Self::start(places, &["--agents", &all.to_string(), "--black-holes", &percent.to_string()])
    }

    /// So many who answer, all on this port.
    pub fn on_port(places: &Places, online: usize, port: u16) -> Result<Self, Failure> {
        Self::start(places, &["--agents", &online.to_string(), "--port", &port.to_string()])
    }

    fn start(places: &Places, args: &[&str]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(places.bench("fleet"))
            .arg(folder.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(process.stdout.take().ok_or("no stdout")?).read_line(&mut said)?;
        if said != "ready\n" {
            return Err(format!("the fleet said {said:?}").into());
        }
        let mut company = Self { process, online: Vec::new(), black_holes: Vec::new() };
        for line in fs::read_to_string(folder.path().join("agents.txt"))?.lines() {
            let mut fields = line.split(' ').map(str::to_owned);
            let (Some(name), Some(address), Some(token)) = (fields.next(), fields.next(), fields.next())
            else {
                return Err(format!("the fleet wrote {line:?}").into());
            };
            let is_online = fields.next().as_deref() == Some("online");
            let side = if is_online { &mut company.online } else { &mut company.black_holes };
            side.push(Agent { name, address, token });
        }
        Ok(company)
    }

    /// The home folder of somebody whose team are so many who answer, and so many who do not, all mixed.
    pub fn home(&self, online: usize, black_holes: usize) -> Result<Home, Failure> {
        let (Some(online), Some(silent)) = (self.online.get(..online), self.black_holes.get(..black_holes))
        else {
            return Err(format!("the fleet has {} and {}", self.online.len(), self.black_holes.len()).into());
        };
        let mut team = [online, silent].concat();
        team.sort_by(|a, b| a.name.cmp(&b.name));
        Home::new(team)
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It may have ended already.
        let _ = self.process.wait();
    }
}

/// A home folder, with a registry and tokens.
pub struct Home {
    folder: TempDir,
    pub team: Vec<Agent>,
}

impl Home {
    fn new(team: Vec<Agent>) -> Result<Self, Failure> {
        let home = Self { folder: tempfile::tempdir()?, team };
        let config = home.path().join(".config/agent-team-mesh");
        fs::create_dir_all(&config)?;
        let entry =
            |agent: &Agent| json!({ "name": agent.name, "emailPrefix": agent.name, "ip": agent.address });
        let registry: Vec<Value> = home.team.iter().map(entry).collect();
        fs::write(config.join("registry.json"), json!({ "agents": registry }).to_string())?;
        let tokens = home.team.iter().map(|agent| (agent.name.clone(), agent.token.clone().into()));
        write_secret(
            &config.join("tokens.json"),
            &json!({ "tokens": tokens.collect::<Map<_, _>>() }).to_string(),
        )?;
        let lines =
            home.team.iter().map(|agent| format!("{} {} {}\n", agent.name, agent.address, agent.token));
        write_secret(&home.path().join("agents.txt"), &lines.collect::<String>())?;
        Ok(home)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// For `bare-crowd`: one agent a line.
    pub fn agents_txt(&self) -> String {
        text(&self.path().join("agents.txt"))
    }

    /// What agent-mesh keeps of its own.
    pub fn state(&self) -> PathBuf {
        self.path().join(".local/state/agent-team-mesh")
    }

    /// The key that agent-mesh made when it first needed one.
    pub fn key(&self) -> String {
        text(&self.state().join("device.pem"))
    }
}

fn write_secret(path: &Path, content: &str) -> Result<(), Failure> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    Ok(file.write_all(content.as_bytes())?)
}
