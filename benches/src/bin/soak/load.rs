//! What people and scripts do all day: short-lived commands, one after the other, from several shells at once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agent_mesh_benches::Writer;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::door::Door;
use crate::home::Ran;
use crate::ledger::Said;
use crate::{Failure, Soak};

/// One deadline for each message: longer than any trouble lasts.
const TIMEOUT: &str = "20s";

/// The topic beside everybody's one session.
const TOPIC: [&str; 2] = ["--thread", "deploy"];

/// Messages sent with `--no-wait`, whose replies somebody comes back for.
#[derive(Debug, Default)]
pub struct Open(Mutex<VecDeque<String>>);

impl Open {
    fn push(&self, id: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(id);
    }

    fn pop(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Fills what is bounded by number and would fill all the hour long: the session of the topic at the first door, which gets a
/// message every few seconds. Memory is to be flat once that is full.
pub async fn fill(soak: &Soak) -> Result<(), Failure> {
    /// A session keeps a thousand rows, two for each message.
    const MESSAGES: usize = 500;
    let mut random = Writer::new(soak.seed ^ (98 << 32));
    for _ in 0..MESSAGES {
        send_to(soak, &soak.doors[0], &mut random, "thread", &TOPIC).await?;
    }
    Ok(())
}

/// A shell, until the soak is over. Between two commands it rests for up to twice this.
pub async fn shell(soak: &Soak, number: u64, rest: Duration) {
    let mut random = Writer::new(soak.seed ^ (number << 32));
    while !soak.is_over() {
        {
            let _working = soak.gate.read().await;
            if let Err(error) = command(soak, &mut random).await {
                soak.complaints.add(format!("a command: {error}"));
            }
        }
        sleep(rest.mul_f64(random.number(200) as f64 / 100.0)).await;
    }
}

async fn command(soak: &Soak, random: &mut Writer) -> Result<(), Failure> {
    match random.number(100) {
        0..40 => send(soak, random, "send", &[]).await,
        40..50 => send(soak, random, "thread", &TOPIC).await,
        50..65 => send(soak, random, "queue", &["--queue"]).await,
        65..73 => send(soak, random, "no-wait", &["--no-wait"]).await,
        // More often than the line above: a session shows its last thousand rows, and what is older cannot be asked after.
        73..85 => wait(soak).await,
        85..89 => broadcast(soak, random).await,
        89..92 => look(soak, &["list", "--json"], &[0]).await,
        92..95 => {
            let door = soak.any_door(random).name;
            look(soak, &["ping", "--to", door, "--json"], &[0, 5, 6]).await
        }
        95..98 => {
            let word = random.text(1, 2);
            look(soak, &["log", "--json", "--search", word.trim()], &[0]).await
        }
        _ => look(soak, &["log", "--json"], &[0]).await,
    }
}

/// The state and the reply of a document.
pub fn told(record: &Value) -> Option<(String, Option<String>)> {
    Some((record["state"].as_str()?.to_owned(), record["reply"]["text"].as_str().map(str::to_owned)))
}

async fn send(soak: &Soak, random: &mut Writer, how: &'static str, more: &[&str]) -> Result<(), Failure> {
    let door = soak.any_door(random);
    send_to(soak, door, random, how, more).await
}

async fn send_to(
    soak: &Soak,
    door: &Door,
    random: &mut Writer,
    how: &'static str,
    more: &[&str],
) -> Result<(), Failure> {
    let mark = soak.mark();
    let text = format!("{}{mark}", random.text(1, 40));
    let begun = Instant::now();
    let args = ["send", "--to", door.name, "--message", &text, "--timeout", TIMEOUT, "--json"];
    let ran = soak.alice.run(&[&args, more].concat(), None).await?;
    let document = ran.document();
    if document.is_null() {
        soak.complaints.add(format!("send without a document: {ran:?}"));
    }
    if how == "no-wait"
        && let ("accepted", Some(id)) =
            (document["state"].as_str().unwrap_or_default(), document["id"].as_str())
    {
        soak.open.push(id.to_owned());
    }
    let told = told(&document);
    soak.ledger.add(Said { mark, to: door.name, how, begun, told_at: Instant::now(), told });
    Ok(())
}

async fn wait(soak: &Soak) -> Result<(), Failure> {
    let Some(id) = soak.open.pop() else { return Ok(()) };
    look(soak, &["wait", &id, "--timeout", TIMEOUT, "--json"], &[0, 1, 3, 5, 6, 75]).await
}

async fn broadcast(soak: &Soak, random: &mut Writer) -> Result<(), Failure> {
    let mark = soak.mark();
    let text = format!("{}{mark}", random.text(1, 40));
    let begun = Instant::now();
    let names = soak.doors.iter().map(|door| door.name).collect::<Vec<_>>().join(",");
    let args = ["broadcast", "--only", &names, "--message", &text, "--timeout", TIMEOUT, "--json"];
    let ran = soak.alice.run(&args, None).await?;
    soak.told_by_all(&mark, "broadcast", begun, &ran.document()["results"]);
    Ok(())
}

/// A command that only looks; it must end in one of these ways, with one document.
async fn look(soak: &Soak, args: &[&str], good: &[i32]) -> Result<(), Failure> {
    let ran: Ran = soak.alice.run(args, None).await?;
    soak.looked();
    if !ran.code.is_some_and(|code| good.contains(&code)) || ran.document().is_null() {
        soak.complaints.add(format!("{args:?}: {ran:?}"));
    }
    Ok(())
}
