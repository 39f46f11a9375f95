//! Server-sent events, as the WHATWG defines them: bytes in, in any pieces; the data of whole events out.

/// An event is larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is too large")]
pub struct TooLong;

/// A stream of events, as far as it has come.
#[derive(Debug)]
pub struct Events {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte ended a line as CR: an LF right behind it belongs to it.
    after_cr: bool,
    /// A byte order mark may stand at the very beginning.
    begun: bool,
    max: usize,
}

impl Events {
    /// A stream whose events have at most so many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { line: Vec::new(), data: None, after_cr: false, begun: false, max }
    }

    /// Takes the next bytes; gives the data of the events that they complete.
    ///
    /// # Errors
    /// When an event has more bytes than it may.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut complete = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    complete.extend(self.end_line());
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > self.max {
                return Err(TooLong);
            }
        }
        Ok(complete)
    }

    /// The event that stands unfinished where the stream ends. The WHATWG drops it; servers that leave out the last
    /// blank line mean it.
    #[must_use]
    pub fn end(mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.data
    }

    fn end_line(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut line = &*text;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.data.take();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        // A line that begins with a colon is a comment: its field has no name. `event`, `id` and `retry` say nothing
        // that we want to know.
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8]) -> Vec<String> {
        let mut events = Events::new(1000);
        let mut all = events.feed(text).unwrap();
        all.extend(events.end());
        all
    }

    #[test]
    fn every_spelling_of_an_event_is_read() {
        for (stream, expected) in [
            ("data: a\n\ndata: b\n\n", &["a", "b"][..]),
            ("data:a\r\n\r\ndata:  b\r\r", &["a", " b"]),
            (": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: a\n\n", &["a"]),
            ("event: message\nid: 7\nretry: 10\ndata: a\ndata: b\n\n", &["a\nb"]),
            ("\u{feff}data: a\n\n\n\n", &["a"]),
            ("data\n\ndatax: no\nfoo\n\n", &[""]),
            ("data: a\n\ndata: the last blank line is missing", &["a", "the last blank line is missing"]),
            ("data: 戴泽\n\n", &["戴泽"]),
        ] {
            assert_eq!(all(stream.as_bytes()), expected, "{stream:?}");
        }
        assert!(all(b"").is_empty());
    }

    #[test]
    fn an_event_without_an_end_is_not_collected_for_ever() {
        let mut events = Events::new(100);
        assert_eq!(events.feed(&[b'x'; 101]), Err(TooLong));
        let mut events = Events::new(100);
        let endless = b"data: 0123456789\n".repeat(20);
        assert_eq!(events.feed(&endless), Err(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_makes_no_difference(
            parts in proptest::collection::vec("(data: ?|: ?|event:)?[a-z戴é]{0,5}(\n|\r\n|\r|\n\n|\r\n\r\n)", 0..12),
            cuts in proptest::collection::vec(0..200_usize, 0..8),
        ) {
            let stream = parts.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            let mut events = Events::new(10_000);
            let mut got = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                got.extend(events.feed(&stream[from..cut]).unwrap());
                from = cut;
            }
            got.extend(events.end());
            let mut whole = Events::new(10_000);
            let mut expected = whole.feed(&stream).unwrap();
            expected.extend(whole.end());
            prop_assert_eq!(got, expected);
        }
    }
}
