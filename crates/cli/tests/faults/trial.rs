//! One trial: a fresh gateway, one or two messages in one session, and what breaks meanwhile.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent_mesh_testkit::{DelayProxy, FakeGateway, Reply, Script};
use serde_json::Value;

use crate::all::all;
use crate::home::Home;
use crate::message::{Message, Story};
use crate::random::Random;
use crate::strike::{SESSION, Strike};
use crate::totals::Totals;

pub struct Trial {
    number: u32,
    strikes: Vec<Strike>,
    messages: Vec<Message>,
    /// Whether somebody spoke in this session before. An empty history proves nothing: sessions are reset, too.
    prelude: bool,
    gateway: FakeGateway,
    /// The line, when bytes are to be counted.
    proxy: Option<DelayProxy>,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, strikes, messages, prelude, .. } = self;
        write!(f, "trial {number}: {strikes:?}, prelude {prelude}, {messages:?}")
    }
}

impl Trial {
    /// The trial of this number: all choices come from the seed and the number alone.
    pub async fn plan(seed: u64, number: u32) -> Self {
        let mut random = Random::new(seed.wrapping_add(u64::from(number)));
        let count = random.pick(&[1, 1, 1, 2, 2, 3]);
        let strikes: Vec<Strike> = (0..count).map(|_| Strike::random(&mut random)).collect();
        // The second message queues behind the first, whose run takes its time.
        let senders = if random.one_in(4) { 2 } else { 1 };
        // Impatient senders leave more to the later `wait`.
        let timeout = random.pick(&["6s", "6s", "6s", "300ms"]);
        let messages = (0..senders).map(|_| Message::new(&mut random, timeout)).collect();
        let think = random.pick(&[0, 0, 2, 10, 60]);
        let pause = random.pick(&[0, 0, 3]);
        let mut script = Script::new()
            .tick_every(Duration::from_secs(1))
            .recovers_after(Duration::from_millis(random.below(300)))
            .reply(move |turn| {
                let answer = format!("re: {}", turn.message);
                let (head, tail) = answer.split_at(4);
                Reply::text(&answer)
                    .after(Duration::from_millis(think))
                    .deltas([head, tail])
                    .every(Duration::from_millis(pause))
            });
        let prelude = !random.one_in(4);
        for (n, strike) in (1 + u32::from(prelude)..).zip(&strikes) {
            script = strike.script(n, script);
        }
        let gateway = FakeGateway::start(script).await;
        let counted = strikes.iter().any(|strike| matches!(strike, Strike::Bytes { .. }));
        let proxy =
            if counted { Some(DelayProxy::start(gateway.address(), Duration::ZERO).await) } else { None };
        if let Some(proxy) = &proxy {
            strikes.iter().for_each(|strike| strike.prepare(proxy));
        }
        Self { number, strikes, messages, prelude, gateway, proxy }
    }

    /// Plays it and counts.
    pub async fn play(self, home: &Home, totals: &mut Totals) {
        if self.prelude {
            home.move_bob(&self.gateway.url());
            let args = ["send", "--to", "bob", "--session", "storm", "--message", "before all this"];
            assert_eq!(home.run(&args).await.code, 0);
            // Long enough ago to be before the message, however late a busy machine reads the clock.
            self.gateway.set_clock_ahead(Duration::from_secs(60));
        }
        let begun = Instant::now();
        home.move_bob(&self.proxy.as_ref().map_or_else(|| self.gateway.url(), DelayProxy::url));
        let stories = all(self.messages.iter().map(|message| message.drive(home)));
        tokio::pin!(stories);
        // What comes too late, when all messages have ended, does not strike.
        let struck = Mutex::new(Vec::new());
        let stories = tokio::select! {
            stories = &mut stories => stories,
            () = self.strike_live(&struck) => stories.await,
        };
        totals.trials += 1;
        totals.slowest = totals.slowest.max((begun.elapsed(), self.number));
        for kind in struck.into_inner().unwrap() {
            *totals.cuts.entry(kind).or_default() += 1;
        }
        let at_once = stories.iter().all(|story| story.at_once);
        for (n, strike) in self.numbered() {
            if strike.hit(n, &self.gateway, at_once) {
                *totals.cuts.entry(strike.kind()).or_default() += 1;
            }
        }
        for (message, story) in self.messages.iter().zip(&stories) {
            self.judge(message, story, totals);
            self.compare_with_archive(message, story, home, totals).await;
        }
    }

