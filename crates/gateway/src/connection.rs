//! One client, from the challenge to the close.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use openclaw_protocol::connect::{ConnectParams, Features, Granted, HelloOk, Policy, ServerInfo};
use openclaw_protocol::event::Tick;
use openclaw_protocol::handshake::{CLOSE_POLICY, Connect, Rejection, ServerHandshake, close_reason};
use openclaw_protocol::methods::SCOPE_WRITE;
use openclaw_protocol::{ErrorShape, MAX_PREAUTH_PAYLOAD, MAX_PROTOCOL};
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use crate::auth::{Caller, Door, Entry, Refusal, Way};
use crate::conn::Conn;
use crate::intake::{Intake, TooMuch};
use crate::methods::{self, info};
use crate::outbox::{self, Event, Outbox};
use crate::params;
use crate::reload::look_again;
use crate::seats::{Seat, network};
use crate::shared::{Shared, lock, now, now_ms};
use crate::verify::Ed25519;

/// Close code: all is said.
const CLOSE_NORMAL: u16 = 1000;
/// Close code: the bytes are no WebSocket.
const CLOSE_PROTOCOL: u16 = 1002;
/// Close code: a text is no UTF-8.
const CLOSE_NO_TEXT: u16 = 1007;
/// Close code: a message is too big.
const CLOSE_TOO_BIG: u16 = 1009;
/// Close code: too much to do just now.
const CLOSE_TRY_LATER: u16 = 1013;
/// The cap of a client that hears only the sessions that it subscribed to.
const CAP_SESSION_SCOPED: &str = "session-scoped-events";
/// The first tick comes soon, so that a client sees early that ticks come.
const FIRST_TICK: std::time::Duration = std::time::Duration::from_secs(2);
/// tungstenite's default zero-fills 128 KiB on every read and keeps them for every connection; half of the ten thousand
/// idle ones' memory would be 8 KiB of this.
const READ_BUFFER: usize = 4 * 1024;

type Socket<S> = WebSocketStream<Intake<S>>;

/// What the upgrade request told.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) ip: IpAddr,
    /// Only browsers send an `Origin`, and no page of ours exists: every origin is foreign.
    pub(crate) has_origin: bool,
    pub(crate) stranger: Seat<IpAddr>,
}

/// Serves one upgraded stream until it closes.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: S, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.config.limits;
    // No bound on writing: the outbox has one, and it lets a single answer of any size through.
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(READ_BUFFER)
        .max_message_size(Some(limits.payload))
        .max_frame_size(Some(limits.payload));
    let stream = Intake::new(stream, limits.small_payload, Arc::clone(&shared.budget));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let greeted = tokio::select! {
        greeted = greet(&shared, &mut socket, &arrival) => greeted,
        () = shared.stop.cancelled() => Err(Goodbye::Gone),
    };
    match greeted {
        Ok(welcome) => {
            drop(arrival.stranger);
            socket.get_mut().allow(max_payload(&shared, &welcome.entry.granted));
            talk(&shared, socket, arrival.ip, welcome).await;
        }
        Err(goodbye) => part(&shared, socket, goodbye).await,
    }
}

/// How a connection ends before it began.
#[derive(Debug)]
enum Goodbye {
    /// The peer is gone: nothing to say.
    Gone,
    /// A last frame and a close.
    Close(Rejection),
}

impl Goodbye {
    fn close(close_code: u16, reason: &str) -> Self {
        Self::Close(Rejection { frame: None, close_code, reason: reason.to_owned() })
    }
}

impl From<Error> for Goodbye {
    fn from(error: Error) -> Self {
        fault(&error).map_or(Self::Gone, |code| Self::close(code, ""))
    }
}

/// A client that came in.
struct Welcome {
    params: ConnectParams,
    entry: Entry,
    device: Option<String>,
    hello: String,
    seats: Seats,
}

/// What an authenticated connection counts as: one of its address and one of its device.
struct Seats {
    _guest: Option<Seat<IpAddr>>,
    _device: Option<Seat<String>>,
}

