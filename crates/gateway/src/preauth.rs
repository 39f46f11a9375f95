//! Bounds what a stranger may send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use openclaw_protocol::MAX_PREAUTH_PAYLOAD;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room for frame headers and pings beside the one frame that matters.
const SLACK: usize = 1024;

/// A stream that ends in an error when it yields more than one pre-authentication frame may hold, until it is opened.
/// tungstenite's own limit cannot be changed on a running `WebSocketStream`, and the one for authenticated clients
/// would let every stranger make us buffer 25 MiB.
#[derive(Debug)]
pub(crate) struct PreAuth<S> {
    inner: S,
    left: Option<usize>,
}

impl<S> PreAuth<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, left: Some(MAX_PREAUTH_PAYLOAD + SLACK) }
    }

    /// The client has authenticated: no limit here from now on.
    pub(crate) fn open(&mut self) {
        self.left = None;
    }

    /// Whether the limit was hit.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.left == Some(0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PreAuth<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else { return Pin::new(&mut self.inner).poll_read(cx, buf) };
        if left == 0 {
            return Poll::Ready(Err(io::Error::other("too much before authentication")));
        }
        let mut part = buf.take(left);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        // `part` shares the memory but not the bookkeeping of `buf`; its bytes are initialised up to `filled`.
        let read = part.filled().len();
        let bytes = part.filled().to_vec();
        buf.put_slice(&bytes);
        self.left = Some(left - read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PreAuth<S> {
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
