//! One WebSocket, and the ways to end it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};

use crate::fault::How;
use crate::script::Opening;

/// The conversation is over.
#[derive(Debug)]
pub(crate) struct Ended;

/// A byte stream and the way to reset it (TCP only).
pub(crate) struct Line<S> {
    pub io: S,
    pub reset: fn(&S),
}

pub(crate) struct Wire<S> {
    ws: WebSocketStream<S>,
    reset: fn(&S),
    fragment: Option<usize>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Ends the stream before any WebSocket exists.
    pub async fn stop(mut self, how: How) {
        match how {
            How::Close(_) | How::Drop => {}
            How::Reset => (self.reset)(&self.io),
            How::Silence => while self.io.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {},
            How::Freeze => std::future::pending().await,
        }
    }

    /// Answers the upgrade request with something that is not an upgrade.
    pub async fn misbehave(mut self, opening: &Opening) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match self.io.read_buf(&mut request).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
        let answer = match opening {
            Opening::Gateway => Vec::new(),
            Opening::Garbage(bytes) => bytes.clone(),
            Opening::Http(status, kind, body) => format!(
                "HTTP/1.1 {status} Fake\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        };
        if self.io.write_all(&answer).await.is_ok() {
            // The client may be gone by now, which is its right.
            let _ = self.io.shutdown().await;
        }
    }

    pub async fn upgrade(self, max_message: usize, fragment: Option<usize>) -> Result<Wire<S>, Ended> {
        let limits = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let ws =
            tokio_tungstenite::accept_async_with_config(self.io, Some(limits)).await.map_err(|_| Ended)?;
        Ok(Wire { ws, reset: self.reset, fragment })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The next message. A frame that is too large is answered with close 1009.
    pub async fn next(&mut self) -> Result<Message, Ended> {
        match self.ws.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(tokio_tungstenite::tungstenite::Error::Capacity(_))) => {
                self.close(1009, "").await;
                Err(Ended)
            }
            Some(Err(_)) | None => Err(Ended),
        }
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Ended> {
        self.ws.send(message).await.map_err(|_| Ended)
    }

    pub async fn send_json(&mut self, frame: &Value) -> Result<(), Ended> {
        self.send_text(frame.to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> Result<(), Ended> {
        let Some(size) = self.fragment else { return self.send(Message::text(text)).await };
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        for (n, piece) in pieces.iter().enumerate() {
            let code = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(code), n + 1 == pieces.len());
            self.ws.feed(Message::Frame(frame)).await.map_err(|_| Ended)?;
        }
        self.ws.flush().await.map_err(|_| Ended)
    }

    /// Sends a close frame and waits a moment for the peer's: closing a socket with unread data would reset it, and
    /// the peer would never see the frame.
    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        if self.ws.close(Some(frame)).await.is_ok() {
            let drained = async { while let Some(Ok(_)) = self.ws.next().await {} };
            let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
        }
    }

    pub async fn stop(mut self, how: How) {
        match how {
            How::Close(code) => {
                self.close(code, if code == 1012 { "service restart" } else { "testkit" }).await;
            }
            How::Drop => {}
            How::Reset => (self.reset)(self.ws.get_ref()),
            How::Silence => while self.next().await.is_ok() {},
            How::Freeze => std::future::pending().await,
        }
    }
}
