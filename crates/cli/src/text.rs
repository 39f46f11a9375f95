//! Text from elsewhere, made harmless for a terminal.

use std::fmt::Write as _;

/// A text in which nothing can move the cursor, change the title or reorder what is shown. Line breaks and tabs stay.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\r' && chars.peek() == Some(&'\n') {
            // A line break as Windows writes it; alone, it would let a line be overwritten.
            continue;
        }
        if is_harmless(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
    out
}

/// The same on one line: for tables and messages.
pub fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

/// The beginning of it, on one line of so many characters at most.
pub fn shortened(text: &str, length: usize) -> String {
    let line = one_line(text);
    match line.char_indices().nth(length) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

fn is_harmless(c: char) -> bool {
    matches!(c, '\n' | '\t') || !drives_terminal(c)
}

/// Control characters (C0, DEL, C1) and those that reorder or hide text.
pub fn drives_terminal(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// JSON that no terminal is driven by: such characters are `\u`-escaped, without loss.
pub fn to_json(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut out, Escaping);
    // Writing a `Value` into memory cannot fail; an empty document would show if it did.
    let _ = serde::Serialize::serialize(value, &mut writer);
    String::from_utf8(out).unwrap_or_default()
}

struct Escaping;

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| drives_terminal(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_peer_drives_the_terminal() {
        let hostile = "a\u{1b}[2J\u{7}\u{202e}b\r\u{9b}31m\u{7f}\u{2066}\u{e0041}";
        let shown = visible(hostile);
        assert!(!shown.chars().any(|c| c != '\n' && c != '\t' && drives_terminal(c)), "{shown}");
        assert!(shown.starts_with("a\\u{1b}[2J\\u{7}\\u{202e}b\\u{d}"));
    }

    #[test]
    fn ordinary_text_of_any_script_is_untouched() {
        let text = "戴泽 🦀 e\u{301}\n\tline two ✓";
        assert_eq!(visible(text), text);
        assert_eq!(one_line("a\nb\tc"), "a b c");
    }

    #[test]
    fn json_keeps_every_character_and_shows_none_that_drives() {
        let text = "x\u{1b}\u{9b}\u{202e}\u{7f}\u{e0041}戴 \"q\"\n";
        let json = to_json(&serde_json::json!({ "t": text }));
        assert!(!json.chars().any(drives_terminal), "{json}");
        assert!(json.contains("\\u202e") && json.contains("\\udb40\\udc41"), "{json}");
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back["t"], text);
    }
}
