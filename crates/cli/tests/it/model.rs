//! A model behind Chat Completions, for `serve --agent openai`: it says how many messages it was told, and what the last was.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub struct Model {
    pub url: String,
    /// The head of each request, and its body.
    pub asked: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Model {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream, &tell).await;
            }
        });
        Self { url, asked }
    }
}

async fn answer(mut stream: TcpStream, tell: &mpsc::UnboundedSender<(String, Value)>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            break (head.to_owned(), body);
        }
    };
    let messages = body["messages"].as_array().unwrap();
    let last = messages.last().unwrap()["content"].as_str().unwrap();
    let last = last.rsplit_once("\n\n").map_or(last, |(_, message)| message);
    let chunk = json!({ "choices": [{ "delta": { "content": format!("{} {last}", messages.len()) } }] });
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {chunk}\n\ndata: [DONE]\n\n"
    );
    stream.write_all(reply.as_bytes()).await.unwrap();
    let _ = tell.send((head, body));
}
