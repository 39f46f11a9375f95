//! The floor: the least a program can do to ask a gateway's agent something. One connect, signed by a device key, one
//! `agent` call, the reply on stdout. It sends the frames `agent-mesh send` sends and has nothing else: no registry, no
//! archive, no state, one file (the key). It shares no code with agent-mesh, so that a slow line there is not hidden by
//! being slow here, too.
//!
//! `bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE`
#![allow(clippy::print_stdout)]

use std::error::Error;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

type Failure = Box<dyn Error>;
type Socket = WebSocketStream<TcpStream>;

struct Args {
    url: String,
    key: SigningKey,
    by_device: bool,
    secret: String,
    name: String,
    session: String,
    message: String,
}

fn main() -> Result<(), Failure> {
    let args = args().ok_or("usage: bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(ask(&args))?);
    Ok(())
}

fn args() -> Option<Args> {
    let mut argv = std::env::args().skip(1);
    Some(Args {
        url: argv.next()?,
        key: SigningKey::from_pkcs8_pem(&std::fs::read_to_string(argv.next()?).ok()?).ok()?,
        by_device: argv.next()? == "device",
        secret: argv.next()?,
        name: argv.next()?,
        session: argv.next()?,
        message: argv.next()?,
    })
}

async fn ask(args: &Args) -> Result<String, Failure> {
    let address = args.url.strip_prefix("ws://").ok_or("only ws://")?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024);
    let (mut socket, _) = client_async_with_config(&args.url, tcp, Some(config)).await?;

    let challenge = until(&mut socket, |frame| frame["event"] == "connect.challenge").await?;
    call(&mut socket, "connect", "connect", connect(args, &challenge["payload"])).await?;
    until(&mut socket, |frame| frame["id"] == "connect").await?;

    call(&mut socket, "1", "agent", agent(args)).await?;
    // The first answer says `accepted`; the second one carries the reply.
    let done =
        until(&mut socket, |frame| frame["id"] == "1" && frame["payload"]["status"] != "accepted").await?;
    socket.send(Message::Close(None)).await?;
    Ok(done["payload"]["result"]["payloads"][0]["text"].as_str().unwrap_or_default().to_owned())
}

fn connect(args: &Args, challenge: &Value) -> Value {
    let public = args.key.verifying_key();
    let id: String = Sha256::digest(public.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let (nonce, at) =
        (challenge["nonce"].as_str().unwrap_or_default(), challenge["ts"].as_i64().unwrap_or_default());
    let signed = format!(
        "v3|{id}|gateway-client|backend|operator|operator.read,operator.write|{at}|{}|{nonce}|agent-mesh|",
        args.secret
    );
    let auth =
        if args.by_device { json!({ "deviceToken": args.secret }) } else { json!({ "token": args.secret }) };
    json!({
        "minProtocol": 3, "maxProtocol": 4,
        "client": {
            "id": "gateway-client", "mode": "backend", "version": "0.1.0", "platform": "agent-mesh",
            "displayName": format!("agent-mesh:{} ({})", args.name, &id[..8]),
        },
        "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": ["session-scoped-events"],
        "auth": auth, "userAgent": "agent-mesh/0.1.0",
        "device": {
            "id": id, "publicKey": URL_SAFE_NO_PAD.encode(public.as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(args.key.sign(signed.as_bytes()).to_bytes()),
            "signedAt": at, "nonce": nonce,
        },
    })
}

fn agent(args: &Args) -> Value {
    let id = Uuid::now_v7();
    let message = format!(
        "[agent-mesh/1 from={} id={id} hops=0 reply=this-turn]\n\
         (A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)\n\n{}",
        args.name, args.message
    );
    json!({
        "message": message, "idempotencyKey": id, "sessionKey": args.session,
        "inputProvenance": {
            "kind": "inter_session", "sourceSessionKey": format!("mesh:{}", args.name),
            "sourceChannel": "agent-mesh", "sourceTool": "agent_mesh",
        },
    })
}

async fn call(socket: &mut Socket, id: &str, method: &str, params: Value) -> Result<(), Failure> {
    let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
    Ok(socket.send(Message::text(frame.to_string())).await?)
}

/// The first frame that fits; a refusal ends everything.
async fn until(socket: &mut Socket, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
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
