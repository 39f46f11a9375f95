//! The floor: one connect, signed by a device key, one `agent` call, the reply on stdout. It sends the frames that
//! `agent-mesh send` sends and has nothing else: no registry, no archive, no state, one file (the key).
//!
//! `bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE`
#![allow(clippy::print_stdout)]

use agent_mesh_benches::bare::{Caller, Failure, Line};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use uuid::Uuid;

struct Args {
    url: String,
    caller: Caller,
    session: String,
    message: String,
}

fn main() -> Result<(), Failure> {
    let args = args().ok_or("usage: bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(ask(&args))?);
    Ok(())
}

fn args() -> Option<Args> {
    let mut argv = std::env::args().skip(1);
    Some(Args {
        url: argv.next()?,
        caller: Caller {
            key: SigningKey::from_pkcs8_pem(&std::fs::read_to_string(argv.next()?).ok()?).ok()?,
            by_device: argv.next()? == "device",
            secret: argv.next()?,
            name: argv.next()?,
        },
        session: argv.next()?,
        message: argv.next()?,
    })
}

async fn ask(args: &Args) -> Result<String, Failure> {
    let mut line = Line::open(args.url.strip_prefix("ws://").ok_or("only ws://")?).await?;
    line.enter(&args.caller).await?;
    let reply = line.ask(&args.caller.name, Uuid::now_v7(), &args.session, &args.message).await?;
    line.close().await?;
    Ok(reply)
}
