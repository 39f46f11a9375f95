use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;
use crate::sync::{Answer, Fetch, Source, SyncError};

const BOB: &str = r#"[{"name": "Bob", "emailPrefix": "bob"}]"#;

/// A web server that answers with what a function makes of each request's head.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_head(&mut stream);
                seen.lock().unwrap().push(head.clone());
                answer(&head, &mut stream);
            }
        });
        Self { port, heads }
    }

    /// One that always says the same.
    fn saying(head: &str, body: &str) -> Self {
        let text = format!("{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        Self::start(move |_, stream| send(stream, &text))
    }

    fn source(&self, query: &str) -> Source {
        let uri = format!("http://127.0.0.1:{}/team{query}", self.port).parse().unwrap();
        Source { uri, bearer_file: None }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

fn send(stream: &mut TcpStream, text: &str) {
    // A client that refuses the answer hangs up early.
    let _ = stream.write_all(text.as_bytes());
}

/// A state folder, and how to ask.
fn how() -> (tempfile::TempDir, Fetch) {
    let dir = tempfile::tempdir().unwrap();
    let how = Fetch {
        memory: dir.path().join("sync"),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(20),
        allow_empty: false,
        remember: true,
    };
    (dir, how)
}

async fn asked(server: &Server) -> Result<Answer, SyncError> {
    server.source("").fetch(&how().1).await
}

fn shown(error: &SyncError) -> String {
    chain(error)
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again() {
    let server = Server::start(|head, stream| {
        let known = head.contains("if-none-match: \"v1\"") && head.contains("if-modified-since: mon");
        let head = "etag: \"v1\"\r\nlast-modified: Mon, 23 Nov 2026 00:00:00 GMT\r\nconnection: close";
        let text = if known {
            format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n\r\n")
        } else {
            format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {}\r\n\r\n{BOB}", BOB.len())
        };
        send(stream, &text);
    });
    let (_dir, how) = how();
    for _ in 0..3 {
        let answer = server.source("").fetch(&how).await.unwrap();
        assert_eq!(answer.agents[0].name, "Bob");
    }
    // Another query is another document.
    server.source("?sheet=2").fetch(&how).await.unwrap();
    let conditional: Vec<_> = server.heads().iter().map(|head| head.contains("if-none-match")).collect();
    assert_eq!(conditional, [false, true, true, false]);
    // What was remembered is lost or damaged: everything is asked for anew.
    for file in std::fs::read_dir(&how.memory).unwrap() {
        std::fs::write(file.unwrap().path(), "{").unwrap();
    }
    server.source("").fetch(&how).await.unwrap();
    assert!(!server.heads()[4].contains("if-none-match"));
    // A dry run leaves nothing behind.
    std::fs::remove_dir_all(&how.memory).unwrap();
    server.source("").fetch(&Fetch { remember: false, ..how.clone() }).await.unwrap();
    assert!(!how.memory.exists());
}

#[tokio::test]
async fn the_etag_of_a_bad_answer_is_not_remembered() {
    // Else one broken upload would be "not modified" from then on, and the mend of it never seen if the tag stays.
    let bad = Server::saying("HTTP/1.1 200 OK\r\netag: \"v1\"", "[{\"name\": ");
    let empty = Server::saying("HTTP/1.1 200 OK\r\netag: \"v1\"", "[]");
    for server in [bad, empty] {
        let (_dir, how) = how();
        for _ in 0..2 {
            assert!(server.source("").fetch(&how).await.is_err());
        }
        assert!(server.heads().iter().all(|head| !head.contains("if-none-match")), "{:?}", server.heads());
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_a_broken_source() {
    let large = "x".repeat(usize::try_from(MAX_ANSWER).unwrap() + 1);
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://example.com/team";
    let here = "HTTP/1.1 302 Found\r\nlocation: /team";
    for (head, body, expected) in [
        ("HTTP/1.1 500 Oops", "[]", "it answered with HTTP status 500"),
        ("HTTP/1.1 404 Not Found", "[]", "it answered with HTTP status 404"),
        ("HTTP/1.1 401 No", "", "it answered with HTTP status 401"),
        // A body that is none, of a status that is none: 204 and 206 are no documents.
        ("HTTP/1.1 206 Partial", BOB, "it answered with HTTP status 206"),
        ("HTTP/1.1 304 Not Modified", "", "it answered with HTTP status 304"),
        ("HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8", BOB, "it answered with text/html"),
        ("HTTP/1.1 200 OK", "[]", "lists nobody"),
        ("HTTP/1.1 200 OK", "", "lists nobody"),
        ("HTTP/1.1 200 OK", &large, "its answer is larger than 8388608 bytes"),
        (elsewhere, "", "it redirects to a place without https"),
        (here, "", "it redirects too often"),
        ("SSH-2.0-OpenSSH", "", "the request failed"),
    ] {
        let error = shown(&asked(&Server::saying(head, body)).await.unwrap_err());
        assert!(error.contains(expected), "{head}: {error}");
        assert!(error.starts_with("http://127.0.0.1:"), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_does_not_count() {
    // Whole by its brackets, and yet shorter than announced: the rest is lost.
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{BOB}");
    let chunked =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{BOB}\r\n", BOB.len());
    for text in [announced, chunked] {
        let server = Server::start(move |_, stream| send(stream, &text));
        let error = shown(&asked(&server).await.unwrap_err());
        assert!(error.contains("the request failed"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_dawdles_is_given_up() {
    let server = Server::start(|_, stream| {
        send(stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[");
        thread::sleep(Duration::from_secs(5));
    });
    let (_dir, how) = how();
    let how = Fetch { timeout: Duration::from_millis(200), ..how };
    let error = shown(&server.source("").fetch(&how).await.unwrap_err());
    assert!(error.contains("it did not answer within 200ms"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_broken_source_and_shows_no_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { port: listener.local_addr().unwrap().port(), heads: Arc::default() };
    drop(listener);
    let error = server.source("?key=hunter2").fetch(&how().1).await.unwrap_err();
    let text = format!("{error:?} {}", chain(&error));
    assert!(text.contains("refused") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_bearer_comes_from_a_private_file_and_goes_nowhere_else() {
    use std::os::unix::fs::PermissionsExt;

    let server = Server::saying("HTTP/1.1 200 OK", BOB);
    let port = server.port;
    let other = Server::start(move |_, stream| {
        let place = format!("http://127.0.0.1:{port}/team");
        send(stream, &format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n"));
    });
    let (dir, how) = how();
    let path = dir.path().join("bearer");
    std::fs::write(&path, "hunter2\n").unwrap();
    let chmod = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    chmod(0o600);
    let with = |server: &Server| Source { bearer_file: Some(path.clone()), ..server.source("") };
    with(&server).fetch(&how).await.unwrap();
    assert!(server.heads()[0].contains("authorization: bearer hunter2\r\n"));
    // Another port is another server: it was not given this token.
    with(&other).fetch(&how).await.unwrap();
    assert!(other.heads()[0].contains("hunter2") && !server.heads()[1].contains("authorization"));

    for (text, mode, expected) in [
        ("hunter2", 0o644, "wider than 0600"),
        ("", 0o600, "is empty"),
        ("hunter2\nx-evil: 1", 0o600, "holds more than a token"),
    ] {
        std::fs::write(&path, text).unwrap();
        chmod(mode);
        let error = shown(&with(&server).fetch(&how).await.unwrap_err());
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = with(&server).fetch(&how).await.unwrap_err();
    assert!(matches!(error, SyncError::Bearer { reason: "does not exist", .. }), "{error}");
}