impl Seats {
    /// A peer that came with a token alone has the seats of a device all the same.
    fn take(shared: &Shared, ip: IpAddr, device: Option<&str>, entry: &Entry) -> Option<Self> {
        let has_token = matches!(entry.way, Way::Token(_));
        let device = device.or_else(|| has_token.then(|| entry.principal.key()));
        let guest = |ip| Seat::take(&shared.guests, network(ip));
        let device_seat = |id: &str| Seat::take(&shared.devices, id.to_owned());
        Some(Self {
            // Everybody on this host comes from loopback.
            _guest: if ip.is_loopback() { None } else { Some(guest(ip)?) },
            _device: device.map(|id| device_seat(id).ok_or(())).transpose().ok()?,
        })
    }
}

/// Only who may start runs has anything large to say.
fn max_payload(shared: &Shared, granted: &Granted) -> usize {
    let limits = &shared.config.limits;
    if granted.allows(SCOPE_WRITE) { limits.payload } else { limits.payload.min(limits.small_payload) }
}

/// The handshake.
async fn greet<S>(shared: &Shared, socket: &mut Socket<S>, arrival: &Arrival) -> Result<Welcome, Goodbye>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = ServerHandshake::new(Uuid::new_v4().to_string(), now_ms());
    let challenge = handshake.challenge().map_err(|_| Goodbye::Gone)?;
    let first = async {
        socket.send(Message::text(challenge)).await?;
        first_text(socket).await
    };
    let text = timeout(shared.config.timing.connect, first)
        .await
        .map_err(|_| Goodbye::close(CLOSE_NORMAL, ""))??;
    let connect =
        handshake.read_connect(&text).map_err(|rejection| Goodbye::Close(precise(rejection, &text)))?;
    let reject = |error: &ErrorShape| Goodbye::Close(Rejection::new(&connect.id, error));
    params::check(&connect.params).map_err(|error| reject(&error))?;
    if arrival.has_origin {
        return Err(reject(&ErrorShape::refused("origin not allowed", "CONTROL_UI_ORIGIN_NOT_ALLOWED")));
    }
    let checked = handshake.check_device(&connect.params, now_ms(), &Ed25519);
    let device = checked.map_err(|error| reject(&error))?;
    let entry = admit(shared, &connect, device.as_deref(), arrival.ip).await?;
    let seats = Seats::take(shared, arrival.ip, device.as_deref(), &entry).ok_or_else(|| {
        reject(&ErrorShape::unavailable("too many connections", "too-many-connections", 1000))
    })?;
    let hello = hello(shared, &entry);
    let hello = handshake.hello(&connect, &hello).map_err(|_| Goodbye::Gone)?;
    Ok(Welcome { params: connect.params, entry, device, hello, seats })
}

/// The first text message, without what WebSocket itself needs.
async fn first_text<S>(socket: &mut Socket<S>) -> Result<String, Goodbye>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) if text.len() > MAX_PREAUTH_PAYLOAD => {
                return Err(Goodbye::close(CLOSE_TOO_BIG, ""));
            }
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Binary(_))) => return Err(Goodbye::close(CLOSE_NORMAL, "")),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Message::Close(_))) | None => return Err(Goodbye::Gone),
        }
    }
}

/// The close code for what the other side did wrong; none where it is gone.
fn fault(error: &Error) -> Option<u16> {
    match error {
        Error::Capacity(_) => Some(CLOSE_TOO_BIG),
        Error::Utf8(_) => Some(CLOSE_NO_TEXT),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CLOSE_PROTOCOL),
        Error::Io(error) => match error.get_ref()?.downcast_ref()? {
            TooMuch::Message => Some(CLOSE_TOO_BIG),
            TooMuch::Budget => Some(CLOSE_TRY_LATER),
        },
        _ => None,
    }
}

/// JSON that is no frame is answered otherwise than what is not even JSON.
fn precise(rejection: Rejection, text: &str) -> Rejection {
    if rejection.close_code == CLOSE_NORMAL && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        let reason = "invalid request frame".to_owned();
        return Rejection { close_code: CLOSE_POLICY, reason, ..rejection };
    }
    rejection
}

