//! What can go wrong with an operation. Facts and causes only: what to do about it, the CLI says.

use std::path::PathBuf;

use openclaw_client::protocol::Fault;
use openclaw_client::{CallError, ConnectError};

use crate::archive::ArchiveError;
use crate::device::DeviceKeyError;
use crate::fallback::FallbackError;
use crate::guard::Refusal;
use crate::identity::IdentityError;
use crate::invite::{InviteError, SentError};
use crate::message::MessageError;
use crate::pins::{Mark, PinnedBy, PinsError};
use crate::private_file::PrivateFileError;
use crate::record::{State, To};
use crate::registry::{LookupError, RegistryError};
use crate::route::a2a::A2aError;
use crate::secrets::SecretsError;
use crate::sync::SyncError;

/// An operation that did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nobody, or more than one, is meant.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A source of our identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No source says who we are.
    #[error("who am I? No e-mail address was found")]
    IdentityUnknown {
        /// Where we looked.
        searched: Vec<String>,
    },
    /// The tokens cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The device key cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// What was given as an invite is none.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// Our memory of invites cannot be used.
    #[error(transparent)]
    SentInvites(#[from] SentError),
    /// What we know of gateways cannot be used.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A file of ours cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The message cannot be sent.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A guard refused it: nothing was sent.
    #[error(transparent)]
    Guard(#[from] Refusal),
    /// An option does not fit another, or the peer.
    #[error("{0}")]
    Usage(String),
    /// A folder without anything that could be taken over from it.
    #[error("{folder} holds neither a registry.json nor a tokens.json")]
    NothingToImport {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no certificate to know a gateway by.
    #[error("{endpoint} has no TLS, so there is no certificate to pin: use a wss:// url")]
    NoCertificate {
        /// Whose gateway.
        to: To,
        /// Where it is.
        endpoint: String,
    },
    /// A broadcast that nobody would get.
    #[error("no teammate fits")]
    Nobody,
    /// The teammate has no usable address.
    #[error("{} has no usable address: {reason}", to.name)]
    NoAddress {
        /// Who.
        to: To,
        /// What is wrong.
        reason: String,
    },
    /// The connection would be overheard.
    #[error("{endpoint} is not encrypted and not private")]
    PlainText {
        /// Where to.
        endpoint: String,
    },
    /// We hold no token for this peer.
    #[error("no token for {}", to.name)]
    NoCredential {
        /// For whom.
        to: To,
    },
    /// We asked this peer by an invite, and were not let in as long as we waited.
    #[error("{} was asked by an invite at {}, and had not let us in when we stopped waiting", to.name, at.strftime("%H:%M:%S UTC"))]
    Asked {
        /// Whom.
        to: To,
        /// When.
        at: jiff::Timestamp,
    },
    /// We filed a pairing request at this peer's gateway, and have no token of it yet.
    #[error("{}", filed(to, request_id, *at, denied.as_deref()))]
    Filed {
        /// Whom we asked.
        to: To,
        /// What they approve.
        request_id: String,
        /// When it was filed.
        at: jiff::Timestamp,
        /// The rule of their policy that kept us out since.
        denied: Option<String>,
    },
    /// Its gateway refused our credential before, in this run: it is not shown again, since ten failures lock an address
    /// out.
    #[error("{}'s gateway refused our credential before; it was not shown again", to.name)]
    RefusedBefore {
        /// Whose.
        to: To,
    },
    /// The peer's gateway cannot be reached, or does not let us in.
    #[error("{}: {source}", to.name)]
    Connect {
        /// Whose.
        to: To,
        /// What happened.
        #[source]
        source: Box<ConnectError>,
    },
    /// Another gateway answers than the one we know. Nothing was sent to it but, where only that could tell, what lets us in.
    #[error("{}'s gateway is not the one we know: its {mark} is {new}, and was {old}", to.name)]
    IdentityChanged {
        /// Whose.
        to: To,
        /// By what we know it.
        mark: Mark,
        /// What we know, 64 hex digits.
        old: String,
        /// What it shows.
        new: String,
        /// Who said what to expect.
        pinned_by: PinnedBy,
    },
    /// It let us in without the rights to send.
    #[error("{}'s gateway let us in without {missing}", to.name)]
    Scope {
        /// Whose.
        to: To,
        /// The missing scope.
        missing: String,
    },
    /// An A2A agent could not be asked, or gave no good answer.
    #[error("{}: {source}", to.name)]
    A2a {
        /// Whose.
        to: To,
        /// What happened.
        #[source]
        source: A2aError,
    },
    /// A request went wrong.
    #[error("{}: {source}", to.name)]
    Call {
        /// Whose gateway.
        to: To,
        /// What happened.
        #[source]
        source: CallError,
    },
    /// The peer's run failed.
    #[error("{}'s agent failed: {reason}", to.name)]
    RunFailed {
        /// Whose.
        to: To,
        /// The peer's words.
        reason: String,
    },
    /// The peer's run ended without a reply.
    #[error("{}'s agent gave no reply{}", to.name, if *merged { ": the message was merged into another turn" } else { "" })]
    NoReply {
        /// Whose.
        to: To,
        /// Whether it was queued or merged into somebody else's turn, as `chat.send` does.
        merged: bool,
    },
    /// The run was accepted, and we have no time left to wait for its reply.
    #[error("{} accepted the message, but gave no reply in time", to.name)]
    ReplyDeadline {
        /// Whose.
        to: To,
        /// The message id.
        id: String,
    },
    /// The run was confirmed, and the peer could not be reached all the time that we waited for its reply.
    #[error("{} accepted the message, but cannot be reached now", to.name)]
    Away {
        /// Who.
        to: To,
        /// The message id.
        id: String,
    },
    /// The peer's owner has to let it run, and has not done so in time.
    #[error("{} has to let the message run, and has not done so yet", to.name)]
    Held {
        /// Whose.
        to: To,
        /// The message id.
        id: String,
    },
    /// Whether the message was taken cannot be known.
    #[error("whether {} got the message is not known: {reason}", to.name)]
    Unknown {
        /// Whose.
        to: To,
        /// The message id.
        id: String,
        /// How it was lost.
        reason: String,
    },
    /// The peer's gateway is too old for this route.
    #[error("{}'s gateway speaks protocol {protocol}, which has no {route}", to.name)]
    TooOld {
        /// Whose.
        to: To,
        /// What it speaks.
        protocol: u32,
        /// What we wanted.
        route: &'static str,
    },
    /// The instant-message fallback failed as well.
    #[error("{} is unreachable, and the fallback failed", to.name)]
    Fallback {
        /// For whom.
        to: To,
        /// How the script failed.
        #[source]
        source: FallbackError,
    },
    /// The archive cannot be used; nothing was sent that is not in it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive knows no such message.
    #[error("there is no message {id}")]
    NoSuchMessage {
        /// What was asked for.
        id: String,
    },
    /// The id is another message's: nothing was sent again.
    #[error("the id {id} was used before{}", sent.as_ref().map(|(to, state)| format!(": the message to {} is {}", to.name, state.name())).unwrap_or_default())]
    IdInUse {
        /// The id.
        id: String,
        /// To whom the message went, and what became of it; none for one that came to us.
        sent: Option<(To, State)>,
    },
    /// The archive has not received such a message.
    #[error("no message {id} came in here")]
    NotReceived {
        /// What was asked for.
        id: String,
    },
    /// The message waited until it was stale, and was not sent.
    #[error("the message to {} waited too long and was not sent", to.name)]
    Expired {
        /// To whom.
        to: To,
        /// The message id.
        id: String,
    },
    /// The message is in the outbox still.
    #[error("the message to {} has not left yet", to.name)]
    StillQueued {
        /// To whom.
        to: To,
        /// The message id.
        id: String,
    },
    /// The outbox has nothing left to change about this message.
    #[error("message {id} is {}, not in the outbox's hands", state.name())]
    NotInOutbox {
        /// Which.
        id: String,
        /// What it is.
        state: State,
    },
    /// The message's life ended badly before.
    #[error("the message to {} ended: {reason}", to.name)]
    Ended {
        /// To whom.
        to: To,
        /// The message id.
        id: String,
        /// The sentence it ended with.
        reason: String,
    },
    /// Nothing was synced.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// No source has the token of our own gateway.
    #[error("the token of our own gateway was not found")]
    OwnTokenMissing {
        /// Where we looked.
        searched: Vec<String>,
    },
    /// OpenClaw's settings cannot be read.
    #[error("cannot use {path}: {reason}")]
    OpenClawSettings {
        /// The file.
        path: PathBuf,
        /// What is wrong; never a piece of the file.
        reason: String,
    },
    /// Our own gateway cannot be reached, or does not let us in.
    #[error("our own gateway {endpoint}: {source}")]
    OwnGateway {
        /// Where.
        endpoint: String,
        /// Where `agent-mesh serve` of this state folder listens, if that is elsewhere.
        elsewhere: Option<String>,
        /// What happened.
        #[source]
        source: Box<ConnectError>,
    },
    /// Our own agent did not answer.
    #[error("our own agent: {reason}")]
    OwnAgent {
        /// What it, or its gateway, says.
        reason: String,
    },
    /// Our own gateway refused.
    #[error("our own gateway: {source}")]
    OwnGatewayCall {
        /// What happened.
        #[source]
        source: CallError,
    },
    /// Our own gateway makes no one-time code.
    #[error("our own gateway makes no invite: {source}")]
    NotMinted {
        /// What it says.
        #[source]
        source: CallError,
    },
    /// The invite's time is over, by the clock of the gateway it is for.
    #[error("the invite of {} has ended", to.name)]
    InviteEnded {
        /// Whose.
        to: To,
    },
    /// The invite leads elsewhere than the registry.
    #[error("the registry has {} at {registry}, and the invite leads to {invite}", to.name)]
    InviteElsewhere {
        /// Whose invite.
        to: To,
        /// The address in the registry.
        registry: String,
        /// The address in the invite.
        invite: String,
    },
    /// The peer's gateway let us in and gave us nothing to come back with.
    #[error("{}'s gateway let us in, but gave us no token of our own", to.name)]
    NoDeviceToken {
        /// Whose.
        to: To,
    },
    /// The token that the peer's gateway gave us is for a device key that we no longer have.
    #[error("our token for {} belongs to a device key that is not ours any more", to.name)]
    TokenOfAnotherDevice {
        /// Whose.
        to: To,
    },
    /// No held message fits what was named.
    #[error("{what}")]
    NotHeld {
        /// What was looked for.
        what: String,
    },
    /// No pairing fits what was named.
    #[error("{what}")]
    NoSuchPairing {
        /// What was looked for.
        what: String,
    },
}

impl MeshError {
    /// Whether the peer could not be reached at all, so that another channel may be tried. Never true of a peer that
    /// answered: one that refused a credential, showed another certificate, or asked us to come back later.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::NoAddress { .. } | Self::A2a { source: A2aError::Unreachable(_), .. } => true,
            Self::Connect { source, .. } => !matches!(
                **source,
                ConnectError::Refused(_)
                    | ConnectError::PublicAddress { .. }
                    | ConnectError::Untrusted { .. }
                    | ConnectError::Http(503)
            ),
            _ => false,
        }
    }
}

