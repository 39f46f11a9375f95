//! One-time codes: asking to be let in without the owner's token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::*;

const URL: &str = "ws://10.0.0.1:18789";

/// A client that may mint.
async fn admin(gateway: &Fixture) -> Client {
    gateway.client(&Hello::token(TOKEN).scopes(&["operator.admin"]), LOCAL).await
}

/// Mints a code; gives what it holds.
async fn code(gateway: &Fixture) -> Value {
    let params = json!({ "bootstrapProfile": "limited", "includeQr": false, "publicUrl": URL });
    let minted = admin(gateway).await.ok("device.pair.setupCode", params).await;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(minted["setupCode"].as_str().unwrap()).unwrap()).unwrap()
}

fn hello(code: &Value) -> Hello {
    Hello::auth(json!({ "bootstrapToken": code["bootstrapToken"] })).device(1)
}

fn detail(answer: &Value) -> &str {
    answer["error"]["details"]["code"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn a_code_looks_as_the_real_gateways() {
    let gateway = Fixture::echo().await;
    let params = json!({ "bootstrapProfile": "limited", "includeQr": false, "publicUrl": URL });
    let mut minted = admin(&gateway).await.ok("device.pair.setupCode", params).await;
    let code = minted["setupCode"].take();
    let code = URL_SAFE_NO_PAD.decode(code.as_str().unwrap()).unwrap();
    let code: Value = serde_json::from_slice(&code).unwrap();
    assert_eq!(code["url"], URL);
    assert_eq!(code["bootstrapToken"].as_str().unwrap().len(), 43);
    assert_eq!(code["expiresAtMs"], minted["expiresAtMs"]);
    assert_eq!(code.as_object().unwrap().len(), 3, "{code}");
    assert!(minted["setupId"].is_string());
    for (key, value) in
        [("gatewayUrl", URL), ("auth", "token"), ("urlSource", "request.publicUrl"), ("access", "limited")]
    {
        assert_eq!(minted[key], value, "{key}");
    }
    assert_eq!(minted["accessDowngraded"], Value::Null);
}

#[tokio::test]
async fn only_the_owner_mints_and_only_limited_codes() {
    let gateway = Fixture::echo().await;
    let params = json!({ "bootstrapProfile": "limited", "publicUrl": URL });
    let error = gateway.owner().await.error("device.pair.setupCode", params).await;
    assert_eq!(error["details"]["missingScope"], "operator.admin", "the right to approve is not enough");

    let mut admin = admin(&gateway).await;
    let node = json!({ "bootstrapProfile": "node", "publicUrl": URL });
    assert_eq!(admin.error("device.pair.setupCode", node).await["code"], "INVALID_REQUEST");
    let public = json!({ "bootstrapProfile": "limited", "publicUrl": "ws://203.0.113.1:18789" });
    assert_eq!(admin.error("device.pair.setupCode", public).await["code"], "INVALID_REQUEST");
    let error = admin.error("device.pair.setupCode", json!({ "bootstrapProfile": "limited" })).await;
    assert!(error["message"].as_str().unwrap().starts_with("Gateway is only bound to loopback"), "{error}");
    let full = admin.ok("device.pair.setupCode", json!({ "publicUrl": "wss://bob.example.com" })).await;
    assert_eq!((&full["access"], &full["accessDowngraded"]), (&json!("limited"), &json!(true)));
}

/// From a tunnel's end, too: it is no proof that the owner let somebody in.
#[tokio::test]
async fn a_code_is_asked_with_and_fetches_what_the_approval_brings() {
    for from in [BOB, LOCAL] {
        let gateway = Fixture::echo().await;
        let code = code(&gateway).await;
        let asked = gateway.try_connect(&hello(&code), from).await;
        assert_eq!(detail(&asked), "PAIRING_REQUIRED", "{from}");
        assert_eq!(asked["error"]["details"]["requestedScopes"], json!(RW));

        let mut owner = gateway.owner().await;
        let id = &asked["error"]["details"]["requestId"];
        let pending = owner.ok("device.pair.list", json!({})).await["pending"].clone();
        assert_eq!((&pending[0]["requestId"], &pending[0]["scopes"]), (id, &json!(RW)));
        owner.ok("device.pair.approve", json!({ "requestId": id })).await;
        let [first, again] =
            [gateway.try_connect(&hello(&code), from).await, gateway.try_connect(&hello(&code), from).await];
        let token = first["payload"]["auth"]["deviceToken"].as_str().unwrap_or_else(|| panic!("{first}"));
        assert_eq!(again["payload"]["auth"]["deviceToken"], token, "an answer that was lost is given again");
        assert_eq!(first["payload"]["auth"]["scopes"], json!(RW));
        assert_eq!(gateway.try_connect(&Hello::device_token(token).device(1), BOB).await["ok"], true);
    }
}

#[tokio::test]
async fn a_code_belongs_to_the_device_that_showed_it_first() {
    let gateway = Fixture::echo().await;
    let code = code(&gateway).await;
    let invalid = "AUTH_BOOTSTRAP_TOKEN_INVALID";
    for scopes in [&[][..], &["operator.admin"], &["operator.write", "operator.pairing"]] {
        let greedy = hello(&code).device(2).scopes(scopes);
        assert_eq!(detail(&gateway.try_connect(&greedy, CAROL).await), invalid, "{scopes:?}");
    }
    assert_eq!(detail(&gateway.try_connect(&hello(&code), BOB).await), "PAIRING_REQUIRED");
    assert_eq!(detail(&gateway.try_connect(&hello(&code).device(2), CAROL).await), invalid);
    let nobody = Hello { device: None, ..hello(&code) };
    assert_eq!(detail(&gateway.try_connect(&nobody, BOB).await), "DEVICE_IDENTITY_REQUIRED");
    let node = hello(&code).spoil(|params| params["role"] = json!("node"));
    assert_eq!(gateway.try_connect(&node, BOB).await["ok"], false);
    let as_shared = Hello::auth(json!({ "token": code["bootstrapToken"] })).device(1);
    assert_eq!(detail(&gateway.try_connect(&as_shared, BOB).await), "AUTH_TOKEN_MISMATCH");
}

#[tokio::test(start_paused = true)]
async fn a_code_ends_after_ten_minutes_and_with_the_gateway() {
    let gateway = Fixture::echo().await;
    let (used, unused) = (code(&gateway).await, code(&gateway).await);
    assert_eq!(detail(&gateway.try_connect(&hello(&used), BOB).await), "PAIRING_REQUIRED");
    let restarted = Fixture::echo().await;
    assert_eq!(
        detail(&restarted.try_connect(&hello(&used), BOB).await),
        "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "codes are in memory only"
    );
    tokio::time::advance(std::time::Duration::from_secs(600)).await;
    for code in [used, unused] {
        assert_eq!(detail(&gateway.try_connect(&hello(&code), BOB).await), "AUTH_BOOTSTRAP_TOKEN_INVALID");
    }
}

#[tokio::test]
async fn a_removed_device_does_not_come_back_with_its_code() {
    let gateway = Fixture::echo().await;
    let used = code(&gateway).await;
    let asked = gateway.try_connect(&hello(&used), BOB).await;
    let mut owner = gateway.owner().await;
    let id = &asked["error"]["details"]["requestId"];
    owner.ok("device.pair.approve", json!({ "requestId": id })).await;
    let mut live = gateway.client(&hello(&used), BOB).await;
    owner.ok("device.pair.remove", json!({ "deviceId": device_id(1) })).await;
    assert_eq!(live.close().await, (4001, "device removed".to_owned()));
    assert_eq!(detail(&gateway.try_connect(&hello(&used), BOB).await), "AUTH_BOOTSTRAP_TOKEN_INVALID");

    let fresh = code(&gateway).await;
    assert_eq!(detail(&gateway.try_connect(&hello(&fresh), BOB).await), "PAIRING_REQUIRED");
}

#[tokio::test(start_paused = true)]
async fn guesses_of_codes_lock_the_address_out_for_codes_only() {
    let gateway = Fixture::echo().await;
    let right = code(&gateway).await;
    let wrong = hello(&json!({ "bootstrapToken": "guess" }));
    for _ in 0..10 {
        assert_eq!(detail(&gateway.try_connect(&wrong, BOB).await), "AUTH_BOOTSTRAP_TOKEN_INVALID");
    }
    assert_eq!(detail(&gateway.try_connect(&wrong, BOB).await), "AUTH_RATE_LIMITED");
    let invited = gateway.try_connect(&hello(&right), BOB).await;
    assert_eq!(detail(&invited), "PAIRING_REQUIRED", "who shares the address of a guesser is not locked out");
    let shared = Hello::token(TOKEN).device(3);
    assert_eq!(detail(&gateway.try_connect(&shared, BOB).await), "PAIRING_REQUIRED");
    assert_eq!(detail(&gateway.try_connect(&hello(&right), CAROL).await), "PAIRING_REQUIRED");
}
