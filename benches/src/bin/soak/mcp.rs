//! What models do: the tools, over standard streams for the whole time in one process, and over HTTP in sessions of which
//! half are never closed.

use std::time::Duration;

use agent_mesh_benches::Writer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use crate::ledger::Said;
use crate::load::told;
use crate::{Failure, Soak};

/// A call that takes longer hangs.
const HANGS: Duration = Duration::from_secs(90);
/// So many calls in a session over HTTP.
const SESSION: u64 = 20;

fn hello() -> Value {
    json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "soak", "version": "1" } })
}

fn request(id: u64, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// Something that answers requests.
pub trait Line {
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failure>;
}

/// A model at work, until the soak is over.
pub async fn model(soak: &Soak, line: &mut impl Line, number: u64, rest: Duration) {
    let mut random = Writer::new(soak.seed ^ (number << 32));
    while !soak.is_over() {
        {
            let _working = soak.gate.read().await;
            if let Err(error) = call(soak, line, &mut random).await {
                soak.complaints.add(format!("mcp: {error}"));
            }
        }
        sleep(rest.mul_f64(random.number(200) as f64 / 100.0)).await;
    }
}

async fn call(soak: &Soak, line: &mut impl Line, random: &mut Writer) -> Result<(), Failure> {
    let tool = |name: &str, arguments: Value| json!({ "name": name, "arguments": arguments });
    let kind = random.number(10);
    if kind == 0 {
        let answer = line.ask("tools/call", tool("mesh_list", json!({}))).await?;
        soak.looked();
        if answer["result"]["isError"] != false {
            soak.complaints.add(format!("mesh_list: {answer}"));
        }
        return Ok(());
    }
    let (door, mark) = (soak.any_door(random), soak.mark());
    let text = format!("{}{mark}", random.text(1, 40));
    let begun = Instant::now();
    if kind <= 2 {
        let names: Vec<_> = soak.doors.iter().map(|door| door.name).collect();
        let arguments = json!({ "message": text, "only": names, "timeoutSeconds": 20 });
        let answer = line.ask("tools/call", tool("mesh_broadcast", arguments)).await?;
        soak.told_by_all(&mark, "mesh_broadcast", begun, &answer["result"]["structuredContent"]["results"]);
        return Ok(());
    }
    let how = if kind == 3 { "queue" } else { "mesh_send" };
    let arguments =
        json!({ "to": door.name, "message": text, "timeoutSeconds": 20, "queue": how == "queue" });
    let answer = line.ask("tools/call", tool("mesh_send", arguments)).await?;
    let told = told(&answer["result"]["structuredContent"]);
    if told.is_none() {
        soak.complaints.add(format!("mesh_send: {answer}"));
    }
    soak.ledger.add(Said { mark, to: door.name, how, begun, told_at: Instant::now(), told });
    Ok(())
}

/// Standard streams.
pub struct Stdio {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    asked: u64,
}

impl Stdio {
    pub async fn open(stdin: ChildStdin, stdout: ChildStdout) -> Result<Self, Failure> {
        let mut line = Self { stdin, lines: BufReader::new(stdout).lines(), asked: 0 };
        line.ask("initialize", hello()).await?;
        line.say(INITIALIZED).await?;
        Ok(line)
    }

    async fn say(&mut self, message: &str) -> Result<(), Failure> {
        Ok(self.stdin.write_all(format!("{message}\n").as_bytes()).await?)
    }
}

impl Line for Stdio {
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.asked += 1;
        self.say(&request(self.asked, method, &params)).await?;
        loop {
            let line = timeout(HANGS, self.lines.next_line()).await.map_err(|_| "the server is silent")??;
            let message: Value = serde_json::from_str(&line.ok_or("the server is gone")?)?;
            if message["id"] == self.asked {
                return Ok(message);
            }
        }
    }
}

/// Streamable HTTP, a connection for each request.
pub struct Http {
    address: String,
    token: String,
    session: Option<String>,
    asked: u64,
}

impl Http {
    pub fn new(address: String, token: String) -> Self {
        Self { address, token, session: None, asked: 0 }
    }

    /// Begins a session; every second one before it is ended by us, the others are left to the server to forget.
    async fn begin(&mut self) -> Result<(), Failure> {
        if (self.asked / SESSION).is_multiple_of(2) && self.session.is_some() {
            self.post("DELETE", "").await?;
        }
        self.session = None;
        let (head, _) = self.post("POST", &request(0, "initialize", &hello())).await?;
        let session = head.lines().filter_map(|line| line.split_once(": "));
        let session = session.filter(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id"));
        self.session = session.map(|(_, id)| id.trim().to_owned()).next();
        self.post("POST", INITIALIZED).await?;
        Ok(())
    }

    /// The head and the body of the answer.
    async fn post(&self, method: &str, body: &str) -> Result<(String, String), Failure> {
        let session = self.session.as_ref().map(|id| format!("Mcp-Session-Id: {id}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{session}Content-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        let talk = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, Failure>(answer)
        };
        let answer = timeout(HANGS, talk).await.map_err(|_| "the server is silent")??;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        if !head.starts_with("HTTP/1.1 2") {
            return Err(head.to_owned().into());
        }
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok((head.to_owned(), if chunked { joined(body)? } else { body.to_owned() }))
    }
}

/// A body that came in chunks.
fn joined(mut rest: &str) -> Result<String, Failure> {
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16)?;
        if size == 0 {
            break;
        }
        body.push_str(more.get(..size).ok_or("a chunk is cut")?);
        rest = more.get(size + 2..).unwrap_or_default();
    }
    Ok(body)
}

impl Line for Http {
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        if self.asked.is_multiple_of(SESSION) {
            self.begin().await?;
        }
        self.asked += 1;
        let (_, body) = self.post("POST", &request(self.asked, method, &params)).await?;
        let events = body.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
        let mut messages = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let answer = messages.find(|message| message["id"] == self.asked);
        answer.ok_or_else(|| format!("no answer to {method}: {body}").into())
    }
}
