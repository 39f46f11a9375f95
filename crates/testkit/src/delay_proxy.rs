//! A slow line, and one that breaks: a TCP proxy in place of `tc netem`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A direction through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    ToTarget,
    /// From the target to the client.
    ToClient,
}

/// A TCP proxy on 127.0.0.1 that delays every byte by a fixed time each way, without limiting the throughput, and can
/// cut a connection after a number of bytes, in the middle of whatever they are. Delays are kept to the timer's
/// millisecond. Dropping it cuts everything.
pub struct DelayProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// The cuts for the next connections, in order.
    plan: Mutex<Vec<Cut>>,
    counts: Mutex<Counts>,
    cut_all: watch::Sender<()>,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    connections: u32,
    to_target: u64,
    to_client: u64,
}

#[derive(Clone, Copy)]
struct Cut {
    direction: Direction,
    after: u64,
    reset: bool,
}

impl DelayProxy {
    /// Listens on a free port and forwards to `target`, each byte `one_way` later.
    pub async fn start(target: SocketAddr, one_way: Duration) -> Self {
        Self::new(target, one_way, Duration::ZERO).await
    }

    /// The same, and connecting takes its round trip, too: this machine accepts at once, so what the client says first is
    /// kept for as long as a handshake with somebody that far away would have taken.
    pub async fn far(target: SocketAddr, one_way: Duration) -> Self {
        Self::new(target, one_way, 2 * one_way).await
    }

    async fn new(target: SocketAddr, one_way: Duration, handshake: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            // Dropped together with this task, and the connections with it.
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                links.spawn(link(client, target, [handshake, one_way], Arc::clone(&state)));
                while links.try_join_next().is_some() {}
            }
        });
        Self { address, shared, accepting }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ws://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The next connection without a plan is cut after this many bytes were forwarded in this direction: with a TCP
    /// reset on both sides, or an ordinary end of stream. Call it again for the connection after that.
    pub fn cut_next(&self, direction: Direction, after: u64, reset: bool) {
        locked(&self.shared.plan).push(Cut { direction, after, reset });
    }

    /// Cuts all connections that are open now.
    pub fn cut_now(&self) {
        self.shared.cut_all.send_replace(());
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u32 {
        locked(&self.shared.counts).connections
    }

    /// How many bytes were forwarded in this direction, over all connections.
    #[must_use]
    pub fn forwarded(&self, direction: Direction) -> u64 {
        let counts = *locked(&self.shared.counts);
        match direction {
            Direction::ToTarget => counts.to_target,
            Direction::ToClient => counts.to_client,
        }
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn link(
    mut client: TcpStream,
    target: SocketAddr,
    [handshake, delay]: [Duration; 2],
    shared: Arc<Shared>,
) {
    let mut cut_all = shared.cut_all.subscribe();
    locked(&shared.counts).connections += 1;
    let cut = {
        let mut plan = locked(&shared.plan);
        if plan.is_empty() { None } else { Some(plan.remove(0)) }
    };
    if !handshake.is_zero() {
        tokio::time::sleep(handshake).await;
    }
    let Ok(mut upstream) = TcpStream::connect(target).await else { return };
    for stream in [&client, &upstream] {
        // Nagle's algorithm would add a delay of its own.
        let _ = stream.set_nodelay(true);
        if cut.is_some_and(|cut| cut.reset) {
            stream.set_zero_linger().expect("SO_LINGER on an open socket");
        }
    }
    let limit = |direction| cut.filter(|cut| cut.direction == direction).map(|cut| cut.after);
    // Not `into_split`: its write half says goodbye (FIN) when dropped, even on a cut.
    let (from_client, to_client) = client.split();
    let (from_target, to_target) = upstream.split();
    let up =
        Way { shared: &shared, direction: Direction::ToTarget, delay, limit: limit(Direction::ToTarget) };
    let down =
        Way { shared: &shared, direction: Direction::ToClient, delay, limit: limit(Direction::ToClient) };
    tokio::select! {
        // Both ways ended by themselves, or one reached its cut: everything is dropped here.
        _ = async { tokio::try_join!(up.run(from_client, to_target), down.run(from_target, to_client)) } => {}
        _ = cut_all.changed() => {}
    }
}

struct Way<'a> {
    shared: &'a Shared,
    direction: Direction,
    delay: Duration,
    limit: Option<u64>,
}

/// The connection is to be cut, or broke.
struct Broken;

impl Way<'_> {
    async fn run(&self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Broken> {
        let (queue, delayed) = mpsc::unbounded_channel();
        tokio::try_join!(self.read(from, queue), self.write(to, delayed)).map(|_| ())
    }

    /// Reads as fast as bytes come: waiting here would limit the throughput.
    async fn read(
        &self,
        mut from: ReadHalf<'_>,
        queue: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    ) -> Result<(), Broken> {
        loop {
            let mut bytes = Vec::with_capacity(64 * 1024);
            let count = from.read_buf(&mut bytes).await.map_err(|_| Broken)?;
            queue.send((Instant::now() + self.delay, bytes)).map_err(|_| Broken)?;
            if count == 0 {
                return Ok(());
            }
        }
    }

    async fn write(
        &self,
        mut to: WriteHalf<'_>,
        mut delayed: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    ) -> Result<(), Broken> {
        let mut left = self.limit;
        if left == Some(0) {
            return Err(Broken);
        }
        while let Some((due, mut bytes)) = delayed.recv().await {
            if !self.delay.is_zero() {
                sleep_until(due).await;
            }
            if bytes.is_empty() {
                return to.shutdown().await.map_err(|_| Broken);
            }
            if let Some(left) = left {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            to.write_all(&bytes).await.map_err(|_| Broken)?;
            let count = bytes.len() as u64;
            let mut counts = locked(&self.shared.counts);
            match self.direction {
                Direction::ToTarget => counts.to_target += count,
                Direction::ToClient => counts.to_client += count,
            }
            left = left.map(|left| left - count);
            if left == Some(0) {
                return Err(Broken);
            }
        }
        Ok(())
    }
}
