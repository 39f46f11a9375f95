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
/// With this begins the line that a gateway itself writes about a peer's message.
const DOOR: &str = "[agent-mesh-door/1 ";
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
    /// Who had a part in what led to this message, first to last; the sender is the last. Empty when first-hand.
    pub visited: Vec<String>,
    /// The id of the message that all began with; none when first-hand: it is this one's own.
    pub chain: Option<String>,
    /// The kind of agent's shell that the sender ran in, as its environment says.
    pub via_shell: Option<String>,
}

impl Header {
    /// This header for a message that continues a chain.
    #[must_use]
    pub fn continuing(self, chain: &Chain) -> Self {
        let mut visited = chain.visited.clone();
        visited.push(self.from.clone());
        Self { hops: chain.hops.saturating_add(1), visited, chain: Some(chain.id.clone()), ..self }
    }

    /// This header with the sender that a gateway has verified. The name that the sender claimed has a part in the chain as
    /// well: of the two either may be the one that somebody else knows him by.
    #[must_use]
    pub fn verified(self, key: &str) -> Self {
        let (key, mut visited) = (key.to_owned(), self.visited);
        for name in [&self.from, &key] {
            if !name.is_empty() && !visited.contains(name) {
                visited.push(name.clone());
            }
        }
        Self { from: key, visited, ..self }
    }

    /// The chain that whoever reads this message is in, and what it sends because of it goes on with.
    #[must_use]
    pub fn as_chain(&self) -> Chain {
        let visited = if self.visited.is_empty() { vec![self.from.clone()] } else { self.visited.clone() };
        // One of the two may be made up; the larger one is safe to go by.
        let passed_on = passed_on(&visited);
        let id = self.chain.as_ref().unwrap_or(&self.id).clone();
        Chain { id, hops: self.hops.max(passed_on), visited }
    }

    /// The message with this header in front.
    #[must_use]
    pub fn wrap(&self, message: &str) -> String {
        format!("{}\n{EXPLANATION}\n\n{message}", self.line())
    }

    fn line(&self) -> String {
        let mut line = format!("{OPEN}from={} id={}", encode(&self.from), encode(&self.id));
        if let Some(thread) = &self.thread {
            let _ = write!(line, " thread={}", encode(thread));
        }
        let _ = write!(line, " hops={}", self.hops);
        if !self.visited.is_empty() {
            let _ = write!(line, " visited={}", encode_names(&self.visited));
        }
        for (key, value) in [("chain", &self.chain), ("via-shell", &self.via_shell)] {
            if let Some(value) = value {
                let _ = write!(line, " {key}={}", encode(value));
            }
        }
        line + " reply=this-turn]"
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

    /// Reads a header's first line alone, as somebody copied it; or the line of a gateway in its place, where `from` is
    /// verified and the rest is what the sender claimed: see [`Header::verified`].
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let (pairs, is_door) = match line.strip_prefix(OPEN) {
            Some(pairs) => (pairs, false),
            None => (line.strip_prefix(DOOR)?, true),
        };
        let (mut header, mut verified) = (Self::default(), String::new());
        for pair in pairs.strip_suffix(']')?.split(' ') {
            let (mut key, value) = pair.split_once('=')?;
            if is_door && key == "from" {
                verified = decode(value)?;
                continue;
            } else if is_door {
                match key.strip_prefix("claimed-") {
                    None => continue,
                    Some(claimed) => key = claimed,
                }
            }
            match key {
                "from" => header.from = decode(value)?,
                "id" => header.id = decode(value)?,
                "thread" => header.thread = Some(decode(value)?),
                "hops" => header.hops = value.parse().ok()?,
                "visited" => header.visited = decode_names(value)?,
                "chain" => header.chain = Some(decode(value)?),
                "via-shell" => header.via_shell = Some(decode(value)?),
                _ => {}
            }
        }
        if is_door && !verified.is_empty() {
            header = header.verified(&verified);
        }
        (!header.from.is_empty() && !header.id.is_empty()).then_some(header)
    }

