//! An invite: one line that lets one device ask one gateway to be let in, without the gateway's token.
//!
//! It is `amesh1.` and, in base64url without padding, the JSON of an OpenClaw setup code with what we add to it. Those
//! codes themselves are read, too; they say nothing of who sent them.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use openclaw_client::protocol::methods::device::SetupCode;
use openclaw_client::{Endpoint, EndpointError, Fingerprint, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::record::To;
use crate::registry::{Agent, check_device_id};

mod asked;
pub(crate) mod proof;
mod sent;

pub(crate) use asked::Asked;
use proof::Proof;
pub use sent::SentError;
pub(crate) use sent::{Guests, SentInvites, Standing};

/// How ours begin. The number counts the shapes that older programs cannot read.
const PREFIX: &str = "amesh1.";
/// How any of ours begins.
const FAMILY: &str = "amesh";
/// How OpenClaw's codes begin where they are links.
const LINK: &str = "oc-pair://";
/// Longest invite, in characters; a real one has about 450.
const MAX_CHARS: usize = 8 * 1024;

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Who sent it; nobody says so in a setup code of OpenClaw's.
    pub from: Option<To>,
    /// Where their gateway is.
    pub url: Endpoint,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The certificate the gateway shows.
    pub pin: Option<Fingerprint>,
    /// The gateway's own name for itself, 64 hex digits.
    pub gateway_id: Option<String>,
    /// What the gateway is shown.
    pub(crate) code: Secret,
    /// What the sender's agent-mesh knows us by.
    pub(crate) proof: Option<Proof>,
}

/// Why a text is no invite. It never repeats the text, which is a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Something else was pasted.
    #[error("this is no invite")]
    NotAnInvite,
    /// It is one of ours, in a shape that is not known yet.
    #[error("this invite was made by a newer agent-mesh")]
    TooNew,
    /// It is one, but not whole.
    #[error("this invite is damaged: {0}")]
    Damaged(&'static str),
    /// It leads nowhere.
    #[error("the address in this invite cannot be dialled")]
    Url(#[source] EndpointError),
}

/// What ours hold.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(flatten)]
    code: SetupCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    email_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway_id: Option<String>,
}

/// What `openclaw qr --json` prints around its code.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    setup_code: Zeroizing<String>,
}

/// Reads what a gateway made.
pub(crate) fn decode_setup_code(code: &str) -> Result<SetupCode, InviteError> {
    let bytes = URL_SAFE_NO_PAD.decode(code).map(Zeroizing::new).map_err(|_| InviteError::NotAnInvite)?;
    serde_json::from_slice(&bytes).map_err(|_| InviteError::NotAnInvite)
}

impl Invite {
    /// Reads an invite, or a setup code of OpenClaw's: bare, as a link, or as `openclaw qr --json` prints it. White space
    /// that a mail program or a terminal put into it does not matter.
    ///
    /// # Errors
    /// [`InviteError`] when it is neither, or damaged.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        if text.len() > MAX_CHARS {
            return Err(InviteError::NotAnInvite);
        }
        if let Ok(printed) = serde_json::from_str::<Printed>(text) {
            return Self::parse_line(&printed.setup_code);
        }
        Self::parse_line(&Zeroizing::new(text.split_whitespace().collect::<String>()))
    }

    fn parse_line(line: &str) -> Result<Self, InviteError> {
        let body = match line.strip_prefix(PREFIX) {
            Some(body) => body,
            None if line.starts_with(FAMILY) && line.contains('.') => return Err(InviteError::TooNew),
            None => line.strip_prefix(LINK).unwrap_or(line),
        };
        let ours = body.len() != line.len() && !line.starts_with(LINK);
        let bytes = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new);
        let wire = bytes.ok().and_then(|bytes| serde_json::from_slice::<Wire>(&bytes).ok());
        match wire {
            Some(wire) => wire.read(ours),
            None if ours => Err(InviteError::Damaged("a part of it is missing or was changed")),
            None => Err(InviteError::NotAnInvite),
        }
    }

    /// The line to give away.
    #[must_use]
    pub fn to_line(&self) -> Secret {
        let wire = Wire {
            code: SetupCode {
                url: self.url.to_string(),
                bootstrap_token: self.code.expose().to_owned(),
                expires_at_ms: self.expires_at.map(Timestamp::as_millisecond),
                tls_fingerprint: self.pin.map(|pin| pin.to_string()),
            },
            name: self.from.as_ref().map(|from| from.name.clone()),
            email_prefix: self.from.as_ref().map(|from| from.email_prefix.clone()),
            proof: self.proof.as_ref().map(|proof| Zeroizing::new(proof.expose().to_owned())),
            gateway_id: self.gateway_id.clone(),
        };
        // Maps with text keys and no floats: this cannot fail.
        let json = Zeroizing::new(serde_json::to_vec(&wire).unwrap_or_default());
        Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&json)))
    }
}

