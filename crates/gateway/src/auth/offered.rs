//! The credential of a connect, and what is wrong with one that proved nothing.

use openclaw_protocol::ErrorShape;
use openclaw_protocol::connect::Auth;

use super::words::{
    bootstrap_invalid, device_identity_required, device_token_mismatch, token_mismatch, token_missing,
};
use crate::lockout::Kind;

/// The credential of a connect; empty texts count as absent.
#[derive(Debug)]
pub(super) struct Offered<'a> {
    pub(super) shared: Option<&'a str>,
    pub(super) device: Option<&'a str>,
    pub(super) bootstrap: Option<&'a str>,
}

impl<'a> Offered<'a> {
    pub(super) fn new(auth: Option<&'a Auth>) -> Self {
        let given = |pick: fn(&'a Auth) -> &'a Option<String>| {
            auth.and_then(|auth| pick(auth).as_deref()).filter(|text| !text.is_empty())
        };
        Self {
            shared: given(|auth| &auth.token).or_else(|| given(|auth| &auth.password)),
            device: given(|auth| &auth.device_token),
            bootstrap: given(|auth| &auth.bootstrap_token),
        }
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        let kinds =
            [(self.shared, Kind::Shared), (self.device, Kind::Device), (self.bootstrap, Kind::Bootstrap)];
        kinds.into_iter().find(|(text, _)| text.is_some()).map(|(_, kind)| kind)
    }

    /// Why a credential that proved nothing is refused.
    pub(super) fn wrong(&self, has_device: bool) -> Wrong {
        match (self.kind(), has_device) {
            (Some(Kind::Shared), _) => Wrong::counted(token_mismatch(has_device)),
            (Some(Kind::Device), true) => Wrong::counted(device_token_mismatch()),
            (Some(Kind::Bootstrap), true) => Wrong::counted(bootstrap_invalid()),
            (None, true) => Wrong::free(token_missing()),
            (_, false) => Wrong::free(device_identity_required()),
        }
    }
}

/// A refused credential, and whether it counts towards the lockout: only a guess does.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) error: ErrorShape,
    pub(super) counts: bool,
}

impl Wrong {
    pub(super) fn counted(error: ErrorShape) -> Self {
        Self { error, counts: true }
    }

    fn free(error: ErrorShape) -> Self {
        Self { error, counts: false }
    }
}
