//! The floor: one connect, signed by a device key, one `agent` call, the reply on stdout. It sends the frames that
//! `agent-mesh send` sends and has nothing else: no registry, no state, one file (the key). With `--commits` it keeps the
//! message and the reply in an archive, by nothing but SQLite.
//!
//! `bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE [--commits ARCHIVE.db]`
#![allow(clippy::print_stdout)]

use agent_mesh_benches::bare::{Caller, Failure, Line};
use agent_mesh_benches::journal::Journal;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use uuid::Uuid;

const USAGE: &str =
    "usage: bare-client URL KEY.pem token|device SECRET NAME SESSION MESSAGE [--commits ARCHIVE.db]";

struct Args {
    url: String,
    caller: Caller,
    session: String,
    message: String,
    archive: Option<String>,
}

fn main() -> Result<(), Failure> {
    let args = args().ok_or(USAGE)?;
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
        archive: argv.next().filter(|option| option == "--commits").and_then(|_| argv.next()),
    })
}

async fn ask(args: &Args) -> Result<String, Failure> {
    let journal = args.archive.as_ref().map(|path| Journal::open_for_one(path.as_ref())).transpose()?;
    let mut line = Line::open(args.url.strip_prefix("ws://").ok_or("only ws://")?).await?;
    line.enter(&args.caller).await?;
    let (name, session, message) = (&args.caller.name, &args.session, &args.message);
    let reply = match &journal {
        Some(journal) => line.ask_on_record(journal, name, session, message).await?,
        None => line.ask(name, Uuid::now_v7(), session, message).await?,
    };
    line.close().await?;
    // Left as agent-mesh leaves its archive: whoever closes a database last copies the WAL into it, and waits for the disk.
    std::mem::forget(journal);
    Ok(reply)
}
