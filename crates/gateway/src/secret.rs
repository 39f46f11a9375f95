//! The kinds of token: the owner's shared one and those issued to peers, of which only hashes are kept, and one for each
//! device.

use std::fmt;
use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The token that makes a loopback client the owner. Only its SHA-256 is kept.
#[derive(Clone)]
pub struct SharedToken([u8; 32]);

/// The shortest shared token, in characters.
const MIN_CHARS: usize = 16;

/// The text given as the shared token is so short that it could be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared token is shorter than {MIN_CHARS} characters")]
pub struct ShortToken;

impl SharedToken {
    /// Takes the hash of a token.
    ///
    /// # Errors
    /// When it has fewer than 16 characters.
    pub fn new(token: &str) -> Result<Self, ShortToken> {
        if token.chars().count() < MIN_CHARS { Err(ShortToken) } else { Ok(Self(sha256(token.as_bytes()))) }
    }

    /// Whether this is the token, in constant time.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        same(&self.0, &sha256(token.as_bytes()))
    }
}

impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedToken(redacted)")
    }
}

/// The SHA-256 of a token that was issued to a peer, as `policy.toml` has it: `sha256:` and 64 hex digits. Unsalted,
/// because such a token is 256 random bits: nobody has a table of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// The text is no hash of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not sha256: and 64 hex digits")]
pub struct NoTokenHash;

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(sha256(token.as_bytes()))
    }

    /// Whether they are the same, in constant time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenHash {
    type Err = NoTokenHash;

    fn from_str(text: &str) -> Result<Self, NoTokenHash> {
        let digits = text.strip_prefix("sha256:").ok_or(NoTokenHash)?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoTokenHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoTokenHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoTokenHash)?;
        }
        Ok(Self(hash))
    }
}

/// A token issued to one device, or a one-time code: 43 characters of base64url, wiped when dropped.
#[derive(Clone)]
pub(crate) struct DeviceToken(Zeroizing<String>);

impl DeviceToken {
    /// A fresh one from the system's randomness; none when that fails.
    pub(crate) fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).ok()?;
        Some(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes))))
    }

    /// Whether this is the token, in constant time.
    pub(crate) fn is(&self, token: &str) -> bool {
        same(&sha256(self.0.as_bytes()), &sha256(token.as_bytes()))
    }

    /// The token itself; for the hello to its device and for the store, nowhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// For a token that comes from the store.
    pub(crate) fn from_store(token: String) -> Self {
        Self(Zeroizing::new(token))
    }
}

impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceToken(redacted)")
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Whether a text has this SHA-256, in constant time.
pub(crate) fn is_sha256_of(hash: &[u8; 32], text: &str) -> bool {
    same(hash, &sha256(text.as_bytes()))
}

/// Compares hashes without stopping at the first difference.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |so_far, (x, y)| so_far | (x ^ y));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_only() {
        let token = SharedToken::new("hunter2-hunter2-").unwrap();
        assert!(token.is("hunter2-hunter2-") && !token.is("hunter2-hunter3-") && !token.is(""));
        for short in ["", "hunter2", "hunter2-hunter2"] {
            assert_eq!(SharedToken::new(short).unwrap_err(), ShortToken, "{short}");
        }
    }

    #[test]
    fn a_token_hash_is_written_and_read() {
        let hash = TokenHash::of("a token");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let signed = format!("sha256:{}", "+f".repeat(32));
        for bad in ["", "sha256:", "sha256:ab", &hash.to_string()[7..], &signed] {
            assert_eq!(bad.parse::<TokenHash>(), Err(NoTokenHash), "{bad}");
        }
    }

    #[test]
    fn device_tokens_are_long_and_differ() {
        let (a, b) = (DeviceToken::generate().unwrap(), DeviceToken::generate().unwrap());
        assert_eq!(a.expose().len(), 43);
        assert!(a.is(a.expose()) && !a.is(b.expose()));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert!(!format!("{:?}", DeviceToken::from_store("hunter2".into())).contains("hunter2"));
    }
}
