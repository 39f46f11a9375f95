//! A gateway under test, a raw client, a device key, and an agent that obeys the test.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_mesh_gateway::{
    Agent, AgentFailure, Config, Deltas, EchoAgent, End, Gateway, Memory, Origin, Past, Recollection,
    ReplyFuture, Room, Seam, SharedToken, Turn,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

pub const TOKEN: &str = "the-owner-token-0123456789";
pub const LOCAL: &str = "127.0.0.1:50000";
pub const BOB: &str = "10.0.0.2:50000";
pub const CAROL: &str = "10.0.0.3:50000";
pub const RW: [&str; 2] = ["operator.read", "operator.write"];
pub const OWNER: [&str; 3] = ["operator.read", "operator.write", "operator.pairing"];

/// A running gateway.
pub struct Fixture {
    pub address: SocketAddr,
    pub seam: Seam,
    pub stop: Option<oneshot::Sender<()>>,
    pub running: JoinHandle<()>,
}

impl Fixture {
    pub async fn echo() -> Self {
        Self::start(Arc::new(EchoAgent::new()), |_| {}).await
    }

    pub async fn start(agent: Arc<dyn Agent>, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(agent, change, |_| {}).await
    }

    /// The same, with a look at the gateway before it runs.
    pub async fn start_with(
        agent: Arc<dyn Agent>,
        change: impl FnOnce(&mut Config),
        look: impl FnOnce(&Gateway),
    ) -> Self {
        let identity =
            serde_json::from_value(json!({ "deviceId": "d".repeat(64), "publicKey": "k" })).unwrap();
        let token = SharedToken::new(TOKEN).unwrap();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), token, identity, agent);
        change(&mut config);
        let gateway = Gateway::bind(config).await.unwrap();
        look(&gateway);
        let (stop, stopped) = oneshot::channel();
        let (address, seam) = (gateway.local_addr(), gateway.seam());
        let running = tokio::spawn(gateway.run(async { drop(stopped.await) }));
        Self { address, seam, stop: Some(stop), running }
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// A stream that claims to come from an address.
    pub fn stream(&self, from: &str) -> DuplexStream {
        self.stream_of(from, 1 << 20)
    }

    pub fn stream_of(&self, from: &str, buffer: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(buffer);
        let (seam, from) = (self.seam.clone(), from.parse().unwrap());
        tokio::spawn(async move { seam.serve_stream(theirs, from).await });
        ours
    }

    /// A WebSocket that has its challenge.
    pub async fn dial(&self, from: &str) -> Client {
        Client::upgrade(self.stream(from)).await.unwrap()
    }

    /// A connection with the owner's token from loopback.
    pub async fn owner(&self) -> Client {
        self.client(&Hello::token(TOKEN).scopes(&OWNER), LOCAL).await
    }

    pub async fn client(&self, hello: &Hello, from: &str) -> Client {
        let mut client = self.dial(from).await;
        let answer = client.connect(hello).await;
        assert_eq!(answer["ok"], true, "{answer}");
        client
    }

    /// Pairs a device from remote; gives its token.
    pub async fn pair(&self, seed: u8, scopes: &[&str]) -> String {
        let hello = Hello::token(TOKEN).device(seed).scopes(scopes);
        let asked = self.try_connect(&hello, BOB).await;
        let request = asked["error"]["details"]["requestId"].clone();
        self.owner().await.ok("device.pair.approve", json!({ "requestId": request })).await;
        let hello = self.try_connect(&hello, BOB).await;
        hello["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned()
    }

    /// What a connect is answered; a refusal is followed by its close.
    pub async fn try_connect(&self, hello: &Hello, from: &str) -> Value {
        self.dial(from).await.connect(hello).await
    }
}

/// What a connect asks for.
#[derive(Clone)]
pub struct Hello {
    pub auth: Value,
    pub client: (&'static str, &'static str),
    pub scopes: Vec<String>,
    pub caps: Vec<&'static str>,
    pub device: Option<u8>,
    pub platform: &'static str,
    pub spoil: fn(&mut Value),
}

impl Hello {
    pub fn auth(auth: Value) -> Self {
        Self {
            auth,
            client: ("gateway-client", "backend"),
            scopes: RW.map(str::to_owned).to_vec(),
            caps: vec![],
            device: None,
            platform: "agent-mesh",
            spoil: |_| {},
        }
    }

    pub fn token(token: &str) -> Self {
        Self::auth(json!({ "token": token }))
    }

    pub fn device_token(token: &str) -> Self {
        Self::auth(json!({ "deviceToken": token }))
    }

    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.scopes = scopes.iter().map(ToString::to_string).collect();
        self
    }

    pub fn device(mut self, seed: u8) -> Self {
        self.device = Some(seed);
        self
    }

    pub fn client(mut self, id: &'static str, mode: &'static str) -> Self {
        self.client = (id, mode);
        self
    }

    pub fn platform(mut self, platform: &'static str) -> Self {
        self.platform = platform;
        self
    }

    pub fn scoped(mut self) -> Self {
        self.caps = vec!["session-scoped-events"];
        self
    }

    /// Changes the frame's parameters after signing.
    pub fn spoil(mut self, spoil: fn(&mut Value)) -> Self {
        self.spoil = spoil;
        self
    }

    pub fn params(&self, challenge: &Value) -> Value {
        let (id, mode) = self.client;
        let mut params = json!({
            "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": self.scopes, "caps": self.caps,
            "auth": self.auth, "userAgent": "test/1",
            "client": {
                "id": id, "mode": mode, "version": "1", "platform": self.platform,
                "displayName": format!("test {:?}", self.device),
            },
        });
        if let Some(seed) = self.device {
            let (nonce, at) = (challenge["nonce"].as_str().unwrap(), &challenge["ts"]);
            let fields = ["token", "deviceToken", "bootstrapToken"];
            let token = fields.iter().find_map(|field| self.auth[field].as_str()).unwrap_or_default();
            let scopes = self.scopes.join(",");
            let (device, key) = (device_id(seed), signing_key(seed));
            let payload = format!(
                "v3|{device}|{id}|{mode}|operator|{scopes}|{at}|{token}|{nonce}|{}|",
                self.platform.to_lowercase()
            );
            params["device"] = json!({
                "id": device, "publicKey": URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes()),
                "signature": URL_SAFE_NO_PAD.encode(key.sign(payload.as_bytes()).to_bytes()),
                "signedAt": at, "nonce": nonce,
            });
        }
        (self.spoil)(&mut params);
        params
    }
}

