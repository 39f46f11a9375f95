//! An agent that says what it heard.

use openclaw_protocol::attribution::Header;

use super::{Agent, Deltas, ReplyFuture, Turn};

/// The reply comes in about so many pieces.
const PIECES: usize = 4;

/// Replies with the message (without its attribution header), after a prefix.
#[derive(Debug, Clone)]
pub struct EchoAgent {
    prefix: String,
}

impl EchoAgent {
    /// Replies `echo: <message>`.
    #[must_use]
    pub fn new() -> Self {
        Self { prefix: "echo: ".to_owned() }
    }

    /// Replies `<name> heard: <message>`, so that one can tell several of them apart.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { prefix: format!("{name} heard: ") }
    }
}

impl Default for EchoAgent {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent for EchoAgent {
    fn reply(&self, turn: Turn, deltas: Deltas) -> ReplyFuture<'_> {
        Box::pin(async move {
            let (_, message) = Header::split(&turn.message);
            let reply = format!("{}{message}", self.prefix);
            for piece in pieces(&reply) {
                deltas.push(piece).await;
            }
            Ok(reply)
        })
    }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let size = text.len().div_ceil(PIECES).max(1);
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = (size..rest.len()).find(|&end| rest.is_char_boundary(end)).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_whole() {
        for text in ["", "a", "ab", "echo: hello", "戴泽é戴泽é"] {
            let all: Vec<_> = pieces(text).collect();
            assert_eq!(all.concat(), text);
            assert!(all.len() <= PIECES);
        }
        assert_eq!(pieces("echo: hello you").count(), PIECES);
    }
}
