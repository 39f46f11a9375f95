//! A command line taken apart without a shell: blanks part words, quotes keep them together. Nothing is expanded.

/// Why a command line cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// A quote is not closed.
    #[error("a quote is not closed")]
    Open,
    /// It ends in a backslash.
    #[error("it ends in a backslash")]
    Backslash,
}

/// The words. Within '…' nothing is special, within "…" a backslash keeps `"` and `\`, elsewhere whatever follows it.
pub(super) fn split(text: &str) -> Result<Vec<String>, QuoteError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => single(&mut chars, word.get_or_insert_default())?,
            '"' => double(&mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(QuoteError::Backslash)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), QuoteError> {
    loop {
        match chars.next().ok_or(QuoteError::Open)? {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
}

fn double(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), QuoteError> {
    loop {
        match chars.next().ok_or(QuoteError::Open)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(QuoteError::Open)? {
                c @ ('"' | '\\') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would_but_nothing_is_expanded() {
        for (text, expected) in [
            ("a b  c", Ok(vec!["a", "b", "c"])),
            ("", Ok(vec![])),
            (r#"a 'b c' "d e""#, Ok(vec!["a", "b c", "d e"])),
            (r#"a'b'"c""#, Ok(vec!["abc"])),
            ("a ''", Ok(vec!["a", ""])),
            (r#""a\"b\\c\n""#, Ok(vec![r#"a"b\c\n"#])),
            (r"a\ b 'c\d'", Ok(vec!["a b", r"c\d"])),
            ("$HOME `id` *; rm | x", Ok(vec!["$HOME", "`id`", "*;", "rm", "|", "x"])),
            ("'a", Err(QuoteError::Open)),
            ("\"a\\", Err(QuoteError::Open)),
            ("a\\", Err(QuoteError::Backslash)),
        ] {
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect());
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
