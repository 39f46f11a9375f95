//! An embedded OpenClaw gateway: what stands behind `agent-mesh serve` and `agent-mesh demo`.
//!
//! A stock OpenClaw client (the npm package, the `openclaw gateway call` command, our own client) talks to it over one
//! port, HTTP and WebSocket. It does framing, authentication, pairing, sessions and runs, and asks an [`Agent`] for the
//! replies. It prints nothing, reads no environment and owns no file: what must survive goes through a [`Store`].
//!
//! ```text
//! listener -> http ---- upgrade ----> connection -> methods -> runs -> lane -> Agent
//!                                     |  auth, pairing, lockout        |
//!                                     outbox <---- peers (events) <----+-> sessions
//! ```
//!
//! - `listener`, `http`: one port, HTTP/1.1, upgraded into a WebSocket;
//! - `connection`, `conn`, `params`, `intake`, `outbox`: one client, from the challenge to the close;
//! - `peers`: all of them, and who hears which event;
//! - `auth`, `lockout`, `pairing`, `verify`, `secret`: who may come in, and with which rights;
//! - `principal`: who he is then;
//! - `ledger`: what is remembered of their runs beyond a restart;
//! - `access`, `policy`, `denial`, `reload`: what he may do, what he is told when he may not, and how that changes;
//! - `methods`: what a client may call, one file a family;
//! - `a2a`, `bearer`: the same over HTTP, for A2A clients;
//! - `metrics`: what is counted of all this;
//! - `runs`, `lane`, `outcome`: one turn of the agent, queued by session, answered once and remembered for a while;
//! - `meter`, `seats`, `budget`, `slots`, `shares`: what each address and device may take, so that none can take it all;
//! - `sessions`, `keys`: what was said, and under which name;
//! - [`Memory`]: what was said before this gateway started;
//! - [`agent`]: who answers.

mod a2a;
mod access;
pub mod agent;
mod auth;
mod bearer;
mod budget;
mod codes;
mod config;
mod conn;
mod connection;
mod denial;
mod gateway;
mod http;
mod intake;
mod keys;
mod lane;
mod ledger;
mod listener;
mod lockout;
mod memory;
mod meter;
mod methods;
mod metrics;
mod outbox;
mod outcome;
mod pairing;
mod params;
mod peers;
mod policy;
mod principal;
mod reload;
mod runs;
mod seats;
mod secret;
mod sessions;
mod shared;
mod shares;
mod slots;
mod store;
mod taking;
mod verify;

pub use access::{Access, Roster};
pub use agent::{
    Agent, AgentFailure, ApiKey, Deltas, EchoAgent, ExecAgent, Framed, Model, ModelError, OpenAiAgent,
    ReplyFuture, Sender, Turn,
};
pub use config::{Config, FailedRun, Limits, OnFailure, Timing};
pub use gateway::{BindError, Gateway, Seam};
pub use ledger::{Accepted, Decision, Held, Kept, Ledger, MemoryLedger, Unfinished};
pub use memory::{End, Memory, NoMemory, Past, Recollection, Room};
pub use policy::{Mode, Names, Policy, PolicyError, Rules};
pub use principal::{Member, Principal};
pub use reload::Reload;
pub use runs::Origin;
pub use secret::{NoTokenHash, SharedToken, ShortToken, TokenHash};
pub use store::{MemoryStore, Store};
