//! The header that tells the receiving agent who speaks: one machine-readable line, one for the model, a blank one.
//!
//! ```text
//! [agent-mesh/1 from=alice id=0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a11 hops=0 reply=this-turn]
//! (A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)
//!
//! is the build green?
//! ```
//!
//! `docs/frame.md` is its specification. The header is a claim of the sender: what the receiver may trust is what its
//! own gateway authenticated.

use std::fmt::Write as _;

const OPEN: &str = "[agent-mesh/1 ";
const EXPLANATION: &str =
    "(A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)";

/// Who speaks, and in what connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's e-mail prefix, or `dev-` and twelve hex digits of its device id.
    pub from: String,
    /// The message id, a UUID.
    pub id: String,
    /// The topic, if the sender keeps several apart.
    pub thread: Option<String>,
    /// How many agents passed this on; 0 is first-hand.
    pub hops: u32,
}

impl Header {
    /// The message with this header in front.
    #[must_use]
    pub fn wrap(&self, message: &str) -> String {
        let mut text = format!("{OPEN}from={} id={}", encode(&self.from), encode(&self.id));
        if let Some(thread) = &self.thread {
            let _ = write!(text, " thread={}", encode(thread));
        }
        let _ = write!(text, " hops={} reply=this-turn]\n{EXPLANATION}\n\n{message}", self.hops);
        text
    }

    /// Splits a text into its header, if it begins with one, and the message. Unknown keys are skipped: a later
    /// version may add some.
    #[must_use]
    pub fn split(text: &str) -> (Option<Self>, &str) {
        match Self::parse(text) {
            Some((header, message)) => (Some(header), message),
            None => (None, text),
        }
    }

    fn parse(text: &str) -> Option<(Self, &str)> {
        let (line, rest) = text.strip_prefix(OPEN)?.split_once('\n')?;
        let (_, message) = rest.split_once("\n\n")?;
        let mut header = Self::default();
        for pair in line.strip_suffix(']')?.split(' ') {
            let (key, value) = pair.split_once('=')?;
            match key {
                "from" => header.from = decode(value)?,
                "id" => header.id = decode(value)?,
                "thread" => header.thread = Some(decode(value)?),
                "hops" => header.hops = value.parse().ok()?,
                _ => {}
            }
        }
        (!header.from.is_empty() && !header.id.is_empty()).then_some((header, message))
    }
}

/// Letters, digits and `._@+:-` as they are, everything else as `%XX`: no value can end the line or the header.
fn encode(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'@' | b'+' | b':' | b'-' => {
                out.push(byte.into());
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                // `from_str_radix` would take a sign.
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_is_one_line_for_machines_and_one_for_the_model() {
        let header =
            Header { from: "alice".into(), id: "id-1".into(), thread: Some("ci builds".into()), hops: 0 };
        assert_eq!(
            header.wrap("hello"),
            "[agent-mesh/1 from=alice id=id-1 thread=ci%20builds hops=0 reply=this-turn]\n\
             (A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)\n\nhello"
        );
    }

    #[test]
    fn what_only_looks_like_a_header_is_message() {
        for text in [
            "hello",
            "[agent-mesh/1 from=a]\nx",
            "[agent-mesh/1 hops=0]\nx\n\nm",
            "[agent-mesh/1 from=a id=%ZZ]\n\n\nm",
            "[agent-mesh/1 from=a id=%+F]\n\n\nm",
        ] {
            assert_eq!(Header::split(text), (None, text));
        }
    }

    #[test]
    fn keys_from_the_future_are_skipped() {
        let (header, message) =
            Header::split("[agent-mesh/1 from=a id=b hops=2 visited=c sign=x]\nnote\n\nm\n\nn");
        assert_eq!(header.map(|h| h.hops), Some(2));
        assert_eq!(message, "m\n\nn");
    }

    proptest! {
        #[test]
        fn any_value_survives(from in ".{1,20}", id in ".{1,20}", thread in proptest::option::of(".{0,20}"), hops: u32, message in ".{0,80}") {
            let header = Header { from, id, thread, hops };
            let wrapped = header.wrap(&message);
            prop_assert_eq!(Header::split(&wrapped), (Some(header), &*message));
        }
    }
}
