//! One-time codes: a device that shows one may ask to be let in, without the owner's token.

use std::time::Duration;

use tokio::time::Instant;

use crate::pairing::Now;
use crate::secret::{DeviceToken, is_sha256_of, sha256};

/// How long a code is good for, as at the real gateway.
const LIFE: Duration = Duration::from_secs(600);
/// What a client with a limited code may ask for, as at the real gateway.
const SCOPES: [&str; 5] =
    ["operator.approvals", "operator.questions", "operator.read", "operator.talk.secrets", "operator.write"];

/// The codes that are good now. In memory only, and only their hashes: a restart ends them.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    live: Vec<Code>,
    max: usize,
}

#[derive(Debug)]
struct Code {
    hash: [u8; 32],
    /// The first device that showed it: nobody else can use it from then on.
    device: Option<String>,
    expires: Instant,
}

/// A fresh code.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) token: DeviceToken,
    /// Milliseconds since the epoch.
    pub(crate) expires_at_ms: i64,
}

/// Why there is no fresh code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotMinted {
    /// Too many are good already.
    Full,
    /// The system gives no randomness.
    NoRandomness,
}

impl Codes {
    /// At most so many at a time.
    pub(crate) fn new(max: usize) -> Self {
        Self { live: Vec::new(), max }
    }

    /// Makes a code.
    pub(crate) fn mint(&mut self, now: Now) -> Result<Minted, NotMinted> {
        self.live.retain(|code| code.expires > now.at);
        if self.live.len() >= self.max {
            return Err(NotMinted::Full);
        }
        let token = DeviceToken::generate().ok_or(NotMinted::NoRandomness)?;
        let hash = sha256(token.expose().as_bytes());
        self.live.push(Code { hash, device: None, expires: now.at + LIFE });
        let life = i64::try_from(LIFE.as_millis()).unwrap_or(i64::MAX);
        Ok(Minted { token, expires_at_ms: now.ms.saturating_add(life) })
    }

    /// Whether this device may ask for these scopes with this code; the first that may is the only one from then on.
    pub(crate) fn redeem(&mut self, token: &str, device: &str, scopes: &[String], now: Now) -> bool {
        self.live.retain(|code| code.expires > now.at);
        let fits = !scopes.is_empty() && scopes.iter().all(|scope| SCOPES.contains(&scope.as_str()));
        let found = self.live.iter_mut().find(|code| is_sha256_of(&code.hash, token));
        match found {
            Some(code) if fits => code.device.get_or_insert_with(|| device.to_owned()) == device,
            _ => false,
        }
    }

    /// A device that was removed needs a new code.
    pub(crate) fn forget(&mut self, device: &str) {
        self.live.retain(|code| code.device.as_deref() != Some(device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now { ms: 1_000, at: Instant::now() }
    }

    fn scopes(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_code_belongs_to_the_first_device_that_may_use_it() {
        let (mut codes, start, rw) = (Codes::new(2), now(), scopes(&["operator.read", "operator.write"]));
        let minted = codes.mint(start).unwrap();
        assert_eq!(minted.expires_at_ms, 601_000);
        let token = minted.token.expose();
        for wrong in [&[][..], &["operator.admin"], &["operator.write", "operator.pairing"]] {
            assert!(!codes.redeem(token, "mallory", &scopes(wrong), start), "{wrong:?} does not bind it");
        }
        assert!(!codes.redeem("another", "mallory", &rw, start));
        assert!(codes.redeem(token, "alice", &rw, start));
        assert!(!codes.redeem(token, "mallory", &rw, start));
        assert!(codes.redeem(token, "alice", &rw, start), "again, to fetch what the approval brings");
        codes.forget("alice");
        assert!(!codes.redeem(token, "alice", &rw, start), "a removed device needs a new one");
    }

    #[test]
    fn codes_end_and_are_few() {
        let (mut codes, start, rw) = (Codes::new(2), now(), scopes(&["operator.write"]));
        let token = codes.mint(start).unwrap().token;
        codes.mint(start).unwrap();
        assert_eq!(codes.mint(start).unwrap_err(), NotMinted::Full);
        let later = Now { at: start.at + LIFE, ..start };
        assert!(!codes.redeem(token.expose(), "alice", &rw, later));
        assert!(codes.mint(later).is_ok(), "those that ended make room");
    }
}
