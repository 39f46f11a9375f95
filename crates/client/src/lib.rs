//! Call an OpenClaw gateway from Rust.
//!
//! A connection goes through stages, each with its own type, so that a caller can stop after any of them: [`Link`]
//! (TCP, TLS and WebSocket stand), [`Challenged`] (it is a gateway), [`Client`] (it let us in). One task owns the
//! socket; a `Client` is a cheap handle to it. Every request has an id, an absolute deadline and exactly one end, also
//! when the connection dies.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use openclaw_client::{Access, DialOptions, Link, Secret, Trace};
//! use openclaw_protocol::methods::agent::{Agent, Outcome};
//! use tokio::time::{Duration, Instant};
//!
//! let deadline = Instant::now() + Duration::from_secs(60);
//! let mut trace = Trace::default();
//! let endpoint = "ws://127.0.0.1:18789".parse()?;
//! let link = Link::dial(&endpoint, &DialOptions::default(), deadline, &mut trace).await?;
//! let access = Access::owner(Secret::new("the gateway's token".into()), "example");
//! let client = link.challenge(deadline, &mut trace).await?.authenticate(access, None, deadline, &mut trace).await?;
//!
//! let call = Agent {
//!     message: "is the build green?".into(),
//!     idempotency_key: "9f4e3c0a-6f7e-4f0e-9d6a-0c1c5e6b7a10".into(),
//!     ..Agent::default()
//! };
//! let run = client.start(&call, deadline).await?;
//! if let Outcome::Reply(text) = run.finished(deadline).await? {
//!     assert!(!text.is_empty());
//! }
//! # Ok(()) }
//! ```

mod client;
mod dial;
mod driver;
mod endpoint;
mod error;
mod eyeballs;
mod life;
mod link;
mod run;
mod secret;
mod tls;
mod trace;

pub use client::{Client, Early, Events, GatewayEvent};
pub use dial::DialOptions;
pub use endpoint::{Endpoint, EndpointError, Exposure, check_http_url};
pub use error::{CallError, ConnectError, Lost};
pub use link::{Access, Challenged, Credential, Link};
pub use openclaw_protocol as protocol;
pub use run::Run;
pub use secret::Secret;
pub use tls::{Fingerprint, FingerprintError, TlsMemory};
pub use trace::{Step, StepDone, Trace};