    /// The strikes, and the connection that each is for.
    fn numbered(&self) -> impl Iterator<Item = (u32, &Strike)> {
        (1 + u32::from(self.prelude)..).zip(&self.strikes)
    }

    /// Carries out what breaks by itself, in order, each on a connection of its own.
    async fn strike_live(&self, struck: &Mutex<Vec<&'static str>>) {
        let before = usize::from(self.prelude);
        for (n, strike) in self.numbered() {
            let did = match strike {
                Strike::GatewayKilled(moment) => {
                    moment.comes(n, &self.gateway, before).await;
                    self.gateway.kill().await;
                    self.recovery_begins().await;
                    true
                }
                Strike::GatewayRestarted(moment) => {
                    moment.comes(n, &self.gateway, before).await;
                    self.gateway.restart().await;
                    true
                }
                Strike::WeAreKilled(moment) => {
                    moment.comes(n, &self.gateway, before).await;
                    let victim = &self.messages[n as usize % self.messages.len()];
                    victim.kill().await
                }
                Strike::Point(..) | Strike::Bytes { .. } => false,
            };
            if did {
                struck.lock().unwrap().push(strike.kind());
            }
        }
    }

    /// After a crash in the middle of a run: the scripted gateway forgets what it has to recover when it is killed again
    /// before it began. (Crashes in the middle of the recovery are a test of their own, in `queue`.)
    async fn recovery_begins(&self) {
        let rows = |gateway: &FakeGateway| gateway.history(SESSION);
        let recoveries = |rows: &[Value]| {
            let texts = rows.iter().filter_map(|row| row["content"].as_str());
            texts.filter(|text| text.starts_with("[System]")).count()
        };
        let before = rows(&self.gateway);
        if before.last().is_some_and(|row| row["role"] == "user") {
            self.gateway.until(|gateway| recoveries(&rows(gateway)) > recoveries(&before)).await;
        }
    }

    fn judge(&self, message: &Message, story: &Story, totals: &mut Totals) {
        totals.messages += 1;
        let runs = match message.runs(&self.gateway) {
            Ok(runs) => runs,
            Err(why) => {
                totals.doubled += 1;
                return self.complain(&why, message, story, totals);
            }
        };
        if runs > 1 {
            totals.doubled += 1;
            self.complain(&format!("DOUBLED: ran {runs} times"), message, story, totals);
        }
        match story.state.as_str() {
            "replied" => {
                totals.replied += 1;
                let reply = story.reply.as_deref().unwrap_or_default();
                if !reply.contains(&message.marker) || reply.matches("nonce-").count() != 1 {
                    totals.wrong += 1;
                    self.complain("WRONG reply", message, story, totals);
                }
                if runs == 0 {
                    totals.untrue += 1;
                    self.complain("UNTRUE: a reply, and nothing ran", message, story, totals);
                }
            }
            "unknown" => {
                totals.unknown += 1;
                // The gateway always comes back with its whole history, and that proves something if it is not empty.
                if self.prelude {
                    self.complain("UNKNOWN, though it can be known", message, story, totals);
                }
            }
            "failed" if story.busy && runs == 0 => totals.busy += 1,
            state @ ("unreachable" | "never-begun") => {
                if state == "unreachable" {
                    totals.unreachable += 1;
                } else {
                    totals.never_begun += 1;
                }
                if runs > 0 {
                    totals.untrue += 1;
                    self.complain(&format!("UNTRUE: {state}, and it ran"), message, story, totals);
                }
            }
            state => {
                totals.lost += 1;
                self.complain(&format!("LOST: ended as {state}, ran {runs} times"), message, story, totals);
            }
        }
    }

    /// What is archived must be what was told.
    async fn compare_with_archive(&self, message: &Message, story: &Story, home: &Home, totals: &mut Totals) {
        let shown = home.run(&["log", "show", &message.id]).await;
        let row = &shown.document["messages"][0];
        let state = row["state"].as_str().unwrap_or("never-begun");
        let same = state == story.state && row["reply"]["text"].as_str() == story.reply.as_deref();
        if !same {
            totals.untrue += 1;
            self.complain(&format!("UNTRUE: the archive says {row}"), message, story, totals);
        }
    }

    fn complain(&self, what: &str, message: &Message, story: &Story, totals: &mut Totals) {
        totals.complaints.push(format!(
            "trial {} {:?}\n  {what}\n  {} {}\n  {}",
            self.number,
            self.strikes,
            message.id,
            message.marker,
            story.told.join("\n  ")
        ));
    }
}
