//! NATS request and reply, as its protocol text says, over one connection each: `INFO`, `CONNECT`, `PING`, `SUB`, `PUB`, `MSG`.
//! A client of so few lines is a harder rival than one with a library's comforts.

use agent_mesh_benches::bare::Failure;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::Ask;

/// Where questions go.
const SUBJECT: &str = "mesh.bob";
/// Where answers come back to.
const INBOX: &str = "_INBOX.alice";

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: String,
}

/// A message that came in.
struct Delivered {
    reply_to: Option<String>,
    payload: Vec<u8>,
}

impl Connection {
    /// Connects, and subscribes to one subject.
    async fn open(server: &str, subject: &str) -> Result<Self, Failure> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let (reader, writer) = tcp.into_split();
        let mut connection = Self { reader: BufReader::new(reader), writer, line: String::new() };
        if !connection.next_line().await?.starts_with("INFO ") {
            return Err("this is no NATS server".into());
        }
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\"}}\r\nSUB {subject} 1\r\nPING\r\n"
        );
        connection.writer.write_all(hello.as_bytes()).await?;
        while connection.next_line().await? != "PONG" {}
        Ok(connection)
    }

    async fn next_line(&mut self) -> Result<&str, Failure> {
        self.line.clear();
        if self.reader.read_line(&mut self.line).await? == 0 {
            return Err("the NATS server hung up".into());
        }
        let line = self.line.trim_end();
        if line.starts_with("-ERR") { Err(line.to_owned().into()) } else { Ok(line) }
    }

    async fn publish(&mut self, subject: &str, reply_to: &str, payload: &[u8]) -> Result<(), Failure> {
        let mut frame = format!("PUB {subject} {reply_to} {}\r\n", payload.len()).into_bytes();
        frame.extend_from_slice(payload);
        frame.extend_from_slice(b"\r\n");
        Ok(self.writer.write_all(&frame).await?)
    }

    /// The next message; a server that asks whether we are there is told so.
    async fn receive(&mut self) -> Result<Delivered, Failure> {
        loop {
            let line = self.next_line().await?.to_owned();
            if line == "PING" {
                self.writer.write_all(b"PONG\r\n").await?;
            }
            let mut words = line.split(' ');
            if words.next() != Some("MSG") {
                continue;
            }
            // MSG subject sid [reply-to] size
            let words: Vec<&str> = words.skip(2).collect();
            let (size, reply_to) = words.split_last().ok_or("a MSG without a size")?;
            let mut payload = vec![0; size.parse::<usize>()? + 2];
            self.reader.read_exact(&mut payload).await?;
            payload.truncate(payload.len() - 2);
            return Ok(Delivered { reply_to: reply_to.first().map(|&subject| subject.to_owned()), payload });
        }
    }
}

/// Who asks.
pub struct Requester(Connection);

impl Requester {
    pub async fn open(server: &str) -> Result<Self, Failure> {
        Ok(Self(Connection::open(server, INBOX).await?))
    }
}

impl Ask for Requester {
    async fn ask(&mut self, question: &str) -> Result<String, Failure> {
        self.0.publish(SUBJECT, INBOX, question.as_bytes()).await?;
        Ok(String::from_utf8(self.0.receive().await?.payload)?)
    }
}

/// Says `ready`, and then what it hears, as the echo agent does.
#[allow(clippy::print_stdout)] // A bench talks.
pub async fn echo(server: &str) -> Result<(), Failure> {
    let mut connection = Connection::open(server, SUBJECT).await?;
    println!("ready");
    loop {
        let message = connection.receive().await?;
        let Some(reply_to) = message.reply_to else { continue };
        let answer = [b"bob heard: ".as_slice(), &message.payload].concat();
        connection.publish(&reply_to, "", &answer).await?;
    }
}
