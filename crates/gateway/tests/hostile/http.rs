//! HTTP as no client speaks it: smuggled, slow, large, or meant for somebody else.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::door::*;
use crate::support::*;

pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A WebSocket that was opened with these header fields.
pub async fn upgraded(door: &Door, from: &str, fields: &str) -> Peer {
    let mut stream = door.tcp(from).await;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: door\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert_eq!(status(&head), 101, "{}", String::from_utf8_lossy(&head));
    Client::over(WebSocketStream::<TcpStream>::from_raw_socket(stream, Role::Client, None).await).await
}

/// How many answers stand in what came back.
fn answers(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).matches("HTTP/1.1 ").count()
}

fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: door\r\n{fields}Connection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused() {
    assault(async |door| {
        let smuggled =
            b"POST /healthz HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nContent-Length: 40\r\n\r\nhello";
        assert_eq!(door.status(MALLORY, smuggled).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_length_and_chunks_do_not_smuggle_a_second_request() {
    assault(async |door| {
        let smuggled =
            b"POST /healthz HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
            0\r\n\r\nGET /secret HTTP/1.1\r\nHost: d\r\n\r\n";
        let answer = door.raw(MALLORY, smuggled).await;
        assert!(answers(&answer) <= 2 && !String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
    })
    .await;
}

#[tokio::test]
async fn an_unknown_transfer_encoding_is_refused() {
    assault(async |door| {
        let odd = b"POST /healthz HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\n\r\n";
        assert_eq!(door.status(MALLORY, odd).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_length_below_zero_is_refused() {
    assault(async |door| {
        let odd = b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n";
        assert_eq!(door.status(MALLORY, odd).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_length_beyond_all_numbers_is_refused() {
    assault(async |door| {
        let odd = b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999999999999999\r\n\r\n";
        assert_eq!(door.status(MALLORY, odd).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_field_with_a_blank_before_its_colon_is_refused() {
    assault(async |door| {
        let odd = b"GET /healthz HTTP/1.1\r\nHost: d\r\nUpgrade : websocket\r\n\r\n";
        assert_eq!(door.status(MALLORY, odd).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_folded_field_is_refused() {
    assault(async |door| {
        let odd = b"GET /healthz HTTP/1.1\r\nHost: d\r\nX-A: one\r\n two\r\n\r\n";
        assert_eq!(door.status(MALLORY, odd).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_nul_in_a_field_is_refused() {
    assault(async |door| {
        assert_eq!(door.status(MALLORY, b"GET / HTTP/1.1\r\nHost: d\r\nX-A: a\0b\r\n\r\n").await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_bare_line_feed_smuggles_no_field() {
    assault(async |door| {
        let answer = door.raw(MALLORY, &get("/nothing", "X-A: a\rX-Real-IP: 127.0.0.1\r\n")).await;
        assert!(matches!(status(&answer), 400 | 404));
    })
    .await;
}

#[tokio::test]
async fn a_header_of_a_megabyte_is_refused() {
    assault(async |door| {
        let big = get("/", &format!("X-A: {}\r\n", "x".repeat(1_000_000)));
        assert!(matches!(door.status(MALLORY, &big).await, 0 | 431));
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_fields_are_refused() {
    assault(async |door| {
        let many: String = (0..10_000).map(|i| format!("X-{i}: y\r\n")).collect();
        assert!(matches!(door.status(MALLORY, &get("/", &many)).await, 0 | 431));
    })
    .await;
}

#[tokio::test]
async fn a_path_of_a_megabyte_is_refused() {
    assault(async |door| {
        let long = get(&format!("/{}", "x".repeat(1_000_000)), "");
        assert!(matches!(door.status(MALLORY, &long).await, 0 | 414 | 431));
    })
    .await;
}

#[tokio::test]
async fn no_path_leads_up() {
    assault(async |door| {
        for path in ["/../etc/passwd", "/healthz/../..", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"] {
            assert_eq!(door.status(MALLORY, &get(path, "")).await, 404, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_path_that_is_nearly_one_is_none() {
    assault(async |door| {
        for path in ["/Healthz", "/healthz/", "/healthz%00", "/healthz;x", "//healthz"] {
            assert_eq!(door.status(MALLORY, &get(path, "")).await, 404, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_door_is_no_proxy() {
    assault(async |door| {
        let absolute = door.status(MALLORY, &get("http://169.254.169.254/latest/meta-data", "")).await;
        assert_eq!(absolute, 404);
        let connect = b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n";
        assert!(matches!(door.status(MALLORY, connect).await, 400..=499));
    })
    .await;
}

#[tokio::test]
async fn the_endpoints_of_the_real_gateway_are_not_there() {
    assault(async |door| {
        for path in ["/tools/invoke", "/v1/chat/completions", "/api/config", "/j/x"] {
            assert_eq!(
                door.status(MALLORY, &get(path, &format!("Authorization: Bearer {TOKEN}\r\n"))).await,
                404
            );
        }
    })
    .await;
}

#[tokio::test]
async fn trace_repeats_nothing() {
    assault(async |door| {
        let trace =
            b"TRACE / HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer my-secret\r\nConnection: close\r\n\r\n";
        let answer = door.raw(MALLORY, trace).await;
        assert_eq!(status(&answer), 405);
        assert!(!String::from_utf8_lossy(&answer).contains("my-secret"));
    })
    .await;
}

#[tokio::test]
async fn no_answer_names_a_version_or_the_agent() {
    assault_with(
        "",
        |config| (config.agent_name, config.version) = ("bobs-agent".into(), "9.8.7".into()),
        async |door| {
            for path in ["/", "/health", "/readyz", "/nothing"] {
                let answer = String::from_utf8_lossy(&door.raw(MALLORY, &get(path, "")).await).into_owned();
                assert!(!answer.contains("9.8.7") && !answer.contains("bobs-agent"), "{answer}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_forwarded_address_makes_nobody_local() {
    assault(async |door| {
        let mut socket = upgraded(door, MALLORY, &format!("X-Forwarded-For: 127.0.0.1\r\n{UPGRADE}")).await;
        let hello = Hello::token(TOKEN).scopes(&["operator.admin"]);
        assert_eq!(socket.connect(&hello).await["payload"]["auth"]["scopes"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn loopback_behind_a_proxy_is_nobody() {
    assault(async |door| {
        for mark in ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4"] {
            let request = format!("GET / HTTP/1.1\r\nHost: d\r\n{mark}\r\n{UPGRADE}\r\n");
            let answer = door.raw(LOCAL, request.as_bytes()).await;
            assert!(status(&answer) == 403, "{mark}");
            assert!(String::from_utf8_lossy(&answer).contains("proxy_attribution_required"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_of_somebody_else_changes_nothing() {
    assault(async |door| {
        let odd = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\nConnection: close\r\n\r\n";
        assert!(matches!(door.status(MALLORY, odd).await, 200 | 400));
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_by_post_is_refused() {
    assault(async |door| {
        let request = format!("POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n{UPGRADE}\r\n");
        assert_eq!(door.status(MALLORY, request.as_bytes()).await, 400);
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_made() {
    assault(async |door| {
        let fields = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        let request =
            format!("GET / HTTP/1.1\r\nHost: d\r\nConnection: Upgrade, HTTP2-Settings\r\n{fields}\r\n");
        assert_eq!(door.status(MALLORY, request.as_bytes()).await, 200);
    })
    .await;
}

#[tokio::test]
async fn the_beginning_of_http_2_is_no_request() {
    assault(async |door| {
        let answer = door.raw(MALLORY, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert!(matches!(status(&answer), 0 | 400 | 505), "{}", String::from_utf8_lossy(&answer));
    })
    .await;
}

#[tokio::test]
async fn the_beginning_of_tls_is_no_request() {
    assault(async |door| {
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xff, 0, 0x0a, 0x0d];
        assert!(matches!(door.status(MALLORY, &hello).await, 0 | 400));
    })
    .await;
}

#[tokio::test]
async fn an_old_websocket_is_refused() {
    assault(async |door| {
        let old = UPGRADE.replace("13", "8");
        let request = format!("GET / HTTP/1.1\r\nHost: d\r\n{old}\r\n");
        assert_eq!(door.status(MALLORY, request.as_bytes()).await, 400);
    })
    .await;
}

#[tokio::test]
async fn a_thousand_requests_in_one_breath_are_answered_one_by_one() {
    assault(async |door| {
        let many = b"GET /healthz HTTP/1.1\r\nHost: d\r\n\r\n".repeat(1000);
        let answer = door.raw(MALLORY, &many).await;
        assert_eq!(answers(&answer), 1000);
    })
    .await;
}

#[tokio::test]
async fn a_header_that_never_ends_is_cut_off() {
    assault_with(
        "",
        |config| config.timing.header = Duration::from_millis(100),
        async |door| {
            let mut slow = door.tcp(MALLORY).await;
            slow.write_all(b"GET / HTTP/1.1\r\nHost: d\r\n").await.unwrap();
            let mut rest = Vec::new();
            timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await.unwrap().unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn a_header_byte_by_byte_is_cut_off_all_the_same() {
    assault_with(
        "",
        |config| config.timing.header = Duration::from_millis(200),
        async |door| {
            let (mut read, mut write) = door.tcp(MALLORY).await.into_split();
            let drip = async {
                loop {
                    if write.write_all(b"X").await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut rest = Vec::new();
            tokio::select! {
                // A reset is an end as well.
                end = timeout(Duration::from_secs(5), read.read_to_end(&mut rest)) => assert!(end.is_ok()),
                () = drip => {}
            }
        },
    )
    .await;
}

#[tokio::test]
async fn sockets_that_say_nothing_are_counted_and_dropped() {
    assault(async |door| {
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(door.tcp(MALLORY).await);
        }
        door.alice().await.turn("main", "hi", "k").await;
        let mut open = 0;
        for stream in &mut silent {
            let mut byte = [0];
            let read = timeout(Duration::from_millis(2), stream.read(&mut byte)).await;
            open += usize::from(read.is_err());
        }
        assert!(open <= 64, "{open} are left to one address");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_never_comes_holds_up_nobody() {
    assault(async |door| {
        let mut lazy = door.tcp(MALLORY).await;
        lazy.write_all(b"POST /healthz HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        lazy.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 405");
    })
    .await;
}