async fn admit(
    shared: &Shared,
    connect: &Connect,
    device: Option<&str>,
    ip: IpAddr,
) -> Result<Entry, Goodbye> {
    let caller = Caller { params: &connect.params, device, ip };
    let decision = decide(shared, &caller);
    shared.metrics.connect(decision.is_ok());
    let entry = match decision {
        Ok(entry) => entry,
        Err(refusal) => {
            shared.metrics.refused(&refusal.error);
            let code = refusal.error.detail("code").unwrap_or(&refusal.error.code);
            tracing::info!(%ip, device, code, "a client was turned away");
            // No lock is held: whoever has the right credential is not kept waiting by others' guesses.
            if !refusal.delay.is_zero() {
                sleep(refusal.delay).await;
            }
            return Err(refuse(shared, connect, &refusal));
        }
    };
    // A token that the client keeps and we forget would lock it out: save before telling.
    if entry.changed
        && let Err(error) = shared.save().await
    {
        tracing::error!(%error, "cannot save the device list");
        let error = ErrorShape::new("UNAVAILABLE", "the device list could not be saved");
        return Err(Goodbye::Close(Rejection::new(&connect.id, &error)));
    }
    Ok(entry)
}

fn refuse(shared: &Shared, connect: &Connect, refusal: &Refusal) -> Goodbye {
    if let Some(row) = &refusal.requested {
        shared.tell_approvers("device.pair.requested", row);
    }
    let mut rejection = Rejection::new(&connect.id, &refusal.error);
    if let Some(reason) = &refusal.reason {
        rejection.reason = close_reason(reason);
    }
    Goodbye::Close(rejection)
}

fn decide(shared: &Shared, caller: &Caller<'_>) -> Result<Entry, Box<Refusal>> {
    let access = shared.access();
    let mut pairing = lock(&shared.pairing);
    let mut lockout = lock(&shared.lockout);
    let token = &shared.config.token;
    let mut door = Door { token, access: &access, pairing: &mut pairing, lockout: &mut lockout, now: now() };
    let decision = door.admit(caller);
    if !pairing.redeemed.is_empty() {
        shared.approvals.notify_one();
    }
    decision
}

fn hello(shared: &Shared, entry: &Entry) -> HelloOk {
    let Entry { principal, granted, .. } = entry;
    HelloOk {
        r#type: "hello-ok".to_owned(),
        protocol: MAX_PROTOCOL,
        server: ServerInfo {
            version: shared.config.version.clone(),
            boot_id: Some(shared.boot_id.clone()),
            conn_id: Uuid::new_v4().to_string(),
        },
        features: Features {
            methods: methods::names(principal),
            events: methods::events(principal),
            capabilities: Vec::new(),
        },
        snapshot: info::snapshot(shared, principal, granted),
        auth: Some(granted.clone()),
        policy: Policy {
            max_payload: max_payload(shared, granted),
            max_buffered_bytes: shared.config.limits.buffered_bytes,
            tick_interval_ms: u64::try_from(shared.config.timing.tick.as_millis()).unwrap_or(u64::MAX),
        },
    }
}

/// Says no, and waits a moment for the other side to hear it.
async fn part<S>(shared: &Shared, mut socket: Socket<S>, goodbye: Goodbye)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Goodbye::Close(rejection) = goodbye else {
        // Who said goodbye himself gets an answer.
        let _ = timeout(shared.config.timing.close, socket.flush()).await;
        return;
    };
    let farewell = async {
        if let Some(frame) = rejection.frame {
            socket.feed(Message::text(frame)).await.ok()?;
        }
        let code = rejection.close_code.into();
        let close = CloseFrame { code, reason: rejection.reason.into() };
        socket.send(Message::Close(Some(close))).await.ok()?;
        while let Some(Ok(_)) = socket.next().await {}
        Some(())
    };
    let _ = timeout(shared.config.timing.close, farewell).await;
}

