//! A client that knows nothing but JSON.

use agent_mesh_testkit::FakeGateway;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

pub const TOKEN: &str = "token-of-alice";

/// A raw client over any stream.
pub struct Peer<S> {
    pub ws: WebSocketStream<S>,
    pub events: Vec<Value>,
}

pub type TestResult<T> = Result<T, Error>;

/// Upgrades over an in-memory pipe.
pub async fn pipe(gateway: &FakeGateway) -> TestResult<Peer<DuplexStream>> {
    upgrade(gateway.dial()).await
}

/// Upgrades over TCP.
pub async fn tcp(address: std::net::SocketAddr) -> TestResult<Peer<TcpStream>> {
    upgrade(TcpStream::connect(address).await?).await
}

pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> TestResult<Peer<S>> {
    let limits = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let (ws, _) =
        tokio_tungstenite::client_async_with_config("ws://testkit.invalid/", stream, Some(limits)).await?;
    Ok(Peer { ws, events: Vec::new() })
}

/// A connected peer over an in-memory pipe.
pub async fn connected(gateway: &FakeGateway) -> Peer<DuplexStream> {
    let mut peer = pipe(gateway).await.unwrap();
    let hello = peer.hello(|_| {}).await.unwrap();
    assert_eq!(hello["ok"], true, "{hello}");
    peer
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub async fn send(&mut self, frame: &Value) -> TestResult<()> {
        self.ws.send(Message::text(frame.to_string())).await
    }

    /// The next JSON frame; the stream's end and a close frame are errors.
    pub async fn next(&mut self) -> TestResult<Value> {
        loop {
            match self.ws.next().await.ok_or(Error::ConnectionClosed)?? {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
                Message::Close(_) => return Err(Error::ConnectionClosed),
                _ => {}
            }
        }
    }

    /// The next response; events on the way are kept.
    pub async fn response(&mut self) -> TestResult<Value> {
        loop {
            let frame = self.next().await?;
            if frame["type"] == "res" {
                return Ok(frame);
            }
            self.events.push(frame);
        }
    }

    /// Challenge, connect (with a device and a device token), and the answer.
    pub async fn hello(&mut self, change: impl FnOnce(&mut Value)) -> TestResult<Value> {
        let challenge = self.next().await?;
        let mut params = json!({
            "minProtocol": 3, "maxProtocol": 4,
            "client": {"id": "gateway-client", "mode": "backend", "version": "0.1.0", "platform": "agent-mesh"},
            "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": ["session-scoped-events"],
            "auth": {"deviceToken": TOKEN},
            "device": {"id": "d".repeat(64), "publicKey": "k".repeat(43), "signature": "s".repeat(86),
                       "signedAt": challenge["payload"]["ts"], "nonce": challenge["payload"]["nonce"]},
        });
        change(&mut params);
        self.send(&json!({"type": "req", "id": "1", "method": "connect", "params": params})).await?;
        self.response().await
    }

    pub async fn request(&mut self, id: &str, method: &str, params: Value) -> TestResult<()> {
        self.send(&json!({"type": "req", "id": id, "method": method, "params": params})).await
    }

    /// A request with one answer: its payload, or its error.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.request("call", method, params).await.unwrap();
        loop {
            let mut response = self.response().await.unwrap();
            if response["id"] == "call" {
                let part = if response["ok"] == true { "payload" } else { "error" };
                return response[part].take();
            }
        }
    }

    /// `agent` up to the end of its run: the first and the second response.
    pub async fn agent(&mut self, key: &str, message: &str) -> TestResult<(Value, Value)> {
        self.request(key, "agent", send_params("agent:main:mesh:alice", key, message)).await?;
        Ok((self.response().await?, self.response().await?))
    }

    /// The close code, once it arrives.
    pub async fn close_code(&mut self) -> Option<u16> {
        while let Some(Ok(message)) = self.ws.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code.into());
            }
        }
        None
    }
}

pub fn send_params(session: &str, key: &str, message: &str) -> Value {
    json!({"sessionKey": session, "idempotencyKey": key, "message": message})
}

pub fn reply_text(response: &Value) -> &str {
    response["payload"]["result"]["payloads"][0]["text"].as_str().unwrap_or("<no text>")
}
