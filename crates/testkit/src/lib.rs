//! A scripted fake OpenClaw gateway for tests.
//!
//! It speaks plain JSON modelled on frames recorded from the real gateway and uses none of our wire types, so that it
//! cannot share their mistakes. A [`Script`] says how it behaves; a [`FakeGateway`] plays the script on a TCP port
//! ([`FakeGateway::start`]) or over any byte stream ([`FakeGateway::dial`] hands out in-memory pipes, which
//! work under a paused clock). [`Fault`]s end the conversation at named points, [`Noise`] pollutes it, and the
//! [`Ledger`] counts how often each message was really *run*, whatever the client was told.
//!
//! ```
//! use agent_mesh_testkit::{Cut, FakeGateway, Fault, How, Reply, Script};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let script = Script::new()
//!     .device_token("token-alice")
//!     .reply(|turn| Reply::text(format!("you said: {}", turn.message)))
//!     .fault(Fault::new(Cut::AfterAccepted, How::Drop).once());
//! let gateway = FakeGateway::start(script).await;
//! // ... point a client at gateway.url(), lose the connection, reconnect, get the answer ...
//! assert!(gateway.ledger().repeated().is_empty(), "no turn ran twice");
//! # }
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test tool: stopping the test with a message is how it reports that the test was set up wrongly"
)]

mod chat;
mod conn;
mod delay_proxy;
mod fault;
mod handshake;
mod history;
mod ledger;
mod methods;
mod recorded;
mod refusal;
mod reply;
mod runs;
mod script;
mod server;
mod tls_front;
mod wire;
mod world;

pub use delay_proxy::{DelayProxy, Direction};
pub use fault::{Cut, Fault, How, Noise};
pub use ledger::Ledger;
pub use refusal::Refusal;
pub use reply::{Gate, Reply, Turn};
pub use script::{Challenge, Opening, Script};
pub use server::FakeGateway;
pub use tls_front::{Certificate, TlsFront};
pub use world::Received;
