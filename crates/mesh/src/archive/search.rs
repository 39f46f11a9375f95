//! Text as the full-text index sees it.
//!
//! SQLite splits words at spaces, and Chinese, Japanese and Korean have none: there every character becomes a word of
//! its own, in the index and in the query, where neighbours must stand together. So `构建` is found inside `请看构建结果`.

use std::borrow::Cow;

use rusqlite::{Connection, params};

/// A text for the index.
pub(super) fn words(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    for c in text.chars() {
        if stands_alone(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A user's words as a query: each must occur, in any order. Nothing a user types is taken for query syntax.
pub(super) fn query(text: &str) -> String {
    let quoted = text.split_whitespace().map(|word| {
        let phrase = words(word).replace('"', "\"\"");
        // The last piece of a Latin word may be its beginning only: `depl` finds `deployment`.
        let last = word.chars().next_back();
        let open_end = if last.is_some_and(|c| c.is_alphanumeric() && !stands_alone(c)) { "*" } else { "" };
        format!("\"{}\"{open_end}", phrase.trim())
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Which of these texts a query fits, as it would in the index.
pub(super) fn fitting(
    texts: impl Iterator<Item = Result<(i64, String), rusqlite::Error>>,
    query: &str,
) -> Result<Vec<i64>, rusqlite::Error> {
    let mut texts = texts.peekable();
    if texts.peek().is_none() {
        return Ok(Vec::new());
    }
    let index = Connection::open_in_memory()?;
    // In one transaction: it writes down what it has collected at the end of each.
    index.execute_batch("BEGIN; CREATE VIRTUAL TABLE search USING fts5 (words, content = '')")?;
    let mut insert = index.prepare("INSERT INTO search (rowid, words) VALUES (?1, ?2)")?;
    for text in texts {
        let (seq, text) = text?;
        insert.execute(params![seq, words(&text)])?;
    }
    let mut fit = index.prepare("SELECT rowid FROM search WHERE search MATCH ?1")?;
    fit.query_map([query], |row| row.get(0))?.collect()
}

/// Han, kana, hangul, and what else is written without spaces.
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x2e80..=0x2fdf | 0x3005..=0x3007 | 0x3040..=0x30ff
        | 0x3100..=0x31ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xac00..=0xd7af | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_without_spaces_become_words() {
        assert_eq!(words("请ok看").split_whitespace().collect::<Vec<_>>(), ["请", "ok", "看"]);
    }

    #[test]
    fn no_query_syntax_gets_through() {
        assert_eq!(query("a OR \"b"), "\"a\"* \"OR\"* \"\"\"b\"*");
        assert_eq!(query("构建 NEAR("), "\"构  建\" \"NEAR(\"");
    }
}
