//! NATS request and reply, what users of a broker would otherwise take. Asker, server and answerer are processes of their own,
//! as they are with us.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_mesh_benches::Row;
use agent_mesh_benches::bare::Failure;

use super::send::send;
use crate::company::{BlackHoles, Company};
use crate::places::{Places, text};
use crate::warm::{Warm, in_turn};
use crate::{Size, machine};

const COMMAND: &str = "warm wire HOME; warm nats SERVER";

pub fn rows(places: &Places, size: Size) -> Result<Vec<Row>, Failure> {
    if machine::said("nats-server", &["--version"], &places.root).is_none() {
        let why = "there is no nats-server here, and apt-get could not fetch it";
        return Ok(vec![Row::missing("nats", "request and reply", COMMAND, why)]);
    }
    let batches = if size == Size::Full { 100 } else { 10 };
    let server = Server::start()?;
    let address = server.address.to_string();
    let _answerer = Answerer::start(places, &address)?;
    let company = Company::open(places, 1, BlackHoles::None)?;
    let home = company.home(1, 0)?;
    send(places, &home, "hello")?;
    let path = text(home.path());
    let mut nats = Warm::start(places, &["nats", &address])?;
    let mut wire = Warm::start(places, &["wire", &path])?;
    let mut mesh = Warm::start(places, &["mesh", &path])?;
    let mut bare = Warm::start(places, &["bare", &path])?;
    in_turn(&mut [&mut nats, &mut wire, &mut mesh, &mut bare], batches, 100)?;

    let beside = "NATS request and reply over a persistent connection, a client of our own in 100 lines";
    let (off, on) = (wire.beside(&nats), mesh.beside(&nats));
    let row = |what: &str, command: &str, own: &Warm| {
        Row::new("nats", what, command, own.quantile(0.5), "ms").beside(beside, nats.quantile(0.5))
    };
    Ok(vec![
        row("journal off, p50", COMMAND, &wire)
            .ratio(off)
            .must_hold("within 2 times", off <= 2.0)
            .note("our client and protocol alone (openclaw-client), over a connection that stands"),
        row("journal on, p50", "warm mesh HOME; warm nats SERVER", &mesh)
            .ratio(on)
            .note("NATS keeps nothing; this is on the disk twice"),
        row("the bare client, p50", "warm bare HOME; warm nats SERVER", &bare)
            .ratio(bare.beside(&nats))
            .note("the floor of the protocol: no code of ours on the asking side"),
        Row::new("nats", "journal off, p99", COMMAND, wire.quantile(0.99), "ms")
            .beside(beside, nats.quantile(0.99))
            .note(format!("{} requests each", batches * 100)),
    ])
}

/// A server of our own on a free port; killed when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Result<Self, Failure> {
        // The server says its port only in its log; one that was free a moment ago will do.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { process, address };
        let give_up = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpStream::connect(address) {
            if Instant::now() > give_up {
                return Err(format!("nats-server does not listen: {error}").into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Who echoes; killed when dropped.
struct Answerer(Child);

impl Answerer {
    fn start(places: &Places, server: &str) -> Result<Self, Failure> {
        use std::io::{BufRead, BufReader};
        let mut process = Command::new(places.bench("warm"))
            .args(["nats-answer", server])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = process.stdout.take().ok_or("no stdout")?;
        let answerer = Self(process);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line == "ready\n" { Ok(answerer) } else { Err(format!("the answerer said {line:?}").into()) }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
