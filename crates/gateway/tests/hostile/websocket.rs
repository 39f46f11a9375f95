//! WebSocket frames as the RFC forbids them, and readers that do not read.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::door::*;
use crate::http::UPGRADE;

/// A raw stream behind the upgrade; its challenge is read.
async fn open(door: &Door, from: &str) -> TcpStream {
    let mut stream = door.tcp(from).await;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let _ = stream.read_u8().await.unwrap();
    let length = match stream.read_u8().await.unwrap() {
        126 => usize::from(stream.read_u16().await.unwrap()),
        short => usize::from(short),
    };
    let mut challenge = vec![0; length];
    stream.read_exact(&mut challenge).await.unwrap();
    stream
}

/// A masked frame; the mask is zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        long @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
        huge => {
            bytes.push(0x80 | 127);
            bytes.extend((huge as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// That the door ends a connection that sends these bytes, soon, and says why by this close code.
async fn is_ended(bytes: &[u8], code: u16) {
    assault(async |door| {
        let mut stream = open(door, MALLORY).await;
        let _ = stream.write_all(bytes).await;
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "it is still open");
        assert!(!String::from_utf8_lossy(&rest).contains("hello-ok"));
        assert_eq!(close_code(&rest), Some(code), "{rest:?}");
    })
    .await;
}

/// The code of the close frame among short frames of the door's.
fn close_code(mut frames: &[u8]) -> Option<u16> {
    while let [first, length, rest @ ..] = frames {
        let (payload, others) = rest.split_at_checked(usize::from(*length))?;
        if *first == 0x88 {
            return Some(u16::from_be_bytes(payload.first_chunk().copied()?));
        }
        frames = others;
    }
    None
}

#[tokio::test]
async fn a_frame_without_a_mask_ends_it() {
    is_ended(b"\x81\x02{}", 1002).await;
}

#[tokio::test]
async fn a_reserved_bit_ends_it() {
    is_ended(&frame(0xc1, b"{}"), 1002).await;
}

#[tokio::test]
async fn a_reserved_opcode_ends_it() {
    is_ended(&frame(0x83, b"{}"), 1002).await;
}

#[tokio::test]
async fn a_reserved_control_opcode_ends_it() {
    is_ended(&frame(0x8b, b""), 1002).await;
}

#[tokio::test]
async fn a_continuation_of_nothing_ends_it() {
    is_ended(&frame(0x80, b"{}"), 1002).await;
}

#[tokio::test]
async fn a_control_frame_in_pieces_ends_it() {
    is_ended(&frame(0x09, b"half a ping"), 1002).await;
}

#[tokio::test]
async fn a_long_control_frame_ends_it() {
    is_ended(&frame(0x89, &[0; 200]), 1009).await;
}

#[tokio::test]
async fn a_text_that_is_no_utf_8_ends_it() {
    is_ended(&frame(0x81, b"\xff\xfe\xfd"), 1007).await;
}

#[tokio::test]
async fn a_new_message_in_the_middle_of_another_ends_it() {
    is_ended(&[frame(0x01, b"half"), frame(0x81, b"{}")].concat(), 1002).await;
}

#[tokio::test]
async fn a_frame_that_announces_25_mib_is_not_waited_for() {
    let mut header = vec![0x81, 0x80 | 127];
    header.extend((25_u64 * 1024 * 1024).to_be_bytes());
    header.extend([0; 4]);
    is_ended(&header, 1009).await;
}

#[tokio::test]
async fn a_frame_that_announces_more_than_there_is_ends_it() {
    let mut header = vec![0x81, 0x80 | 127];
    header.extend(u64::MAX.to_be_bytes());
    header.extend([0; 4]);
    is_ended(&header, 1009).await;
}

#[tokio::test]
async fn a_length_with_its_highest_bit_set_ends_it() {
    let mut header = vec![0x82, 0x80 | 127];
    header.extend((1_u64 << 63).to_be_bytes());
    header.extend([0; 4]);
    is_ended(&header, 1009).await;
}

#[tokio::test]
async fn fragments_that_add_up_to_too_much_end_it() {
    let part = |first| frame(first, &[b'x'; 40_000]);
    is_ended(&[part(0x01), part(0x00)].concat(), 1009).await;
}

#[tokio::test]
async fn a_close_with_a_code_of_none_ends_it() {
    is_ended(&frame(0x88, &[0, 0]), 1002).await;
}

#[tokio::test]
async fn a_close_with_half_a_code_ends_it() {
    is_ended(&frame(0x88, &[3]), 1002).await;
}

#[tokio::test]
async fn what_comes_after_a_close_is_not_read() {
    let connect = br#"{"type":"req","id":"1","method":"connect","params":{}}"#;
    is_ended(&[frame(0x88, &[3, 0xe8]), frame(0x81, connect)].concat(), 1000).await;
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_it() {
    is_ended(b"GET /healthz HTTP/1.1\r\nHost: d\r\n\r\n", 1002).await;
}

#[tokio::test]
async fn a_request_in_pieces_of_one_byte_is_answered() {
    assault(async |door| {
        let mut stream = open(door, MALLORY).await;
        let text = br#"{"type":"req","id":"1","method":"health"}"#;
        for (i, byte) in text.iter().enumerate() {
            let first = if i == 0 {
                0x01
            } else if i + 1 == text.len() {
                0x80
            } else {
                0x00
            };
            stream.write_all(&frame(first, &[*byte])).await.unwrap();
        }
        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&rest).contains("first request must be connect"));
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_pings_is_survived() {
    assault(async |door| {
        let mut alice = door.alice().await;
        for _ in 0..2000 {
            alice.send_message(Message::Ping(vec![0; 100].into())).await;
        }
        assert_eq!(alice.ok("health", json!({})).await["ok"], true);
    })
    .await;
}

#[tokio::test]
async fn who_never_answers_a_ping_is_dropped() {
    let impatient = |config: &mut agent_mesh_gateway::Config| {
        config.timing.ping = Duration::from_millis(50);
        config.timing.silence = Duration::from_millis(150);
    };
    assault_with("", impatient, async |door| {
        let mut alice = door.dial(ALICE).await;
        alice.connect(&by_device(ALICES)).await;
        // A client that is not polled answers no ping.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut ended = false;
        for _ in 0..100 {
            if alice.frame().await.is_none() {
                ended = true;
                break;
            }
        }
        assert!(ended);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_is_dropped_and_holds_up_nobody() {
    assault_with(
        "",
        |config| config.limits.buffered_bytes = 200_000,
        async |door| {
            let mut deaf = door.alice().await;
            let text = "x".repeat(50_000);
            let mut sent = 0;
            for i in 0..200 {
                let frame = json!({ "type": "req", "id": i.to_string(), "method": "chat.history",
                "params": { "sessionKey": text.get(..400) } });
                deaf.send(&frame).await;
                sent += 1;
            }
            assert_eq!(sent, 200);
            door.bob().await.turn("main", "hi", "k").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_message_larger_than_a_frame_may_be_ends_the_connection() {
    assault_with(
        "",
        |config| config.limits.payload = 100_000,
        async |door| {
            let mut alice = door.alice().await;
            alice.send_text(&"x".repeat(100_001)).await;
            assert_eq!(alice.close().await.0, 1009);
        },
    )
    .await;
}

#[tokio::test]
async fn who_may_not_write_may_not_send_much_either() {
    assault(async |door| {
        let mut reader = door.enter(&by_device(ALICES).scopes(&["operator.read"]), ALICE).await;
        reader.send_text(&"x".repeat(300_000)).await;
        assert_eq!(reader.close().await.0, 1009);
    })
    .await;
}

#[tokio::test]
async fn two_hundred_who_leave_in_the_middle_of_a_word_leave_nothing_behind() {
    assault(async |door| {
        for _ in 0..200 {
            let mut stream = open(door, MALLORY).await;
            stream.write_all(&frame(0x81, b"{\"type\":\"req\"")[..8]).await.unwrap();
        }
        door.alice().await.turn("main", "hi", "k").await;
    })
    .await;
}
