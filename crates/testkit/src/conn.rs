//! One connection: from the first byte to the last.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, Interval, interval_at};
use tokio_tungstenite::tungstenite::Message;

use crate::fault::{Cut, How, Noise};
use crate::handshake::{self, Admission};
use crate::methods::Client;
use crate::refusal::Refusal;
use crate::script::{Challenge, Opening};
use crate::wire::{Ended, Line, Wire};
use crate::world::{Out, Received, World};

/// The largest frame that is read before hello.
const PRE_AUTH_LIMIT: usize = 64 * 1024;

/// Plays the script on one stream, to its end.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(world: Arc<World>, line: Line<S>) {
    let number = world.change(|state| {
        state.connections += 1;
        state.open += 1;
        state.connections
    });
    let _open = OpenMark { world: Arc::clone(&world), number };
    if let Some(how) = world.fault_at(Cut::AfterTcp, "", number) {
        return line.stop(how).await;
    }
    if !matches!(world.script.opening, Opening::Gateway) {
        return line.misbehave(&world.script.opening).await;
    }
    let Ok(wire) = line.upgrade(world.script.max_payload, world.script.fragment).await else { return };
    let mut talk = Talk { wire, world, number, seq: 0 };
    if let Err(Stop(how)) = talk.run().await
        && let Some(how) = how
    {
        talk.wire.stop(how).await;
    }
}

/// Counts the connection as open until it is dropped, also when its task is killed.
struct OpenMark {
    world: Arc<World>,
    number: u32,
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        self.world.change(|state| {
            state.open -= 1;
            state.peers.remove(&self.number);
        });
    }
}

/// Why the conversation stops: by itself, or by a fault.
struct Stop(Option<How>);

impl From<Ended> for Stop {
    fn from(_: Ended) -> Self {
        Self(None)
    }
}

