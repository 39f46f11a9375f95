//! The table of who gets which rights.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::*;

fn scopes(answer: &Value) -> Vec<&str> {
    let scopes = answer["payload"]["auth"]["scopes"].as_array();
    scopes.unwrap_or_else(|| panic!("{answer}")).iter().map(|scope| scope.as_str().unwrap()).collect()
}

fn code(answer: &Value) -> &str {
    assert_eq!(answer["ok"], false, "{answer}");
    answer["error"]["details"]["code"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn loopback_and_the_shared_token_are_the_owner() {
    let gateway = Fixture::echo().await;
    let all = ["operator.admin", "operator.pairing"];
    let hello = Hello::token(TOKEN).scopes(&all);
    let pairs =
        [("gateway-client", "backend"), ("cli", "cli"), ("test", "test"), ("openclaw-probe", "probe")];
    for (id, mode) in pairs {
        let answer = gateway.try_connect(&hello.clone().client(id, mode), LOCAL).await;
        assert_eq!(scopes(&answer), all, "{id}/{mode}");
        assert_eq!(answer["payload"]["auth"]["deviceToken"], Value::Null);
    }
    for from in ["[::1]:1", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(scopes(&gateway.try_connect(&hello, from).await), all, "{from}");
    }
    let password = Hello::auth(json!({ "password": TOKEN }));
    assert_eq!(scopes(&gateway.try_connect(&password, LOCAL).await), RW);
    assert!(scopes(&gateway.try_connect(&hello.scopes(&[]), LOCAL).await).is_empty());
}

#[tokio::test]
async fn a_local_device_is_paired_silently_unless_it_is_a_backend() {
    let gateway = Fixture::echo().await;
    let backend = gateway.try_connect(&Hello::token(TOKEN).device(1), LOCAL).await;
    assert_eq!((scopes(&backend), &backend["payload"]["auth"]["deviceToken"]), (RW.to_vec(), &Value::Null));
    let mut owner = gateway.owner().await;
    assert_eq!(owner.ok("device.pair.list", json!({})).await["paired"], json!([]));

    let cli = gateway.try_connect(&Hello::token(TOKEN).device(1).client("cli", "cli"), LOCAL).await;
    let token = cli["payload"]["auth"]["deviceToken"].as_str().unwrap();
    assert_eq!(token.len(), 43);
    let row = owner.ok("device.pair.list", json!({})).await["paired"][0].clone();
    assert_eq!((&row["approvedVia"], &row["deviceId"]), (&json!("silent"), &json!(device_id(1))));
    // The invitation of a host: the device goes remote with the token that it got here.
    let remote = gateway.try_connect(&Hello::device_token(token).device(1), BOB).await;
    assert_eq!(scopes(&remote), RW);
    assert_eq!(remote["payload"]["auth"]["deviceToken"], *token);
}

#[tokio::test]
async fn a_remote_shared_token_alone_gives_nothing() {
    let gateway = Fixture::echo().await;
    let mut client = gateway.client(&Hello::token(TOKEN).scopes(&["operator.admin"]), BOB).await;
    assert_eq!(client.ok("health", json!({})).await["ok"], true);
    for method in ["agent", "status", "device.pair.list", "no.such.method"] {
        assert_eq!(client.error(method, json!({})).await["code"], "FORBIDDEN", "{method}");
    }
}

#[tokio::test]
async fn a_paired_remote_device_gets_messaging_and_no_more() {
    let gateway = Fixture::echo().await;
    let token = gateway.pair(1, &RW).await;
    let cases: [(Hello, &str, Result<Vec<&str>, &str>); 9] = [
        (Hello::token(TOKEN), BOB, Ok(RW.to_vec())),
        (Hello::token(TOKEN).scopes(&["operator.admin", "operator.read"]), BOB, Ok(vec!["operator.read"])),
        (Hello::device_token(&token), BOB, Ok(RW.to_vec())),
        (Hello::token(&token), BOB, Ok(RW.to_vec())),
        (Hello::auth(json!({ "token": "wrong", "deviceToken": token })), BOB, Ok(RW.to_vec())),
        (Hello::device_token(&token).scopes(&["operator.read"]), CAROL, Ok(vec!["operator.read"])),
        (Hello::device_token(&token).scopes(&[]), LOCAL, Ok(vec![])),
        (Hello::device_token(&token).scopes(&["operator.pairing"]), BOB, Err("AUTH_SCOPE_MISMATCH")),
        (Hello::device_token(&token).scopes(&["operator.admin"]), LOCAL, Err("AUTH_SCOPE_MISMATCH")),
    ];
    for (i, (hello, from, expected)) in cases.into_iter().enumerate() {
        let answer = gateway.try_connect(&hello.device(1), from).await;
        match expected {
            Ok(expected) => assert_eq!(scopes(&answer), expected, "case {i}"),
            Err(expected) => assert_eq!(code(&answer), expected, "case {i}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_and_missing_credentials_are_told_apart() {
    let gateway = Fixture::echo().await;
    let token = gateway.pair(1, &RW).await;
    let none = Hello::auth(json!({}));
    for from in [BOB, LOCAL] {
        let cases = [
            (none.clone(), "DEVICE_IDENTITY_REQUIRED"),
            (Hello::token(""), "DEVICE_IDENTITY_REQUIRED"),
            (Hello::token("wrong"), "AUTH_TOKEN_MISMATCH"),
            (Hello::token("wrong").device(1), "AUTH_TOKEN_MISMATCH"),
            (Hello::token(&token), "AUTH_TOKEN_MISMATCH"),
            (Hello::device_token(&token), "DEVICE_IDENTITY_REQUIRED"),
            (Hello::device_token(&token).device(2), "AUTH_DEVICE_TOKEN_MISMATCH"),
            (Hello::device_token("wrong").device(1), "AUTH_DEVICE_TOKEN_MISMATCH"),
            (Hello::device_token(TOKEN).device(1), "AUTH_DEVICE_TOKEN_MISMATCH"),
            (Hello::auth(json!({ "bootstrapToken": "b" })).device(1), "AUTH_BOOTSTRAP_TOKEN_INVALID"),
        ];
        for (i, (hello, expected)) in cases.into_iter().enumerate() {
            let mut client = gateway.dial(from).await;
            let answer = client.connect(&hello).await;
            assert_eq!(code(&answer), expected, "case {i} from {from}");
            let message = answer["error"]["message"].as_str().unwrap().to_owned();
            assert_eq!(client.close().await, (1008, message));
        }
    }
    let asks = gateway.try_connect(&none.device(2), BOB).await;
    assert_eq!(code(&asks), "PAIRING_REQUIRED", "to ask, no token is needed");
    let hint = gateway.try_connect(&Hello::token("wrong").device(1), LOCAL).await;
    assert_eq!(hint["error"]["details"]["canRetryWithDeviceToken"], true);
}

#[tokio::test]
async fn a_bad_proof_is_refused_whatever_the_token() {
    let gateway = Fixture::echo().await;
    let hello = Hello::token(TOKEN).device(1);
    let cases: [(fn(&mut Value), &str); 7] = [
        (|p| p["device"]["signature"] = json!("AAAA"), "DEVICE_AUTH_SIGNATURE_INVALID"),
        (|p| p["scopes"] = json!(["operator.write", "operator.read"]), "DEVICE_AUTH_SIGNATURE_INVALID"),
        (|p| p["auth"]["token"] = json!("other"), "DEVICE_AUTH_SIGNATURE_INVALID"),
        (|p| p["device"]["id"] = json!("00"), "DEVICE_AUTH_DEVICE_ID_MISMATCH"),
        (|p| p["device"]["nonce"] = json!("replayed"), "DEVICE_AUTH_NONCE_MISMATCH"),
        (|p| p["device"]["nonce"] = json!(" "), "DEVICE_AUTH_NONCE_REQUIRED"),
        (|p| p["device"]["signedAt"] = json!(1), "DEVICE_AUTH_SIGNATURE_EXPIRED"),
    ];
    for _ in 0..3 {
        for (spoil, expected) in cases {
            // 21 of them: signature faults do not count towards the lockout.
            assert_eq!(code(&gateway.try_connect(&hello.clone().spoil(spoil), BOB).await), expected);
        }
    }
    assert_eq!(code(&gateway.try_connect(&hello, BOB).await), "PAIRING_REQUIRED");
}

#[tokio::test(start_paused = true)]
async fn ten_failures_lock_a_remote_address_out_for_five_minutes() {
    let gateway = Fixture::echo().await;
    let (wrong, right) = (Hello::token("wrong").device(1), Hello::token(TOKEN).device(1));
    for _ in 0..10 {
        assert_eq!(code(&gateway.try_connect(&wrong, BOB).await), "AUTH_TOKEN_MISMATCH");
    }
    let locked = gateway.try_connect(&right, BOB).await;
    assert_eq!(code(&locked), "AUTH_RATE_LIMITED", "even the right one");
    assert_eq!(locked["error"]["retryable"], true);
    let left = locked["error"]["retryAfterMs"].as_u64().unwrap();
    assert!((290_000..=300_000).contains(&left), "{left}");

    let device = gateway.try_connect(&Hello::device_token("x").device(1), BOB).await;
    assert_eq!(code(&device), "AUTH_DEVICE_TOKEN_MISMATCH", "another kind of credential");
    assert_eq!(code(&gateway.try_connect(&right, CAROL).await), "PAIRING_REQUIRED", "another address");
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    assert_eq!(code(&gateway.try_connect(&right, BOB).await), "PAIRING_REQUIRED");

    for _ in 0..30 {
        assert_eq!(
            code(&gateway.try_connect(&wrong, LOCAL).await),
            "AUTH_TOKEN_MISMATCH",
            "loopback is exempt"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn guesses_from_loopback_are_answered_later_and_later() {
    let gateway = Fixture::echo().await;
    let timed = async |hello: &Hello, from: &str| {
        let start = Instant::now();
        let answer = gateway.try_connect(hello, from).await;
        (answer["ok"] == true, start.elapsed().as_millis())
    };
    let wrong = Hello::token("wrong");
    for (i, delay) in [250, 500, 1000, 2000, 4000, 5000, 5000].into_iter().enumerate() {
        // All of 127.0.0.0/8 is one.
        let (good, took) = timed(&wrong, &format!("127.0.0.{i}:1")).await;
        assert!(!good && (delay..delay + 50).contains(&took), "{i}: {took}");
    }
    let guess = async || timed(&wrong, LOCAL).await;
    let right = async || timed(&Hello::token(TOKEN), LOCAL).await;
    let ((_, late), (good, soon)) = tokio::join!(guess(), right());
    assert!(good && soon < 50 && late >= 5000, "the owner is not kept waiting: {soon}");
    assert!(timed(&wrong, BOB).await.1 < 50, "the lockout is for remote addresses");
}

#[tokio::test]
async fn a_changed_platform_needs_a_new_approval() {
    let gateway = Fixture::echo().await;
    let token = gateway.pair(1, &RW).await;
    let hello = Hello::device_token(&token).device(1);
    assert_eq!(scopes(&gateway.try_connect(&hello.clone().platform("AGENT-MESH"), BOB).await), RW);
    for hello in [hello, Hello::token(TOKEN).device(1)] {
        let answer = gateway.try_connect(&hello.platform("other"), BOB).await;
        assert_eq!(answer["error"]["details"]["reason"], "metadata-upgrade");
        assert_eq!(answer["error"]["details"]["approvedScopes"], json!(RW));
    }
}

#[tokio::test]
async fn more_scopes_than_approved_need_a_new_approval() {
    let gateway = Fixture::echo().await;
    let token = gateway.pair(1, &["operator.read"]).await;
    let wider = Hello::token(TOKEN).device(1);
    let answer = gateway.try_connect(&wider, BOB).await;
    assert_eq!(answer["error"]["details"]["reason"], "scope-upgrade");
    let request = answer["error"]["details"]["requestId"].clone();
    gateway.owner().await.ok("device.pair.approve", json!({ "requestId": request })).await;
    assert_eq!(scopes(&gateway.try_connect(&wider, BOB).await), RW);
    // A human widened it: its token stays good.
    assert_eq!(scopes(&gateway.try_connect(&Hello::device_token(&token).device(1), BOB).await), RW);
}