/// After the hello.
async fn talk<S>(shared: &Arc<Shared>, socket: Socket<S>, ip: IpAddr, welcome: Welcome)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.config.limits;
    let budget = Arc::clone(&shared.budget);
    let (outbox, queue) = Outbox::new(limits.buffered_frames, limits.buffered_bytes, budget);
    let _seats = welcome.seats;
    let conn = Arc::new(Conn {
        number: shared.next_connection(),
        session_scoped: welcome.params.caps.iter().any(|cap| cap == CAP_SESSION_SCOPED),
        principal: welcome.entry.principal,
        way: welcome.entry.way,
        client: welcome.params.client,
        shown: OnceLock::new(),
        granted: welcome.entry.granted,
        device: welcome.device,
        outbox: Arc::clone(&outbox),
        rules: Mutex::new(welcome.entry.rules),
        names: Mutex::default(),
    });
    let (number, who) = (conn.number, conn.principal.key());
    tracing::debug!(connection = number, %ip, who, device = conn.device, "a client connected");
    outbox.answer(welcome.hello);
    join(shared, &conn);
    let (sink, mut stream) = socket.split();
    let patience = shared.config.timing.close;
    let writer = shared.tasks.spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox::write(&outbox, queue, sink, patience).await }
    });
    tokio::select! {
        () = listen(shared, &conn, &mut stream) => {}
        () = outbox.closing().wait() => {}
        () = shared.stop.cancelled() => outbox.closing().silently(),
    }
    lock(&shared.peers).leave(conn.number);
    // The writer is bounded by the same patience; then the peer may answer our close.
    let _ = writer.await;
    let _ = timeout(patience, async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

fn join(shared: &Shared, conn: &Arc<Conn>) {
    lock(&shared.peers).join(conn);
    // The rules may have changed between the decision and the entry.
    look_again(shared, &shared.access(), conn);
    // Its device may have been removed between the decision and the entry.
    let Some(device) = conn.device.as_deref().filter(|_| conn.granted.device_token.is_some()) else { return };
    if lock(&shared.pairing).device(device).is_none() {
        lock(&shared.peers).close_device(device);
    }
}

/// Reads requests and keeps the connection alive. Ends with the connection.
async fn listen<S>(shared: &Arc<Shared>, conn: &Arc<Conn>, stream: &mut SplitStream<Socket<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let timing = &shared.config.timing;
    let start = Instant::now();
    let mut ping = interval_at(start + timing.ping, timing.ping);
    let mut tick = interval_at(start + FIRST_TICK.min(timing.tick), timing.tick);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = start;
    let mut desk = methods::Desk::new(shared, conn);
    loop {
        tokio::select! {
            message = stream.next() => {
                heard = Instant::now();
                if !take(&mut desk, conn, message) {
                    return;
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() >= timing.silence {
                    conn.outbox.closing().silently();
                    return;
                }
                conn.outbox.ping();
            }
            _ = tick.tick() => {
                if let Some(event) = Event::new("tick", &Tick { ts: now_ms() }) {
                    conn.outbox.event(&event);
                }
            }
        }
    }
}

/// Takes one message; false at the end.
fn take(desk: &mut methods::Desk, conn: &Conn, message: Option<Result<Message, Error>>) -> bool {
    match message {
        Some(Ok(Message::Text(text))) => desk.request(&text),
        Some(Ok(Message::Binary(bytes))) => {
            // What is no UTF-8 is no JSON, and that is ignored.
            if let Ok(text) = std::str::from_utf8(&bytes) {
                desk.request(text);
            }
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
        Some(Err(error)) => {
            match fault(&error) {
                Some(code) => conn.outbox.closing().with(code, ""),
                None => conn.outbox.closing().silently(),
            }
            return false;
        }
        Some(Ok(Message::Close(_))) | None => {
            conn.outbox.closing().silently();
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_is_no_frame_is_told_from_what_is_no_json() {
        let handshake = ServerHandshake::new("n".into(), 0);
        let close = |text: &str| precise(handshake.read_connect(text).unwrap_err(), text).close_code;
        assert_eq!(close("[]"), 1008);
        assert_eq!(close(r#"{"type":"event","event":"x"}"#), 1008);
        assert_eq!(close("junk"), 1000);
    }
}
