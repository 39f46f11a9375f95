//! How the sender of an invite knows the device that redeemed it, though the gateway does not say which code a request
//! was made with: the device puts a proof into its name, which only who has the invite can make, and only for itself.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use zeroize::Zeroizing;

/// So many random bytes.
const BYTES: usize = 32;
/// What the proof is about, so that it means nothing anywhere else.
const ABOUT: &str = "agent-mesh invite 1: ";
/// Between a device's name and its proof.
const MARK: &str = " invite:";

/// A secret of an invite that never goes to a gateway.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proof(Zeroizing<String>);

impl Proof {
    /// A fresh one.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes))))
    }

    /// One that was written down; none if it cannot be one.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        (bytes.len() == BYTES).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret, for the invite and for our own memory of it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// A device's name with the proof that it has the invite.
    pub(crate) fn sign(&self, name: &str, device_id: &str) -> String {
        let tag = hmac::sign(&self.key(), about(device_id).as_bytes());
        format!("{name}{MARK}{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whether this device has the invite, in constant time.
    pub(crate) fn holds(&self, name: &str, device_id: &str) -> bool {
        let tag = name.rsplit_once(MARK).and_then(|(_, tag)| URL_SAFE_NO_PAD.decode(tag).ok());
        tag.is_some_and(|tag| hmac::verify(&self.key(), about(device_id).as_bytes(), &tag).is_ok())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(redacted)")
    }
}

fn about(device_id: &str) -> String {
    format!("{ABOUT}{device_id}")
}

/// A device's name as people want to read it.
pub(crate) fn plain_name(name: &str) -> &str {
    name.rsplit_once(MARK).map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_invite_can_prove_it_and_only_for_one_device() {
        let (proof, other) = (Proof::generate().unwrap(), Proof::generate().unwrap());
        let name = proof.sign("agent-mesh:alice (56475aa7)", "alice's device");
        assert!(proof.holds(&name, "alice's device"));
        assert!(!proof.holds(&name, "mallory's device"), "a name that was overheard is of no use to another");
        assert!(!other.holds(&name, "alice's device"));
        for name in ["", "agent-mesh:alice", "x invite:", "x invite:AAAA", "x invite:\u{e9}"] {
            assert!(!proof.holds(name, "alice's device"), "{name}");
        }
        assert_eq!(plain_name(&name), "agent-mesh:alice (56475aa7)");
        assert!(name.chars().count() < 128, "{name}");
    }

    #[test]
    fn a_proof_survives_being_written_down_and_is_not_shown() {
        let proof = Proof::generate().unwrap();
        assert_eq!(Proof::read(proof.expose()), Some(proof.clone()));
        assert!(!format!("{proof:?}").contains(proof.expose()));
        for bad in ["", "AAAA", &"A".repeat(44), &"é".repeat(43)] {
            assert_eq!(Proof::read(bad), None, "{bad}");
        }
    }
}