pub fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn device_id(seed: u8) -> String {
    let hash = Sha256::digest(signing_key(seed).verifying_key().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A raw WebSocket client, over memory or a real socket.
pub struct Client<S = DuplexStream> {
    socket: WebSocketStream<S>,
    pub challenge: Value,
    next: u32,
    /// Events that came while an answer was waited for.
    pub events: Vec<Value>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn upgrade(stream: S) -> Result<Self, Error> {
        let (socket, _) = tokio_tungstenite::client_async("ws://gateway.test/any/path", stream).await?;
        Ok(Self::over(socket).await)
    }

    pub async fn over(socket: WebSocketStream<S>) -> Self {
        let mut client = Self { socket, challenge: Value::Null, next: 0, events: vec![] };
        let challenge = client.frame().await.unwrap();
        assert_eq!(challenge["event"], "connect.challenge");
        client.challenge = challenge["payload"].clone();
        client
    }

    pub async fn connect(&mut self, hello: &Hello) -> Value {
        let params = hello.params(&self.challenge);
        self.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
        self.frame().await.unwrap()
    }

    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next JSON frame; none at the end.
    pub async fn frame(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                _ => return None,
            }
        }
    }

    /// Reads to the end; gives the close code and reason.
    pub async fn close(&mut self) -> (u16, String) {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return (0, String::new()),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Calls a method; gives the request's id.
    pub async fn request(&mut self, method: &str, params: Value) -> String {
        self.next += 1;
        let id = format!("r{}", self.next);
        self.send(&json!({ "type": "req", "id": id, "method": method, "params": params })).await;
        id
    }

    /// The next answer to a request; events are put aside.
    pub async fn answer(&mut self, id: &str) -> Value {
        loop {
            let frame = self.frame().await.expect("the connection ended");
            match frame["type"].as_str() {
                Some("event") => self.events.push(frame),
                _ if frame["id"] == id => return frame,
                _ => panic!("an answer to something else: {frame}"),
            }
        }
    }

    /// Calls a method and waits for its (first) answer.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        self.answer(&id).await
    }

    /// Calls a method that has to work; gives the payload.
    pub async fn ok(&mut self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params).await;
        assert_eq!(answer["ok"], true, "{answer}");
        answer["payload"].clone()
    }

    /// Calls a method that has to fail; gives the error.
    pub async fn error(&mut self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params).await;
        assert_eq!(answer["ok"], false, "{answer}");
        answer["error"].clone()
    }

    /// The next event of a name.
    pub async fn event(&mut self, name: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(at);
        }
        loop {
            let frame = self.frame().await.expect("the connection ended");
            if frame["event"] == name {
                return frame;
            }
        }
    }

    /// Runs a turn of the agent to its end; gives both answers.
    pub async fn turn(&mut self, session: &str, message: &str, key: &str) -> (Value, Value) {
        let params = json!({ "sessionKey": session, "message": message, "idempotencyKey": key });
        let id = self.request("agent", params).await;
        (self.answer(&id).await, self.answer(&id).await)
    }
}

/// A turn that waits for the test.
pub struct Held {
    pub turn: Turn,
    pub deltas: Deltas,
    pub finish: oneshot::Sender<Result<String, AgentFailure>>,
}

/// An agent whose every turn is answered by the test.
pub struct Puppet(mpsc::UnboundedSender<Held>);

impl Puppet {
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Held>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self(sender)), receiver)
    }
}

impl Agent for Puppet {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let (finish, finished) = oneshot::channel();
            self.0.send(Held { turn, deltas, finish }).unwrap();
            finished.await.unwrap_or(Err(AgentFailure::Cancelled))
        })
    }
}

/// Remembers one run of Alice's.
pub struct Remembered {
    pub run: &'static str,
    pub session: &'static str,
    pub reply: String,
}

impl Memory for Remembered {
    fn recent(&self, _: Room) -> Recollection<'_, Vec<Past>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn session<'a>(&'a self, _: &'a str, _: Room) -> Recollection<'a, Vec<Past>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn run<'a>(&'a self, run_id: &'a str) -> Recollection<'a, Option<Past>> {
        let past = Past {
            run_id: run_id.to_owned(),
            origin: Origin::Agent,
            session_key: self.session.to_owned(),
            from: "alice".to_owned(),
            message: "hi".to_owned(),
            end: End::Replied(self.reply.clone()),
            began_at: 1,
            ended_at: Some(2),
        };
        Box::pin(async move { Ok((run_id == self.run).then_some(past)) })
    }
}
