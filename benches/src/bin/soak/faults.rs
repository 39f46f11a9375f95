//! What goes wrong, one thing after the other, each with its time and door on stderr.

use std::time::Duration;

use agent_mesh_benches::Writer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::door::Door;
use crate::{Failure, Soak};

/// Half-open connections of a slow client at a time; a door has 32 seats for those who have not said who they are.
const SLOW: usize = 12;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGTERM; started again at once.
    Restarted,
    /// SIGTERM; nobody at its port for some seconds.
    Away,
    /// SIGKILL; started again, at once or later.
    Killed,
    /// Started again at another address, which everybody learns from the team's list.
    Rolled,
    /// SIGSTOP for some seconds: its port takes connections, and nobody answers.
    Frozen,
    /// Alice gets a new token, and the old one ends.
    TokenRotated,
    /// policy.toml is another, and SIGHUP.
    PolicyReloaded,
    /// Teammates come and go in the team's list.
    TeamChanged,
    /// Connections that send a byte a second.
    SlowLoris,
    /// Connections that send nonsense, at every layer.
    Garbage,
}

const ALL: [Fault; 10] = [
    Fault::Restarted,
    Fault::Away,
    Fault::Killed,
    Fault::Rolled,
    Fault::Frozen,
    Fault::TokenRotated,
    Fault::PolicyReloaded,
    Fault::TeamChanged,
    Fault::SlowLoris,
    Fault::Garbage,
];

impl Fault {
    /// Whether the door's process ends: not done to the first door, which lives all along.
    fn ends_it(self) -> bool {
        matches!(self, Self::Restarted | Self::Away | Self::Killed | Self::Rolled)
    }
}

/// Lets things go wrong until the soak is over, with rests in between of up to twice this.
pub async fn rain(soak: &Soak, rest: Duration) {
    let mut random = Writer::new(soak.seed ^ (99 << 32));
    let mut left: Vec<Fault> = Vec::new();
    while !soak.is_over() {
        sleep(rest.mul_f64((1 + random.number(200)) as f64 / 100.0)).await;
        let _working = soak.gate.read().await;
        if soak.is_over() {
            return;
        }
        // Each kind once before one comes again, so that a short soak has seen all of them.
        if left.is_empty() {
            left.extend(ALL);
        }
        let fault = left.swap_remove(usize::try_from(random.number(left.len() as u64)).unwrap_or_default());
        let doors = if fault.ends_it() { &soak.doors[1..] } else { &soak.doors };
        let door = &doors[usize::try_from(random.number(doors.len() as u64)).unwrap_or_default()];
        soak.say(&format!("{fault:?} {}", door.name));
        soak.struck(fault);
        if let Err(error) = strike(soak, door, fault, &mut random).await {
            soak.complaints.add(format!("{fault:?} {}: {error}", door.name));
        }
        door.trouble_ends();
    }
}

async fn strike(soak: &Soak, door: &Door, fault: Fault, random: &mut Writer) -> Result<(), Failure> {
    let seconds = Duration::from_millis(1000 + random.number(6000));
    match fault {
        Fault::PolicyReloaded => return door.new_policy().await,
        Fault::TeamChanged => return soak.publish(random.number(50)),
        _ => door.trouble_begins(fault == Fault::Killed),
    }
    match fault {
        Fault::Restarted | Fault::Rolled => again(soak, door, fault, None).await,
        Fault::Away => again(soak, door, fault, Some(seconds)).await,
        Fault::Killed => again(soak, door, fault, (random.number(2) == 0).then_some(seconds)).await,
        Fault::Frozen => door.freeze(seconds).await,
        Fault::TokenRotated => {
            let token = door.new_token().await?;
            soak.alice.done(&["token", "set", door.name], Some(&token)).await.map(drop)
        }
        Fault::SlowLoris => slow_loris(door, seconds).await,
        _ => garbage(door, random).await,
    }
}

async fn again(soak: &Soak, door: &Door, fault: Fault, dead: Option<Duration>) -> Result<(), Failure> {
    door.stop(fault == Fault::Killed, &soak.gauges).await?;
    if let Some(dead) = dead {
        sleep(dead).await;
    }
    let before = door.url();
    door.start_again(fault == Fault::Rolled, &soak.gauges).await?;
    if door.url() != before {
        soak.publish(0)?;
        // Until `sync --watch` has seen it, which looks every second.
        soak.learned(door).await?;
    }
    Ok(())
}

/// Each sends the head of a request, byte by byte.
async fn slow_loris(door: &Door, time: Duration) -> Result<(), Failure> {
    let mut streams = Vec::new();
    for _ in 0..SLOW {
        streams.push(TcpStream::connect(door.address()).await?);
    }
    let head = b"GET / HTTP/1.1\r\nHost: somewhere\r\nX-Slow: ";
    for byte in head.iter().take(usize::try_from(time.as_secs())?) {
        for stream in &mut streams {
            // The door may have had enough.
            let _ = stream.write_all(&[*byte]).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Noise; a request that is none; an upgrade, and then noise; an upgrade, and a frame that is no JSON.
async fn garbage(door: &Door, random: &mut Writer) -> Result<(), Failure> {
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for kind in 0..12 {
        let noise: Vec<u8> = (0..256).map(|_| u8::try_from(random.number(256)).unwrap_or_default()).collect();
        let bytes = match kind % 4 {
            0 => noise,
            1 => b"POST /nowhere HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
            2 => [upgrade.as_bytes(), &noise].concat(),
            // A text frame of five bytes under the mask 0.
            _ => [upgrade.as_bytes(), &[0x81, 0x85, 0, 0, 0, 0], b"hello"].concat(),
        };
        let mut stream = TcpStream::connect(door.address()).await?;
        // It may be closed in the middle.
        let _ = stream.write_all(&bytes).await;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
