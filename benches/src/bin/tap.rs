//! A relay that writes down when what passed it, and does nothing else meanwhile: each connection has a thread for each
//! direction, which reads, looks at the clock, and passes it on. What reads the frames does so afterwards.
//!
//! `tap`: each line on stdin, `NAME HOST:PORT`, opens a relay to there; `NAME HOST:PORT` on stdout is where it listens. At
//! the end of stdin everything that passed is told as JSON Lines: the relay's name, the connection's number, who spoke, when
//! (milliseconds since the start), and the bytes in base64.

use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{io, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What one read gave.
struct Passed {
    relay: Arc<str>,
    connection: u64,
    from: &'static str,
    at: f64,
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Tap {
    start: Instant,
    connections: Arc<AtomicU64>,
    passed: Arc<Mutex<Vec<Passed>>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (start, connections, passed) = (Instant::now(), Arc::default(), Arc::default());
    let tap = Tap { start, connections, passed };
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (name, target) = line.split_once(' ').ok_or("usage: NAME HOST:PORT")?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        writeln!(out, "{name} {}", listener.local_addr()?)?;
        let (tap, name, target) = (tap.clone(), Arc::from(name), target.to_owned());
        thread::spawn(move || tap.relay(&listener, &name, &target));
    }
    for it in &*tap.passed.lock().unwrap_or_else(PoisonError::into_inner) {
        let bytes = STANDARD.encode(&it.bytes);
        let line = json!({ "relay": &*it.relay, "connection": it.connection, "from": it.from, "at": it.at, "bytes": bytes });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

impl Tap {
    /// Until the process ends.
    fn relay(&self, listener: &TcpListener, relay: &Arc<str>, target: &str) -> io::Result<()> {
        for client in listener.incoming() {
            let (client, server) = (client?, TcpStream::connect(target)?);
            let connection = self.connections.fetch_add(1, Ordering::Relaxed);
            let ways = [("client", client.try_clone()?, server.try_clone()?), ("server", server, client)];
            for (from, source, sink) in ways {
                let (tap, relay) = (self.clone(), Arc::clone(relay));
                thread::spawn(move || tap.pass_on(&relay, connection, from, source, sink));
            }
        }
        Ok(())
    }

    fn pass_on(
        &self,
        relay: &Arc<str>,
        connection: u64,
        from: &'static str,
        mut source: TcpStream,
        mut sink: TcpStream,
    ) -> io::Result<()> {
        sink.set_nodelay(true)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = source.read(&mut buffer).unwrap_or(0);
            let at = self.start.elapsed().as_secs_f64() * 1000.0;
            if read == 0 || sink.write_all(&buffer[..read]).is_err() {
                // Either may be gone already.
                let _ = sink.shutdown(Shutdown::Both);
                let _ = source.shutdown(Shutdown::Both);
                return Ok(());
            }
            let bytes = buffer[..read].to_vec();
            let passed = Passed { relay: Arc::clone(relay), connection, from, at, bytes };
            self.passed.lock().unwrap_or_else(PoisonError::into_inner).push(passed);
        }
    }
}
