//! Every message that the soak began, and what has to be true of it in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::time::Instant;

use crate::Failure;
use crate::door::Door;
use crate::home::{Complaints, Home};

/// A message to one door.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its mark; a broadcast has one mark for all.
    pub mark: String,
    pub to: &'static str,
    /// How it was sent.
    pub how: &'static str,
    pub begun: Instant,
    /// When the command or call came back.
    pub told_at: Instant,
    /// What it said: the state, and the reply.
    pub told: Option<(String, Option<String>)>,
}

/// What the sender's archive has of a message.
struct Row {
    id: String,
    state: String,
    reply: Option<String>,
    failure: Option<String>,
}

impl Row {
    /// Whether it failed because its door ended, as the door itself says.
    fn names_the_door(&self) -> bool {
        self.failure.as_deref().is_some_and(|why| why.contains("the gateway ended before it"))
    }

    fn in_words(&self) -> String {
        format!("{} {} {:?} {:?}", self.id, self.state, self.reply, self.failure)
    }
}

/// All messages.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Said>>);

/// How the messages ended.
#[derive(Debug, Default)]
pub struct Totals {
    pub messages: usize,
    pub states: BTreeMap<String, usize>,
    pub lost: usize,
    pub doubled: usize,
    pub wrong: usize,
    /// States that do not say what happened, or that nothing explains.
    pub untrue: usize,
}

/// The mark in a text.
pub fn mark(text: &str) -> Option<String> {
    let at = text.find("nonce-")?;
    text.get(at..at + "nonce-".len() + 16).map(str::to_owned)
}

/// What was in an archive's export, by mark and teammate.
type Archived = HashMap<(String, String), Vec<Row>>;

impl Ledger {
    pub fn add(&self, said: Said) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }

    fn all(&self) -> Vec<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Compares what was told, what the sender's archive has, what the doors' archives have, and what ran.
    pub async fn judge(
        &self,
        sender: &Home,
        doors: &[Door],
        complaints: &Complaints,
    ) -> Result<Totals, Failure> {
        let mut rows = archived(sender).await?;
        let mut totals = Totals::default();
        let mut known = HashSet::new();
        for door in doors {
            let (ran, kept) = (counted(door.witness().await?), counted(door.archived().await?));
            for said in self.all().iter().filter(|said| said.to == door.name) {
                let row = rows.remove(&(said.mark.clone(), said.to.to_owned())).unwrap_or_default();
                let runs = [&ran, &kept].map(|marks| marks.get(&said.mark).copied().unwrap_or_default());
                if let Some(complaint) = totals.count(said, &row, runs, door) {
                    complaints.add(format!("{complaint}{}", steps(sender, &row).await?));
                }
                known.insert(said.mark.clone());
            }
            for mark in ran.keys().chain(kept.keys()).filter(|mark| !known.contains(*mark)) {
                totals.wrong += 1;
                complaints.add(format!("WRONG: {mark} ran at {}, and nobody said it there", door.name));
            }
            known.clear();
        }
        for (mark, to) in rows.keys() {
            totals.wrong += 1;
            complaints.add(format!("WRONG: the archive has {mark} to {to}, and nobody said it"));
        }
        Ok(totals)
    }
}

impl Totals {
    /// `runs`: how often it ran, and how often the door's archive has it. Gives what is wrong with it.
    fn count(&mut self, said: &Said, rows: &[Row], runs: [usize; 2], door: &Door) -> Option<String> {
        self.messages += 1;
        let row = rows.first();
        let state = row.map_or("never-begun", |row| row.state.as_str());
        *self.states.entry(state.to_owned()).or_default() += 1;
        let what = format!(
            "{} to {} by {}: told {:?}, archived {}, ran {} times, archived there {} times",
            said.mark,
            said.to,
            said.how,
            said.told,
            rows.iter().map(Row::in_words).collect::<Vec<_>>().join(" and "),
            runs[0],
            runs[1]
        );
        let kind = verdict(said, rows, runs, door)?;
        let count = match kind {
            "LOST" => &mut self.lost,
            "DOUBLED" => &mut self.doubled,
            "WRONG" => &mut self.wrong,
            _ => &mut self.untrue,
        };
        *count += 1;
        Some(format!("{kind}: {what}"))
    }
}

