//! What can go wrong, and where.

/// A named point of a conversation at which a [`Fault`] can strike, in the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The byte stream is open; nothing was read or written.
    AfterTcp,
    /// The WebSocket upgrade was answered; no frame was sent.
    AfterUpgrade,
    /// `connect.challenge` was sent.
    AfterChallenge,
    /// The `connect` frame was read but not answered.
    AfterConnectReceived,
    /// hello-ok was sent.
    AfterHello,
    /// A request was read; it had no effect and gets no answer: its run did **not** start.
    AfterRequestReceived,
    /// A run was started, but the client has not been told: the run goes on.
    BeforeAccepted,
    /// The first answer (`accepted`, `started`) was sent; the run goes on.
    AfterAccepted,
    /// The first text delta was sent (without deltas: the answer is ready, but unsent). The run goes on.
    MidStream,
    /// The final answer of a run was sent.
    AfterFinal,
}

impl Cut {
    /// Every point, for tests that go through all of them.
    pub const ALL: [Self; 10] = [
        Self::AfterTcp,
        Self::AfterUpgrade,
        Self::AfterChallenge,
        Self::AfterConnectReceived,
        Self::AfterHello,
        Self::AfterRequestReceived,
        Self::BeforeAccepted,
        Self::AfterAccepted,
        Self::MidStream,
        Self::AfterFinal,
    ];
}

/// How the conversation ends at a [`Cut`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// A close frame with this code, then the end of the stream. (At [`Cut::AfterTcp`]: as [`How::Drop`].)
    Close(u16),
    /// The stream ends without a close frame.
    Drop,
    /// TCP reset (`RST`); the peer's next read fails. On an in-memory pipe: as [`How::Drop`].
    Reset,
    /// The gateway still reads and answers WebSocket pings, but never sends another frame.
    Silence,
    /// The gateway neither reads nor writes: a stopped process or a dead network behind an open socket.
    Freeze,
}

impl How {
    /// Every way, for tests that go through all of them.
    pub const ALL: [Self; 5] = [Self::Close(1011), Self::Drop, Self::Reset, Self::Silence, Self::Freeze];
}

/// One injected fault: [`How`] the conversation ends at a [`Cut`].
#[derive(Debug, Clone)]
pub struct Fault {
    pub(crate) cut: Cut,
    pub(crate) how: How,
    pub(crate) method: Option<String>,
    pub(crate) connection: Option<u32>,
    pub(crate) times: Option<u32>,
}

impl Fault {
    /// Strikes every time the point is reached.
    #[must_use]
    pub fn new(cut: Cut, how: How) -> Self {
        Self { cut, how, method: None, connection: None, times: None }
    }

    /// Only for requests (and runs) of this method.
    #[must_use]
    pub fn of(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only on the n-th connection; the first is 1.
    #[must_use]
    pub fn on_connection(mut self, n: u32) -> Self {
        self.connection = Some(n);
        self
    }

    /// Only the first `n` times.
    #[must_use]
    pub fn times(mut self, n: u32) -> Self {
        self.times = Some(n);
        self
    }

    /// Only the first time.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    pub(crate) fn matches(&self, cut: Cut, method: &str, connection: u32, hits: u32) -> bool {
        self.cut == cut
            && self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self.connection.is_none_or(|wanted| wanted == connection)
            && self.times.is_none_or(|limit| hits < limit)
    }
}

/// Extra frames after hello that a client must survive. Each is sent before **every** response.
#[derive(Debug, Clone)]
pub enum Noise {
    /// A response with an id that nobody asked for.
    UnknownId,
    /// Each response is sent twice. (This one comes after the response.)
    Duplicate,
    /// This many events of unknown names with odd payloads.
    Events(usize),
    /// A text frame with this content: malformed JSON, an array, a frame of unknown `type`, ...
    Text(String),
    /// A binary frame with this content.
    Binary(Vec<u8>),
    /// A (valid, unknown) event of this many MiB in one frame.
    BigEvent(usize),
    /// A WebSocket ping.
    Ping,
}