    /// The line that a gateway writes in place of this header: who has proven to be the sender, and what the header
    /// claims, marked as a claim. A header without `from` is none that the sender wrote.
    #[must_use]
    pub fn door_line(&self, verified: &str, device_id: Option<&str>) -> String {
        let mut line = format!("{DOOR}from={}", encode(verified));
        let from = Some(&self.from).filter(|from| !from.is_empty());
        let (device, hops) = (device_id.map(str::to_owned), from.map(|_| self.hops.to_string()));
        let visited = Some(encode_names(&self.visited)).filter(|names| !names.is_empty());
        let pairs = [
            ("device", device.as_deref().map(encode)),
            ("claimed-from", from.map(|from| encode(from))),
            ("claimed-id", Some(encode(&self.id))),
            ("claimed-thread", self.thread.as_deref().map(encode)),
            ("claimed-hops", hops),
            ("claimed-visited", visited),
            ("claimed-chain", self.chain.as_deref().map(encode)),
        ];
        for (key, value) in pairs {
            if let Some(value) = value {
                let _ = write!(line, " {key}={value}");
            }
        }
        line + "]"
    }

    fn parse(text: &str) -> Option<(Self, &str)> {
        if !text.starts_with(OPEN) {
            return None;
        }
        let (line, rest) = text.split_once('\n')?;
        let (_, message) = rest.split_once("\n\n")?;
        Some((Self::from_line(line)?, message))
    }
}

/// A chain of messages, each sent because of the one before, as far as it came to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The id of the message it began with.
    pub id: String,
    /// How many agents passed it on, up to whoever wrote to us.
    pub hops: u32,
    /// Who has had a part in it; whoever wrote to us is the last. Never empty.
    pub visited: Vec<String>,
}

impl Chain {
    /// The names as the header's `visited` has them, for whoever hands a chain on through its environment.
    #[must_use]
    pub fn visited_value(&self) -> String {
        encode_names(&self.visited)
    }

    /// A chain from its three values, of which `visited` is written as in the header. None if one makes no sense.
    #[must_use]
    pub fn from_values(id: &str, hops: &str, visited: &str) -> Option<Self> {
        let visited = decode_names(visited).filter(|names| !names.is_empty())?;
        let hops = hops.parse::<u32>().ok()?.max(passed_on(&visited));
        (!id.is_empty()).then(|| Self { id: id.to_owned(), hops, visited })
    }
}

/// How often a message was passed on at least that these had a part in. A device's own name often stands beside the one
/// that its owner goes by, so it counts for none.
fn passed_on(visited: &[String]) -> u32 {
    let names = visited.iter().filter(|name| !name.starts_with("dev-")).count();
    u32::try_from(names.saturating_sub(1)).unwrap_or(u32::MAX)
}

/// Names with commas between them; a comma in a name is encoded as everything else is.
fn encode_names(names: &[String]) -> String {
    names.iter().map(|name| encode(name)).collect::<Vec<_>>().join(",")
}

fn decode_names(value: &str) -> Option<Vec<String>> {
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(decode).collect()
}

