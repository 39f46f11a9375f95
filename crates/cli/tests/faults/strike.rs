//! What breaks, and when.

use std::time::Duration;

use agent_mesh_testkit::{Cut, DelayProxy, Direction, FakeGateway, Fault, How, Script};

use crate::random::Random;

/// Where all of it happens.
pub const SESSION: &str = "agent:main:storm";

/// One thing that breaks. The first one of a trial strikes the first connection, the second one the second.
#[derive(Debug, Clone, Copy)]
pub enum Strike {
    /// The connection ends at a point of the conversation.
    Point(Cut, How),
    /// The connection ends after so many bytes, in the middle of whatever they are.
    Bytes { direction: Direction, after: u64, reset: bool },
    /// SIGKILL of the gateway: no close frame, memory lost, history kept.
    GatewayKilled(Moment),
    /// SIGTERM of the gateway: it drains, says goodbye, starts again.
    GatewayRestarted(Moment),
    /// SIGKILL of our own process.
    WeAreKilled(Moment),
}

/// When a process dies: this long after something was seen on the connection.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub seen: Seen,
    pub later: Duration,
}

#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// Nothing: counted from the start of our process.
    Start,
    /// TCP.
    Tcp,
    /// Our `connect`.
    Connect,
    /// The first request after it: the message itself, or the look into the history.
    Request,
    /// The agent at work.
    Running,
    /// Its answer, which is on its way to us.
    Answered,
}

/// The kinds that are counted.
pub const KINDS: [&str; 8] =
    ["close", "drop", "reset", "silence", "mid-bytes", "gateway SIGKILL", "gateway SIGTERM", "our SIGKILL"];

impl Strike {
    pub fn random(random: &mut Random) -> Self {
        match random.below(100) {
            0..40 => {
                let hows = [How::Close(1011), How::Close(1012), How::Drop, How::Drop, How::Reset, How::Reset];
                // Rare, since noticing a silence takes two seconds.
                let how = if random.one_in(10) { How::Silence } else { random.pick(&hows) };
                Self::Point(random.pick(&Cut::ALL), how)
            }
            40..60 => {
                // What a whole conversation has; the most comes with hello.
                let toward = [(Direction::ToTarget, 1_600), (Direction::ToClient, 27_000)];
                let (direction, most) = random.pick(&toward);
                Self::Bytes { direction, after: random.below(most), reset: random.one_in(2) }
            }
            60..75 => Self::GatewayKilled(Moment::random(random)),
            75..80 => Self::GatewayRestarted(Moment::random(random)),
            _ => Self::WeAreKilled(Moment::random(random)),
        }
    }

    pub fn kind(self) -> &'static str {
        KINDS[match self {
            Self::Point(_, How::Close(_)) => 0,
            Self::Point(_, How::Drop) => 1,
            Self::Point(_, How::Reset) => 2,
            Self::Point(_, How::Silence | How::Freeze) => 3,
            Self::Bytes { .. } => 4,
            Self::GatewayKilled(_) => 5,
            Self::GatewayRestarted(_) => 6,
            Self::WeAreKilled(_) => 7,
        }]
    }

    /// The part of the n-th strike that is said to the gateway in advance.
    pub fn script(self, n: u32, script: Script) -> Script {
        match self {
            Self::Point(cut, how) => script.fault(Fault::new(cut, how).on_connection(n).once()),
            _ => script,
        }
    }

    /// The part that is said to the line in advance, one cut for each connection in turn.
    pub fn prepare(self, proxy: &DelayProxy) {
        match self {
            Self::Bytes { direction, after, reset } => proxy.cut_next(direction, after, reset),
            // Never reached: the place of this connection in the proxy's plan.
            _ => proxy.cut_next(Direction::ToClient, u64::MAX, false),
        }
    }

    /// Whether the n-th strike, of those that were said in advance, hit; only roughly: the conversation went so far.
    pub fn hit(self, n: u32, gateway: &FakeGateway, reply_at_once: bool) -> bool {
        let sent = |wanted: fn(&str) -> bool| {
            let frames = gateway.received();
            frames.iter().any(|f| f.connection == n && wanted(f.frame["method"].as_str().unwrap_or_default()))
        };
        match self {
            Self::Point(Cut::AfterTcp | Cut::AfterUpgrade | Cut::AfterChallenge, _) => {
                gateway.connections() >= n
            }
            Self::Point(Cut::AfterConnectReceived | Cut::AfterHello, _) => sent(|method| method == "connect"),
            Self::Point(Cut::AfterRequestReceived, _) => sent(|method| method != "connect"),
            Self::Point(..) => sent(|method| method == "agent"),
            Self::Bytes { .. } => gateway.connections() > n || (gateway.connections() == n && !reply_at_once),
            _ => false,
        }
    }
}

impl Moment {
    fn random(random: &mut Random) -> Self {
        let seen = random.pick(&[
            Seen::Start,
            Seen::Tcp,
            Seen::Connect,
            Seen::Request,
            Seen::Request,
            Seen::Running,
            Seen::Answered,
            Seen::Answered,
        ]);
        // Mostly at once, for between two steps there are microseconds; else somewhere in the run.
        let most = if random.one_in(3) { 30 } else { 2 };
        let most = if matches!(seen, Seen::Start) { 40 } else { most };
        Self { seen, later: random.up_to(Duration::from_millis(most)) }
    }

    /// Waits until it is there, on the n-th connection or a later one. So many turns were run and answered before.
    pub async fn comes(self, n: u32, gateway: &FakeGateway, before: usize) {
        let frame = |gateway: &FakeGateway, connect: bool| {
            let frames = gateway.received();
            frames.iter().any(|f| f.connection >= n && (f.frame["method"] == "connect") == connect)
        };
        let answers = |gateway: &FakeGateway| {
            let rows = gateway.history(SESSION);
            rows.iter().filter(|row| row["role"] == "assistant").count()
        };
        match self.seen {
            Seen::Start => {}
            Seen::Tcp => gateway.until(|g| g.connections() >= n).await,
            Seen::Connect => gateway.until(|g| frame(g, true)).await,
            Seen::Request => gateway.until(|g| frame(g, false)).await,
            Seen::Running => gateway.until(|g| frame(g, false) && g.ledger().total() > before).await,
            Seen::Answered => gateway.until(|g| frame(g, false) && answers(g) > before).await,
        }
        // Not to synchronise: the moment itself is what is random.
        tokio::time::sleep(self.later).await;
    }
}
