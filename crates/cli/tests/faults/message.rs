//! One message on its way: `send`, then `wait` in new processes until its life has an end.

use agent_mesh_testkit::FakeGateway;
use serde_json::Value;
use tokio::sync::watch;

use crate::home::{Home, Ran, ended};
use crate::random::Random;

/// How often a message is waited for before we say that it hangs.
const WAITS: usize = 8;

#[derive(Debug)]
pub struct Message {
    /// Given by us, so that it is known when the sender is killed before it says anything.
    pub id: String,
    /// Found in what the agent is told and in what it answers, and nowhere else.
    pub marker: String,
    /// With an attribution header in front, as the product does it; its bytes must stay the same when sent again.
    header: bool,
    /// How long `send` is patient.
    timeout: &'static str,
    /// The number of our process that is to die, and of the one that runs.
    kill: watch::Sender<bool>,
}

/// How the story of a message ended, as we told it.
#[derive(Debug)]
pub struct Story {
    /// The last state, or `never-begun`.
    pub state: String,
    pub reply: Option<String>,
    /// Told to try again later (exit 75): the gateway is restarting and took nothing.
    pub busy: bool,
    /// All that our processes said.
    pub told: Vec<String>,
    /// Whether `send` itself brought the reply over its first connection.
    pub at_once: bool,
}

impl Message {
    pub fn new(random: &mut Random, timeout: &'static str) -> Self {
        let id = random.uuid();
        let marker = format!("nonce-{}", &id.simple().to_string()[..16]);
        Self {
            id: id.to_string(),
            marker,
            header: random.one_in(2),
            timeout,
            kill: watch::Sender::new(false),
        }
    }

    /// SIGKILL for whatever process of ours carries it now; `false` if none did.
    pub async fn kill(&self) -> bool {
        if self.kill.receiver_count() == 0 {
            return false;
        }
        self.kill.send_replace(true);
        // The process takes the order back when it is dead.
        let mut order = self.kill.subscribe();
        order.wait_for(|order| !order).await.is_ok()
    }

    /// Brings it to its end.
    pub async fn drive(&self, home: &Home) -> Story {
        let mut send =
            vec!["send", "--to", "bob", "--session", "storm", "--id", &self.id, "--timeout", self.timeout];
        let text = format!("please answer {}", self.marker);
        send.extend(["--message", &text]);
        if !self.header {
            send.push("--no-header");
        }
        let mut told = Vec::new();
        let mut ran = self.process(home, &send, &mut told).await;
        let at_once = ran.as_ref().is_some_and(|ran| ran.code == 0);
        let mut state = ran.as_ref().map_or_else(killed, state_of);
        for _ in 0..WAITS {
            if !matches!(state.as_str(), "killed" | "sending" | "accepted" | "unknown") {
                break;
            }
            ran = self.process(home, &["wait", &self.id, "--timeout", "15s"], &mut told).await;
            state = ran.as_ref().map_or_else(killed, state_of);
        }
        let reply = ran.as_ref().and_then(|ran| ran.document["reply"]["text"].as_str().map(str::to_owned));
        Story { state, reply, busy: ran.is_some_and(|ran| ran.code == 75), told, at_once }
    }

    /// Runs one process of ours; `None` if it was killed.
    async fn process(&self, home: &Home, args: &[&str], told: &mut Vec<String>) -> Option<Ran> {
        let mut order = self.kill.subscribe();
        let child = home.spawn(args);
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let end = ended(child, args);
        tokio::pin!(end);
        let ran = tokio::select! {
            ran = &mut end => ran,
            _ = order.wait_for(|order| *order) => {
                // It may have ended by itself at this very moment; it is not reaped before `end` says so.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                end.await
            }
        };
        told.push(format!("{}: {}", args[0], ran.as_ref().map_or_else(|| "killed".to_owned(), summary)));
        self.kill.send_replace(false);
        ran
    }

    /// How often its text was really run, under whatever key; `Err` if it came with different bytes.
    pub fn runs(&self, gateway: &FakeGateway) -> Result<usize, String> {
        let texts =
            gateway.requests("agent").into_iter().filter_map(|p| p["message"].as_str().map(str::to_owned));
        let mut texts: Vec<String> = texts.filter(|text| text.contains(&self.marker)).collect();
        texts.dedup();
        match texts.as_slice() {
            [] => Ok(0),
            [text] => Ok(gateway.ledger().runs_of_text(text)),
            several => Err(format!("sent again with other bytes: {several:?}")),
        }
    }
}

fn killed() -> String {
    "killed".to_owned()
}

fn state_of(ran: &Ran) -> String {
    match (&ran.document["state"], &ran.document["error"]["code"]) {
        (Value::String(state), _) => state.clone(),
        // Killed before the archive had it: then nothing may have left.
        (_, Value::String(code)) if code == "no-such-message" => "never-begun".to_owned(),
        (_, code) => format!("error {code}"),
    }
}

fn summary(ran: &Ran) -> String {
    let said = &ran.document;
    format!("exit {} {} {} {}", ran.code, said["state"], said["reply"]["text"], said["error"]["message"])
}