/// Letters, digits and `._@+:-` as they are, everything else as `%XX`: no value can end the line or the header.
#[must_use]
pub fn encode(value: &str) -> String {
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
        let header = Header {
            from: "alice".into(),
            id: "id-1".into(),
            thread: Some("ci builds".into()),
            ..Header::default()
        };
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
            "[agent-mesh/1 from=a id=b visited=%ZZ]\n\n\nm",
        ] {
            assert_eq!(Header::split(text), (None, text));
        }
    }

    #[test]
    fn keys_from_the_future_are_skipped() {
        let (header, message) = Header::split("[agent-mesh/1 from=a id=b hops=2 sign=%x]\nnote\n\nm\n\nn");
        assert_eq!(header.map(|h| h.hops), Some(2));
        assert_eq!(message, "m\n\nn");
    }

    #[test]
    fn a_chain_grows_by_whoever_passes_it_on() {
        let by = |from: &str, id: &str| Header { from: from.into(), id: id.into(), ..Header::default() };
        let first = by("alice", "id-1");
        let second = by("戴,泽", "id-2").continuing(&first.as_chain());
        let third =
            Header { via_shell: Some("exec".into()), ..by("carol", "id-3") }.continuing(&second.as_chain());
        assert_eq!(
            third.line(),
            "[agent-mesh/1 from=carol id=id-3 hops=2 visited=alice,%E6%88%B4%2C%E6%B3%BD,carol chain=id-1 \
             via-shell=exec reply=this-turn]"
        );
        let chain = third.as_chain();
        assert_eq!((chain.hops, chain.visited.join(" ")), (2, "alice 戴,泽 carol".to_owned()));
        let read = Chain::from_values(&chain.id, &chain.hops.to_string(), &chain.visited_value());
        assert_eq!(read, Some(chain));
    }

    #[test]
    fn the_line_of_a_gateway_continues_a_chain_as_the_header_itself_does() {
        let header = Header {
            from: "mallory".into(),
            id: "id-3".into(),
            hops: 2,
            visited: vec!["alice".into(), "mallory".into()],
            chain: Some("id-1".into()),
            ..Header::default()
        };
        let line = header.door_line("bob", Some("0123"));
        assert_eq!(
            line,
            "[agent-mesh-door/1 from=bob device=0123 claimed-from=mallory claimed-id=id-3 claimed-hops=2 \
             claimed-visited=alice,mallory claimed-chain=id-1]"
        );
        let read = Header::from_line(&line).unwrap();
        assert_eq!(read, header.verified("bob"));
        assert_eq!((read.as_chain().hops, read.visited.join(" ")), (2, "alice mallory bob".to_owned()));
        let none = Header { id: "run-1".into(), ..Header::default() }.door_line("bob", None);
        assert_eq!(none, "[agent-mesh-door/1 from=bob claimed-id=run-1]");
        assert_eq!(Header::from_line(&none).unwrap().as_chain().visited, ["bob"]);
        assert_eq!(Header::split(&format!("{none}\nx\n\nm")).0, None, "no message begins with it");
    }

    /// A sender that hides its hops still names those it came through, or the other way round.
    #[test]
    fn of_hops_and_names_the_larger_one_counts() {
        let hops = |line: &str| Header::from_line(line).unwrap().as_chain().hops;
        assert_eq!(hops("[agent-mesh/1 from=c id=x hops=0 visited=a,b,c]"), 2);
        assert_eq!(hops("[agent-mesh/1 from=c id=x hops=7 visited=b,c]"), 7);
        assert_eq!(hops("[agent-mesh/1 from=c id=x]"), 0);
        assert_eq!(
            hops("[agent-mesh/1 from=c id=x visited=alice,dev-0123,bob,dev-4567]"),
            1,
            "two have two names"
        );
        for (id, hops, visited) in [("", "0", "a"), ("x", "-1", "a"), ("x", "0", ""), ("x", "0", "%")] {
            assert_eq!(Chain::from_values(id, hops, visited), None);
        }
    }

    #[test]
    fn who_is_known_by_another_name_than_he_claims_is_in_the_chain_by_both() {
        let visited = |from: &str, visited: &[&str], key: &str| {
            let visited = visited.iter().map(|name| (*name).to_owned()).collect();
            let header = Header { from: from.into(), id: "x".into(), visited, ..Header::default() };
            header.verified(key).as_chain().visited.join(" ")
        };
        assert_eq!(visited("alice", &[], "alice"), "alice");
        assert_eq!(visited("alice", &[], "dev-0123456789ab"), "alice dev-0123456789ab");
        assert_eq!(visited("", &[], "alice"), "alice", "without a header");
        assert_eq!(visited("carol", &["alice", "carol"], "carol"), "alice carol");
        assert_eq!(visited("carol", &["alice", "carol"], "dev-0123"), "alice carol dev-0123");
        assert_eq!(visited("carol", &["alice"], "bob"), "alice carol bob");
    }

    proptest! {
        #[test]
        fn any_value_survives(from in ".{1,20}", id in ".{1,20}", thread in proptest::option::of(".{0,20}"), hops: u32,
            visited in proptest::collection::vec(".{1,9}", 0..4), chain in proptest::option::of(".{0,20}"),
            via_shell in proptest::option::of(".{0,9}"), message in ".{0,80}") {
            let header = Header { from, id, thread, hops, visited, chain, via_shell };
            let wrapped = header.wrap(&message);
            prop_assert_eq!(Header::split(&wrapped), (Some(header), &*message));
        }
    }
}