impl MeshError {
    /// Why our own gateway did not let us in, if it said no.
    #[must_use]
    pub(crate) fn own_refusal(&self) -> Option<Fault> {
        match self {
            Self::OwnGateway { source, .. } => match &**source {
                ConnectError::Refused(shape) => Some(shape.fault()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether waiting does not help: the gateway refuses what we show, or is another one than we know.
    pub(crate) fn bars_us(&self) -> bool {
        matches!(self, Self::IdentityChanged { .. } | Self::Asked { .. })
            || self.refusal().is_some_and(|fault| fault.is_auth())
    }

    /// Why the peer's gateway did not let us in, if it said no.
    #[must_use]
    pub fn refusal(&self) -> Option<Fault> {
        match self {
            Self::Connect { source, .. } => match &**source {
                ConnectError::Refused(shape) => Some(shape.fault()),
                _ => None,
            },
            _ => None,
        }
    }
}

fn filed(to: &To, request_id: &str, at: jiff::Timestamp, denied: Option<&str>) -> String {
    let (name, at) = (&to.name, at.strftime("%H:%M:%S UTC"));
    match denied {
        Some(rule) => {
            format!("{name} was asked at {at} to let our device in, and their policy says no ({rule})")
        }
        None => format!(
            "{name} was asked at {at} to let our device in (request {request_id}), and had not when we called last"
        ),
    }
}

/// An error with its immediate cause, for where only a text can go: "cannot connect to 10.0.0.1:18789: Connection refused".
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// An error and its causes in one sentence.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A transparent wrapper repeats what it wraps, and some sentences name their cause themselves.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
