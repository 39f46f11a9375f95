//! Bounds what a client may send, before tungstenite makes room for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use openclaw_protocol::MAX_PREAUTH_PAYLOAD;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Budget, Held};

/// The longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// The longest control frame that RFC 6455 allows.
const MAX_CONTROL: u64 = 125;

/// A stream that looks at the header of each frame and ends in a [`TooMuch`] when the message is larger than it may be.
/// tungstenite's own limit cannot be changed on a running `WebSocketStream`, and the one for clients that may send
/// messages would let every stranger make us reserve 25 MiB.
#[derive(Debug)]
pub(crate) struct Intake<S> {
    inner: S,
    scan: Scan,
    refused: Option<TooMuch>,
}

/// Why a message is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("the message is too large")]
    Message,
    #[error("too many large messages are on their way")]
    Budget,
}

impl<S> Intake<S> {
    /// For a stranger. Messages above `small` count against the budget.
    pub(crate) fn new(inner: S, small: usize, budget: Arc<Budget>) -> Self {
        Self { inner, scan: Scan::new(MAX_PREAUTH_PAYLOAD, small, budget), refused: None }
    }

    /// The client has authenticated: from now on its messages may be so large.
    pub(crate) fn allow(&mut self, limit: usize) {
        self.scan.limit = limit;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Intake<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(why) = self.refused {
            return Poll::Ready(Err(io::Error::other(why)));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let Err((good, why)) = self.scan.look(&buf.filled()[start..]) else { return Poll::Ready(Ok(())) };
        // What came before the refused header is passed on; nothing at all would read as the end of the stream.
        self.refused = Some(why);
        buf.set_filled(start + good);
        Poll::Ready(if good == 0 { Err(io::Error::other(why)) } else { Ok(()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Intake<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Where in the sequence of frames the stream is.
#[derive(Debug)]
struct Scan {
    limit: usize,
    small: usize,
    budget: Arc<Budget>,
    header: [u8; MAX_HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload: u64,
    /// Announced bytes of the current message, over all its frames.
    message: u64,
    /// The current frame is the message's last.
    last: bool,
    held: Option<Held>,
}

impl Scan {
    fn new(limit: usize, small: usize, budget: Arc<Budget>) -> Self {
        let header = [0; MAX_HEADER];
        Self { limit, small, budget, header, have: 0, payload: 0, message: 0, last: false, held: None }
    }

    /// Follows the frames. An error tells how many bytes stand before the end of the refused header.
    fn look(&mut self, bytes: &[u8]) -> Result<(), (usize, TooMuch)> {
        let mut at = 0;
        loop {
            let left = bytes.len() - at;
            let skipped = usize::try_from(self.payload).map_or(left, |payload| payload.min(left));
            self.payload -= skipped as u64;
            at += skipped;
            if self.payload == 0 && self.last {
                (self.message, self.last, self.held) = (0, false, None);
            }
            let Some(&byte) = bytes.get(at) else { return Ok(()) };
            self.header[self.have] = byte;
            self.have += 1;
            if self.have == header_length(&self.header[..self.have]) {
                self.begin().map_err(|why| (at, why))?;
                self.have = 0;
            }
            at += 1;
        }
    }

    /// A header is complete.
    fn begin(&mut self) -> Result<(), TooMuch> {
        let [first, second, ..] = self.header;
        self.payload = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
            short => u64::from(short),
        };
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        if opcode >= 8 {
            // tungstenite would collect a control frame of any size before it refuses it.
            return if self.payload > MAX_CONTROL { Err(TooMuch::Message) } else { Ok(()) };
        }
        self.message = self.message.saturating_add(self.payload);
        self.last = is_final;
        let message = usize::try_from(self.message).ok().filter(|&message| message <= self.limit);
        let message = message.ok_or(TooMuch::Message)?;
        if message > self.small {
            self.held = None;
            self.held = Some(self.budget.take(message).ok_or(TooMuch::Budget)?);
        }
        Ok(())
    }
}

/// The length of a frame header, as far as its beginning tells.
fn header_length(start: &[u8]) -> usize {
    let Some(second) = start.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A masked frame: its header, and as much of its payload as is sent.
    fn frame(first: u8, length: u64, sent: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(vec![0; sent]);
        bytes
    }

    async fn read(bytes: &[u8]) -> (usize, Option<TooMuch>) {
        let mut intake = Intake::new(bytes, usize::MAX, Budget::new(0));
        let mut passed = Vec::new();
        let end = intake.read_to_end(&mut passed).await;
        let why = end.err().and_then(|error| error.get_ref()?.downcast_ref::<TooMuch>().copied());
        assert_eq!(passed, bytes[..passed.len()]);
        (passed.len(), why)
    }

    #[tokio::test]
    async fn a_header_that_announces_too_much_is_never_complete() {
        // tungstenite reserves what a complete header announces: 25 MiB for each stranger, before a byte of it came.
        let huge = frame(0x81, 25 * 1024 * 1024, 0);
        assert_eq!(read(&huge).await, (huge.len() - 1, Some(TooMuch::Message)));
        let good = frame(0x81, MAX_PREAUTH_PAYLOAD as u64, MAX_PREAUTH_PAYLOAD);
        assert_eq!(read(&good).await, (good.len(), None));
        let both = [good.clone(), huge].concat();
        assert_eq!(read(&both).await, (good.len() + 13, Some(TooMuch::Message)), "the good one is passed on");
    }

    #[tokio::test]
    async fn fragments_count_together_and_control_frames_are_short() {
        let ping = frame(0x89, 4, 4);
        let part = |first| frame(first, 40_000, 40_000);
        let fine = [part(0x01), ping.clone(), frame(0x80, 0, 0), part(0x81), ping].concat();
        assert_eq!(read(&fine).await, (fine.len(), None));
        assert_eq!(read(&[part(0x01), part(0x80)].concat()).await.1, Some(TooMuch::Message));
        assert_eq!(read(&frame(0x89, 126, 126)).await.1, Some(TooMuch::Message));
    }

    #[test]
    fn large_messages_are_held_against_the_budget_until_they_are_complete() {
        let budget = Budget::new(2000);
        let scan = || Scan::new(1500, 100, Arc::clone(&budget));
        let (mut one, mut two) = (scan(), scan());
        one.look(&frame(0x81, 1500, 1499)).unwrap();
        assert_eq!(two.look(&frame(0x81, 501, 0)).unwrap_err().1, TooMuch::Budget);
        scan().look(&frame(0x81, 100, 100)).unwrap();
        one.look(&[0]).unwrap();
        scan().look(&frame(0x81, 1500, 1500)).unwrap();
    }
}
