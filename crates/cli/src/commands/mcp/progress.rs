//! What happens while a tool is at work, as progress notifications for a client that asked for them.

use std::time::Duration;

use agent_team_mesh::progress::{Observer, Progress};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use crate::text;

/// A client may give a call up when it hears nothing for a while, often a minute: silence is broken this often.
const STILL_HERE: Duration = Duration::from_secs(5);

/// The length of a reply that grows is told in steps of so many bytes.
const GROWTH: usize = 256;

/// Passes on what happens.
pub struct Steps {
    tell: mpsc::UnboundedSender<String>,
    wanted: bool,
    written: usize,
    told: usize,
    said: u32,
    under_way: Option<String>,
}

/// The other end, which notifies the client.
pub struct Teller(Option<JoinHandle<()>>);

/// A pair for one call.
pub fn steps(context: &RequestContext<RoleServer>) -> (Steps, Teller) {
    let (tell, heard) = mpsc::unbounded_channel();
    let token = context.meta.get_progress_token();
    let wanted = token.is_some();
    let task = token.map(|token| tokio::spawn(notify(context.peer.clone(), token, heard)));
    (Steps { tell, wanted, written: 0, told: 0, said: 0, under_way: None }, Teller(task))
}

impl Teller {
    /// Returns when everything was told: a notification that comes after its result is an error.
    pub async fn done(mut self) {
        if let Some(task) = self.0.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn notify(peer: Peer<RoleServer>, token: ProgressToken, mut heard: mpsc::UnboundedReceiver<String>) {
    let mut beats = interval_at(Instant::now() + STILL_HERE, STILL_HERE);
    let mut count = 0.0;
    let begun = Instant::now();
    loop {
        let message = tokio::select! {
            message = heard.recv() => match message {
                Some(message) => message,
                None => return,
            },
            _ = beats.tick() => format!("waiting for {} s", begun.elapsed().as_secs()),
        };
        count += 1.0;
        let param = ProgressNotificationParam::new(token.clone(), count).with_message(message);
        if peer.notify_progress(param).await.is_err() {
            return;
        }
    }
}

impl Steps {
    /// The last message that began.
    pub fn under_way(&self) -> Option<&str> {
        self.under_way.as_deref()
    }

    fn tell(&self, what: impl Into<String>) {
        // Nobody may be listening.
        let _ = self.tell.send(what.into());
    }

    fn grown(&mut self, by: usize) {
        self.written += by;
        if self.written >= self.told + GROWTH || self.told == 0 {
            self.told = self.written;
            self.tell(format!("writing, {} bytes so far", self.written));
        }
    }
}

impl Observer for Steps {
    fn progress(&mut self, step: Progress<'_>) {
        match step {
            Progress::Begun { id } => {
                self.under_way = Some(id.to_owned());
                self.tell(format!("message {id}"));
            }
            Progress::Said { ours, .. } => {
                self.said += 1;
                let who = if ours { "your owner's agent" } else { "the teammate's" };
                self.tell(format!("turn {}: {who} spoke", self.said));
            }
            Progress::Reached => self.tell("reached"),
            Progress::Accepted => self.tell("accepted"),
            Progress::Phase(phase) => self.tell(text::shortened(phase, 80)),
            Progress::Text(piece) => self.grown(piece.len()),
            Progress::PeerDone(record) => {
                self.tell(format!("{}: {}", text::shortened(&record.to.name, 80), record.state.name()));
            }
            _ => {}
        }
    }

    fn wants_text(&self) -> bool {
        self.wanted
    }
}
