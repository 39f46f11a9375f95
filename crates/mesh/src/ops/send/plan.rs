//! What would be sent, and how: thought through without a network.

use std::sync::Arc;

use openclaw_client::protocol::attribution::Header;
use serde::Serialize;
use uuid::Uuid;

use super::SendRequest;
use crate::archive::Allowance;
use crate::crowd::Turn;
use crate::error::MeshError;
use crate::guard::{Caller, Refusal, Speaker};
use crate::mesh::Mesh;
use crate::message::{self, SizeNote};
use crate::peer::{Peer, session_key};
use crate::record::{Receipt, Record, State, To};
use crate::registry::{Agent, Via};

/// A send that is thought through and has not happened: what a dry run prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// To whom.
    pub to: To,
    /// Where; none if there is no usable address.
    pub address: Option<String>,
    /// The session key on the wire.
    pub session: String,
    /// The route.
    pub via: Via,
    /// The message's size in bytes of UTF-8, without the header.
    pub bytes: usize,
    /// Exactly what goes out, with the header.
    pub message: String,
    /// `configured` or `missing`.
    pub token: &'static str,
    /// The message id.
    #[serde(skip)]
    pub id: String,
    /// Whether the message is larger than the soft limit.
    #[serde(skip)]
    pub size_note: SizeNote,
    #[serde(skip)]
    pub(super) peer: Result<Peer, MeshError>,
    #[serde(skip)]
    pub(super) me: String,
    #[serde(skip)]
    pub(in crate::ops) allowance: Allowance,
}

impl Plan {
    /// Whether no guard speaks against its recipient.
    pub(in crate::ops) fn is_permitted(&self) -> bool {
        !matches!(self.peer, Err(MeshError::Guard(_)))
    }

    /// The record of a plan that nobody carried out.
    #[must_use]
    pub fn untold(&self) -> Record {
        Record {
            to: self.to.clone(),
            id: self.id.clone(),
            via: self.via,
            session: self.session.clone(),
            bytes: self.bytes,
            state: State::Skipped,
            receipt: Receipt::default(),
            reply: None,
            warning: None,
            error: None,
        }
    }

    /// This plan, as one of many.
    pub(in crate::ops) fn in_turn(self, turn: Arc<Turn>) -> Self {
        Self { peer: self.peer.map(|peer| peer.in_turn(turn)), ..self }
    }

    /// This plan, if no guard speaks against its recipient.
    pub(in crate::ops) fn permitted(self) -> Result<Self, MeshError> {
        match self.peer {
            Err(error @ MeshError::Guard(_)) => Err(error),
            _ => Ok(self),
        }
    }

    /// Why the peer cannot be called, if so.
    #[must_use]
    pub fn obstacle(&self) -> Option<&MeshError> {
        self.peer.as_ref().err()
    }
}

/// Thinks a send through: recipient, session, size, header. Touches no network.
///
/// # Errors
/// When the message may not be sent, or a file of ours cannot be used.
pub fn plan(mesh: &Mesh, agent: &Agent, request: &SendRequest) -> Result<Plan, MeshError> {
    let size_note = message::check(&request.message, mesh.config().limits)?;
    let via = request.via.or(agent.via).unwrap_or_default();
    if via == Via::A2a && request.session.agent.is_some() {
        return Err(MeshError::Usage("over A2A there is no agent to choose".to_owned()));
    }
    let caller = mesh.config().caller.answering(request.in_reply_to.as_ref());
    let rules = mesh.config().rules;
    caller.may_pass_on(&rules)?;
    if !request.header && caller.speaker() == Speaker::Agent {
        return Err(Refusal::Nameless.into());
    }
    let me = mesh.my_name()?;
    let id = request.id.unwrap_or_else(Uuid::now_v7).to_string();
    let text = if request.header {
        header(&caller, &me, &id, request.session.thread.clone()).wrap(&request.message)
    } else {
        request.message.clone()
    };
    let devices = if caller.names_devices() { devices_of(mesh, agent)? } else { Vec::new() };
    let route = Peer::by_route(mesh, agent, via);
    // Also that of one to whom it may not go: whoever looks at the plan wants to know whom it would have met.
    let address = route.as_ref().ok().map(Peer::address);
    let peer = match caller.may_go_to(agent, &devices) {
        Ok(()) => route,
        Err(refusal) => Err(refusal.into()),
    };
    Ok(Plan {
        to: To::from(agent),
        address,
        session: session_key(&me, agent, &request.session, via),
        via,
        bytes: request.message.len(),
        message: text,
        token: if has_token(mesh, &agent.email_prefix, via)? { "configured" } else { "missing" },
        id,
        size_note,
        peer,
        me,
        allowance: Allowance { rules, speaker: caller.speaker(), chorus_of: None },
    })
}

/// The devices of a teammate, as far as we know them: by the registry, and by our invites.
fn devices_of(mesh: &Mesh, agent: &Agent) -> Result<Vec<String>, MeshError> {
    let guests = mesh.sent_invites().read()?;
    let invited = guests.devices_of(&agent.email_prefix).map(str::to_owned);
    Ok(agent.device_id.iter().map(|id| id.trim().to_owned()).chain(invited).collect())
}

fn header(caller: &Caller, me: &str, id: &str, thread: Option<String>) -> Header {
    let (from, id, via_shell) = (me.to_owned(), id.to_owned(), caller.shell.clone());
    let header = Header { from, id, thread, via_shell, ..Header::default() };
    match &caller.chain {
        Some(chain) => header.continuing(chain),
        None => header,
    }
}

fn has_token(mesh: &Mesh, email_prefix: &str, via: Via) -> Result<bool, MeshError> {
    if via == Via::A2a {
        return Ok(mesh.a2a_token(email_prefix)?.is_some());
    }
    Ok(mesh.shared_token(email_prefix)?.is_some() || mesh.device_token(email_prefix)?.is_some())
}