impl Wire {
    fn read(self, ours: bool) -> Result<Invite, InviteError> {
        use InviteError::Damaged;
        let from = match (self.name, self.email_prefix) {
            (Some(name), Some(email_prefix)) => {
                Agent::new(&name, &email_prefix).check().map_err(|_| Damaged("its sender has no name"))?;
                Some(To { name, email_prefix })
            }
            _ if ours => return Err(Damaged("it does not say who sent it")),
            _ => None,
        };
        let code = self.code.bootstrap_token;
        if code.is_empty() || code.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Damaged("it holds no code"));
        }
        let pin = self.code.tls_fingerprint.as_deref().map(str::parse).transpose();
        let expires_at = self.code.expires_at_ms.map(Timestamp::from_millisecond).transpose();
        self.gateway_id.as_deref().map_or(Ok(()), check_device_id).map_err(|_| Damaged("gatewayId"))?;
        Ok(Invite {
            from,
            url: self.code.url.parse().map_err(InviteError::Url)?,
            expires_at: expires_at.map_err(|_| Damaged("expiresAtMs"))?,
            pin: pin.map_err(|_| Damaged("tlsFingerprint"))?,
            gateway_id: self.gateway_id,
            code: Secret::new(code),
            proof: self.proof.map(|text| Proof::read(&text).ok_or(Damaged("proof"))).transpose()?,
        })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            from: Some(To { name: "Bob".into(), email_prefix: "bob".into() }),
            url: "wss://10.0.0.11:18789".parse().unwrap(),
            expires_at: Some("2026-11-23T10:00:00Z".parse().unwrap()),
            pin: Some("ab".repeat(32).parse().unwrap()),
            gateway_id: Some("cd".repeat(32)),
            code: Secret::new("hunter2-hunter2".into()),
            proof: Some(Proof::generate().unwrap()),
        }
    }

    fn line(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    #[test]
    fn an_invite_survives_the_way_even_if_it_was_wrapped() {
        let sent = invite();
        let line = sent.to_line();
        let line = line.expose();
        assert!(line.starts_with("amesh1."));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        assert!(line.chars().all(plain), "nothing that a shell or a mail program would change: {line}");
        assert_eq!(Invite::parse(line), Ok(sent.clone()));
        let wrapped = format!("  {}\r\n{}\n", &line[..76], &line[76..]);
        assert_eq!(Invite::parse(&wrapped), Ok(sent.clone()));
        let bare = Invite { expires_at: None, pin: None, gateway_id: None, proof: None, ..sent };
        assert_eq!(Invite::parse(bare.to_line().expose()), Ok(bare));
    }

    #[test]
    fn a_setup_code_of_openclaw_is_an_invite_from_nobody() {
        let code = line(r#"{"url":"ws://10.0.0.11:18789","bootstrapToken":"b","expiresAtMs":1795349077855}"#);
        let printed =
            format!(r#"{{"setupCode":"{code}","gatewayUrl":"ws://10.0.0.11:18789","auth":"token"}}"#);
        for text in [code.clone(), format!("oc-pair://{code}"), printed] {
            let invite = Invite::parse(&text).unwrap();
            assert_eq!((invite.from, invite.proof), (None, None), "{text}");
            assert_eq!((invite.url.to_string(), invite.code.expose()), ("ws://10.0.0.11:18789".into(), "b"));
            assert_eq!(invite.expires_at.unwrap().as_millisecond(), 1_795_349_077_855);
        }
    }

    #[test]
    fn what_is_no_invite_says_so_and_is_not_repeated() {
        use InviteError::{Damaged, NotAnInvite, TooNew, Url};
        let ours = |json: &str| format!("amesh1.{}", line(json));
        let whole = invite().to_line();
        let cut = whole.expose()[..whole.expose().len() - 20].to_owned();
        let cases = [
            ("", NotAnInvite),
            ("hello", NotAnInvite),
            ("https://example.com", NotAnInvite),
            ("amesh2.abc", TooNew),
            (&cut, Damaged("a part of it is missing or was changed")),
            (&ours("{}"), Damaged("a part of it is missing or was changed")),
            (&ours(r#"{"url":"ws://b","bootstrapToken":"hunter2"}"#), Damaged("it does not say who sent it")),
            (&line(r#"{"url":"ws://b","bootstrapToken":""}"#), Damaged("it holds no code")),
            (
                &line(r#"{"url":"ws://b","bootstrapToken":"b","tlsFingerprint":"x"}"#),
                Damaged("tlsFingerprint"),
            ),
            (
                &line(r#"{"url":"http://hunter2","bootstrapToken":"b"}"#),
                Url(EndpointError::Scheme("ws:// or wss://")),
            ),
            (
                &ours(r#"{"url":"ws://b","bootstrapToken":"b","name":"Bob","emailPrefix":"b@x"}"#),
                Damaged("its sender has no name"),
            ),
        ];
        for (text, expected) in cases {
            let error = Invite::parse(text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert_eq!(Invite::parse(&"a".repeat(MAX_CHARS + 1)), Err(NotAnInvite));
        assert!(!format!("{:?}", invite()).contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn parse_never_panics(text in ".{0,200}", body in "[A-Za-z0-9_-]{0,200}") {
            let _ = Invite::parse(&text);
            let _ = Invite::parse(&format!("amesh1.{body}"));
            let _ = Invite::parse(&line(&text));
        }
    }
}
