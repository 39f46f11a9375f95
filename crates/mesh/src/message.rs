//! What may be sent as a message: something, but not too much of it.

/// How large a message may be, in bytes of UTF-8, without the attribution header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    soft: usize,
    hard: usize,
}

impl Limits {
    /// Limits that warn above `soft` bytes and refuse above `hard`.
    ///
    /// # Errors
    /// [`MessageError::LimitsReversed`] when `soft` is above `hard`: the warning could never be seen.
    pub fn new(soft: usize, hard: usize) -> Result<Self, MessageError> {
        if soft > hard { Err(MessageError::LimitsReversed { soft, hard }) } else { Ok(Self { soft, hard }) }
    }

    /// The size in bytes above which there is a warning.
    pub fn soft(self) -> usize {
        self.soft
    }

    /// The size in bytes above which a message is refused.
    pub fn hard(self) -> usize {
        self.hard
    }
}

impl Default for Limits {
    /// The bash skill's: 4096 and 8192.
    fn default() -> Self {
        Self { soft: 4096, hard: 8192 }
    }
}

/// What there is to say about the size of a message that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeNote {
    /// Nothing.
    Ok,
    /// It is above the soft limit.
    OverSoft {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        soft: usize,
    },
}

/// Why a message cannot be sent, or why the limits make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Empty, or nothing but white space.
    #[error("the message is empty")]
    Empty,
    /// It holds a NUL byte, which neither an argument list nor a terminal can carry.
    #[error("the message has a NUL byte at position {at}")]
    Nul {
        /// Offset in bytes from the start.
        at: usize,
    },
    /// Above the hard limit.
    #[error("the message has {bytes} bytes, the limit is {hard}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        hard: usize,
    },
    /// The soft limit is above the hard one.
    #[error("the soft limit ({soft} bytes) is above the hard limit ({hard} bytes)")]
    LimitsReversed {
        /// The soft limit in bytes.
        soft: usize,
        /// The hard limit in bytes.
        hard: usize,
    },
}

/// Checks a message before anything is done with it.
///
/// # Errors
/// [`MessageError`] when it is empty, holds a NUL byte or is above the hard limit.
pub fn check(text: &str, limits: Limits) -> Result<SizeNote, MessageError> {
    if text.trim().is_empty() {
        return Err(MessageError::Empty);
    }
    if let Some(at) = text.find('\0') {
        return Err(MessageError::Nul { at });
    }
    match text.len() {
        bytes if bytes > limits.hard => Err(MessageError::TooLarge { bytes, hard: limits.hard }),
        bytes if bytes > limits.soft => Ok(SizeNote::OverSoft { bytes, soft: limits.soft }),
        _ => Ok(SizeNote::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_of_utf8() {
        let limits = Limits::new(4, 6).unwrap();
        for (text, expected) in [
            ("1234", Ok(SizeNote::Ok)),
            ("12345", Ok(SizeNote::OverSoft { bytes: 5, soft: 4 })),
            ("戴泽", Ok(SizeNote::OverSoft { bytes: 6, soft: 4 })),
            ("戴泽!", Err(MessageError::TooLarge { bytes: 7, hard: 6 })),
            ("🦀", Ok(SizeNote::Ok)),
        ] {
            assert_eq!(check(text, limits), expected, "{text}");
        }
    }

    #[test]
    fn empty_blank_and_nul_are_refused() {
        for (text, expected) in [
            ("", MessageError::Empty),
            (" \n\t\u{3000}", MessageError::Empty),
            ("a\0b", MessageError::Nul { at: 1 }),
            ("\0", MessageError::Nul { at: 0 }),
        ] {
            assert_eq!(check(text, Limits::default()), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn soft_above_hard_is_an_error() {
        assert_eq!(Limits::new(10, 9), Err(MessageError::LimitsReversed { soft: 10, hard: 9 }));
        assert!(Limits::new(9, 9).is_ok());
        assert_eq!(Limits::default(), Limits::new(4096, 8192).unwrap());
    }
}