/// What the sender's archive has of a message's way, a line for each step.
async fn steps(sender: &Home, rows: &[Row]) -> Result<String, Failure> {
    let mut steps = String::new();
    for row in rows {
        let shown = sender.run(&["log", "show", &row.id, "--json"], None).await?.document();
        for event in shown["messages"][0]["events"].as_array().into_iter().flatten() {
            let _ = write!(steps, "\n    {} {} {}", event["at"], event["step"], event["detail"]);
        }
    }
    Ok(steps)
}

/// What is wrong with a message, in a word.
fn verdict(said: &Said, rows: &[Row], runs: [usize; 2], door: &Door) -> Option<&'static str> {
    let end = if said.how == "queue" { Instant::now() } else { said.told_at };
    let troubled = |killed| door.troubled(said.begun, end, killed);
    if rows.len() > 1 || runs.iter().any(|&times| times > 1) {
        return Some("DOUBLED");
    }
    if runs[0] > runs[1] {
        return Some("UNTRUE: it ran, and the door's archive does not have it");
    }
    let Some(row) = rows.first() else {
        return (runs[0] > 0 || said.told.is_some()).then_some("LOST");
    };
    if let Some((state, reply)) = &said.told
        && state == "replied"
        && (row.state != "replied" || row.reply != *reply)
    {
        return Some("UNTRUE: told one thing and archived another");
    }
    match (row.state.as_str(), runs[0]) {
        ("replied", 1) => {
            let reply = row.reply.as_deref().unwrap_or_default();
            (!reply.contains(&said.mark) || reply.matches("nonce-").count() != 1).then_some("WRONG")
        }
        ("replied", _) => Some("UNTRUE: a reply, and nothing ran"),
        ("queued" | "sending" | "accepted" | "held", _) => Some("LOST"),
        // Only a run that died with its gateway may end so, and only where it was to be.
        ("unknown" | "no-reply", _) => (!troubled(true)).then_some("LOST"),
        ("failed", 1) => (!troubled(true)).then_some("LOST"),
        // Killed after it took the message, and before the agent wrote it down: so it was told, too.
        ("failed", 0) if said.how == "queue" && runs[1] == 1 && row.names_the_door() => None,
        (_, 1) => Some("UNTRUE: it ran"),
        // What waits in the outbox is delivered in the end.
        (_, _) if said.how == "queue" => Some("LOST"),
        (_, _) => (!troubled(false)).then_some("UNEXPLAINED: nothing was the matter with the door"),
    }
}

fn counted(marks: Vec<String>) -> HashMap<String, usize> {
    let mut counted = HashMap::new();
    for mark in marks {
        *counted.entry(mark).or_default() += 1;
    }
    counted
}

/// Every message that went out.
pub async fn exported(sender: &Home) -> Result<Vec<Value>, Failure> {
    let text = sender.done(&["log", "export"], None).await?.stdout;
    let rows: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    Ok(rows?.into_iter().filter(|row| row["direction"] == "out").collect())
}

async fn archived(sender: &Home) -> Result<Archived, Failure> {
    let mut archived = Archived::new();
    for row in exported(sender).await? {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mark = row["message"].as_str().and_then(mark).unwrap_or_default();
        let to = text(&row["to"]["emailPrefix"]).unwrap_or_default();
        archived.entry((mark, to)).or_default().push(Row {
            id: text(&row["id"]).unwrap_or_default(),
            state: text(&row["state"]).unwrap_or_default(),
            reply: text(&row["reply"]["text"]),
            failure: text(&row["failure"]),
        });
    }
    Ok(archived)
}
