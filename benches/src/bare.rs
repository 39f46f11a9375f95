//! The least a program can do to ask a gateway's agent something, over plain `ws://`. It shares no code with agent-mesh, so
//! that a slow line there is not hidden by being slow here, too.

use std::error::Error;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

use crate::journal::{Entry, Journal};

/// Whatever went wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Who asks, and by what right.
#[derive(Debug)]
pub struct Caller {
    /// The device's key.
    pub key: SigningKey,
    /// Whether `secret` is the device's own token, and not the shared one.
    pub by_device: bool,
    /// The token.
    pub secret: String,
    /// What the caller calls himself.
    pub name: String,
}

/// A connection; its challenge was read.
#[derive(Debug)]
pub struct Line {
    socket: WebSocketStream<TcpStream>,
    challenge: Value,
    calls: u64,
}

impl Line {
    /// Connects, and reads the challenge.
    ///
    /// # Errors
    /// When there is no gateway.
    pub async fn open(address: &str) -> Result<Self, Failure> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(8 * 1024);
        let (mut socket, _) = client_async_with_config(format!("ws://{address}"), tcp, Some(config)).await?;
        let challenge = until(&mut socket, |frame| frame["event"] == "connect.challenge").await?;
        Ok(Self { socket, challenge: challenge["payload"].clone(), calls: 0 })
    }

    /// Comes in.
    ///
    /// # Errors
    /// When the gateway says no.
    pub async fn enter(&mut self, caller: &Caller) -> Result<(), Failure> {
        self.call("connect", "connect", &connect_params(caller, &self.challenge)).await?;
        until(&mut self.socket, |frame| frame["id"] == "connect").await.map(drop)
    }

    /// Asks the agent, and waits for its reply.
    ///
    /// # Errors
    /// When the run fails.
    pub async fn ask(
        &mut self,
        from: &str,
        id: Uuid,
        session: &str,
        message: &str,
    ) -> Result<String, Failure> {
        self.calls += 1;
        let call = self.calls.to_string();
        self.call(&call, "agent", &agent(from, id, session, message)).await?;
        // The first answer says `accepted`; the second one carries the reply.
        let is_done = |frame: &Value| frame["id"] == *call && frame["payload"]["status"] != "accepted";
        let done = until(&mut self.socket, is_done).await?;
        Ok(done["payload"]["result"]["payloads"][0]["text"].as_str().unwrap_or_default().to_owned())
    }

    /// The same, keeping the message before it leaves, and the reply before anybody is told.
    ///
    /// # Errors
    /// When the run fails, or either is not kept.
    pub async fn ask_on_record(
        &mut self,
        journal: &Journal,
        from: &str,
        session: &str,
        message: &str,
    ) -> Result<String, Failure> {
        let id = Uuid::now_v7();
        let (name, header) = (id.to_string(), header(from, id));
        let seq = journal.begin(Entry { id: &name, peer: "bob", session, text: message, header: &header })?;
        let reply = self.ask(from, id, session, message).await?;
        journal.finish(seq, message, &reply)?;
        Ok(reply)
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub async fn close(mut self) -> Result<(), Failure> {
        Ok(self.socket.send(Message::Close(None)).await?)
    }

    async fn call(&mut self, id: &str, method: &str, params: &Value) -> Result<(), Failure> {
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }
}

/// What a `connect` says, signed.
#[must_use]
pub fn connect_params(caller: &Caller, challenge: &Value) -> Value {
    let public = caller.key.verifying_key();
    let id: String = Sha256::digest(public.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let (nonce, at) =
        (challenge["nonce"].as_str().unwrap_or_default(), challenge["ts"].as_i64().unwrap_or_default());
    let signed = format!(
        "v3|{id}|gateway-client|backend|operator|operator.read,operator.write|{at}|{}|{nonce}|agent-mesh|",
        caller.secret
    );
    let auth = if caller.by_device {
        json!({ "deviceToken": caller.secret })
    } else {
        json!({ "token": caller.secret })
    };
    json!({
        "minProtocol": 3, "maxProtocol": 4,
        "client": {
            "id": "gateway-client", "mode": "backend", "version": "0.1.0", "platform": "agent-mesh",
            "displayName": format!("agent-mesh:{} ({})", caller.name, &id[..8]),
        },
        "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": ["session-scoped-events"],
        "auth": auth, "userAgent": "agent-mesh/0.1.0",
        "device": {
            "id": id, "publicKey": URL_SAFE_NO_PAD.encode(public.as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(caller.key.sign(signed.as_bytes()).to_bytes()),
            "signedAt": at, "nonce": nonce,
        },
    })
}

/// What stands before the message.
#[must_use]
pub fn header(from: &str, id: Uuid) -> String {
    format!(
        "[agent-mesh/1 from={from} id={id} hops=0 reply=this-turn]\n\
         (A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)\n\n"
    )
}

fn agent(from: &str, id: Uuid, session: &str, message: &str) -> Value {
    json!({
        "message": header(from, id) + message, "idempotencyKey": id, "sessionKey": session,
        "inputProvenance": {
            "kind": "inter_session", "sourceSessionKey": format!("mesh:{from}"),
            "sourceChannel": "agent-mesh", "sourceTool": "agent_mesh",
        },
    })
}

/// The first frame that fits; a refusal ends everything.
async fn until(
    socket: &mut WebSocketStream<TcpStream>,
    fits: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let frame: Value = serde_json::from_str(&text)?;
        if frame["ok"] == false {
            return Err(frame["error"].to_string().into());
        }
        if fits(&frame) {
            return Ok(frame);
        }
    }
    Err("the gateway hung up".into())
}