struct Talk<S> {
    wire: Wire<S>,
    world: Arc<World>,
    number: u32,
    seq: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Talk<S> {
    async fn run(&mut self) -> Result<(), Stop> {
        let (client, out) = self.admit().await?;
        self.converse(client, out).await
    }

    fn point(&self, cut: Cut, method: &str) -> Result<(), Stop> {
        match self.world.fault_at(cut, method, self.number) {
            Some(how) => Err(Stop(Some(how))),
            None => Ok(()),
        }
    }

    /// Challenge, connect, hello.
    async fn admit(&mut self) -> Result<(Client, UnboundedReceiver<Out>), Stop> {
        self.point(Cut::AfterUpgrade, "")?;
        let nonce = self.challenge().await?;
        self.point(Cut::AfterChallenge, "")?;
        let frame = self.first_frame().await?;
        self.point(Cut::AfterConnectReceived, "connect")?;
        let id = frame["id"].as_str().unwrap_or("invalid").to_owned();
        let admission = match handshake::judge(&self.world, &frame, nonce.as_deref(), self.number) {
            Ok(admission) => admission,
            Err(refusal) => return self.refuse(&id, &refusal).await,
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let Admission { hello, scopes, session_scoped } = admission;
        self.world.change(|state| state.peers.insert(self.number, sender.clone()));
        self.wire.send_json(&json!({"type": "res", "id": id, "ok": true, "payload": hello})).await?;
        self.point(Cut::AfterHello, "connect")?;
        Ok((Client::new(Arc::clone(&self.world), sender, scopes, session_scoped), receiver))
    }

    async fn challenge(&mut self) -> Result<Option<String>, Stop> {
        match self.world.script.challenge.clone() {
            Challenge::Proper => {
                let nonce = self.world.change(|state| state.new_id());
                let mut payload = json!({"nonce": nonce, "ts": self.world.now_ms()});
                if self.world.script.protocol > 3 {
                    payload["capabilities"] = json!(["model-catalog-snapshot"]);
                }
                let frame = json!({"type": "event", "event": "connect.challenge", "payload": payload});
                self.wire.send_json(&frame).await?;
                return Ok(Some(nonce));
            }
            Challenge::Text(text) => self.wire.send_text(text).await?,
            Challenge::Binary(bytes) => self.wire.send(Message::binary(bytes)).await?,
            Challenge::Absent => {}
        }
        Ok(None)
    }

    async fn first_frame(&mut self) -> Result<Value, Stop> {
        loop {
            let text = match self.wire.next().await? {
                Message::Text(text) => text,
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Binary(_) | Message::Frame(_) => return Err(Stop(Some(How::Close(1000)))),
                Message::Close(_) => return Err(Stop(None)),
            };
            if text.len() > PRE_AUTH_LIMIT {
                return Err(Stop(Some(How::Close(1009))));
            }
            let Ok(frame) = serde_json::from_str::<Value>(&text) else {
                return Err(Stop(Some(How::Close(1000))));
            };
            self.record(&frame);
            return Ok(frame);
        }
    }

    async fn refuse<T>(&mut self, id: &str, refusal: &Refusal) -> Result<T, Stop> {
        self.wire.send_json(&json!({"type": "res", "id": id, "ok": false, "error": refusal.error})).await?;
        self.wire.close(refusal.close, &refusal.reason).await;
        Err(Stop(None))
    }

    fn record(&self, frame: &Value) {
        let received = Received { connection: self.number, frame: frame.clone() };
        self.world.change(|state| state.frames.push(received));
    }

    async fn converse(&mut self, mut client: Client, mut out: UnboundedReceiver<Out>) -> Result<(), Stop> {
        let mut beats = Beats::new(&self.world);
        loop {
            tokio::select! {
                // Written first, so that what one request caused is out before the next is read.
                biased;
                Some(item) = out.recv() => self.write(&client, item).await?,
                message = self.wire.next() => self.hear(&mut client, &message?)?,
                _ = beats.tick.tick(), if !beats.over() => {
                    beats.ticks += 1;
                    self.event("tick", json!({"ts": self.world.now_ms()})).await?;
                }
                _ = beats.ping.tick(), if !beats.over() => self.wire.send(Message::Ping(Vec::new().into())).await?,
            }
        }
    }

    fn hear(&mut self, client: &mut Client, message: &Message) -> Result<(), Stop> {
        let bytes = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes.as_ref(),
            Message::Pong(_) => {
                self.world.change(|state| state.pongs += 1);
                return Ok(());
            }
            Message::Ping(_) | Message::Frame(_) => return Ok(()),
            Message::Close(_) => return Err(Stop(None)),
        };
        // Malformed JSON is silently ignored, as by the real gateway.
        let Ok(frame) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
        self.record(&frame);
        self.point(Cut::AfterRequestReceived, frame["method"].as_str().unwrap_or_default())?;
        client.request(&frame);
        Ok(())
    }

    async fn write(&mut self, client: &Client, item: Out) -> Result<(), Stop> {
        match item {
            Out::Res(frame) => self.respond(&frame).await?,
            Out::Event { name, payload, session } => {
                if session.is_none_or(|key| client.follows(&key)) {
                    self.event(name, payload).await?;
                }
            }
            Out::Point(cut, method) => self.point(cut, method)?,
            Out::Stop(how) => return Err(Stop(Some(how))),
        }
        Ok(())
    }

    async fn event(&mut self, name: &str, payload: Value) -> Result<(), Ended> {
        self.seq += 1;
        let frame = json!({"type": "event", "event": name, "payload": payload, "seq": self.seq});
        self.wire.send_json(&frame).await
    }

    async fn respond(&mut self, frame: &Value) -> Result<(), Ended> {
        let world = Arc::clone(&self.world);
        let mut copies = 1;
        for noise in &world.script.noise {
            match noise {
                Noise::UnknownId => {
                    let stray =
                        json!({"type": "res", "id": "nobody-asked", "ok": true, "payload": {"status": "ok"}});
                    self.wire.send_json(&stray).await?;
                }
                Noise::Duplicate => copies += 1,
                Noise::Events(count) => {
                    for n in 0..*count {
                        let payload =
                            [json!(null), json!([n]), json!({"runId": n}), json!("odd")][n % 4].clone();
                        self.event(&format!("testkit.noise.{n}"), payload).await?;
                    }
                }
                Noise::Text(text) => self.wire.send_text(text.clone()).await?,
                Noise::Binary(bytes) => self.wire.send(Message::binary(bytes.clone())).await?,
                Noise::BigEvent(mib) => self.event("testkit.big", json!("x".repeat(mib << 20))).await?,
                Noise::Ping => self.wire.send(Message::Ping(b"testkit".to_vec().into())).await?,
            }
        }
        for _ in 0..copies {
            self.wire.send_json(frame).await?;
        }
        Ok(())
    }
}

/// The signs of life of one connection.
struct Beats {
    tick: Interval,
    ping: Interval,
    ticks: u32,
    limit: Option<u32>,
}

impl Beats {
    fn new(world: &World) -> Self {
        let beat = |every| interval_at(Instant::now() + every, every);
        let script = &world.script;
        Self { tick: beat(script.tick), ping: beat(script.ping), ticks: 0, limit: script.ticks }
    }

    fn over(&self) -> bool {
        self.limit.is_some_and(|limit| self.ticks >= limit)
    }
}
