//! Device proofs that are forged, taken from elsewhere, or about something else.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::Signer;
use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

/// Why a connect as Alice with a spoilt proof is refused.
async fn spoilt(door: &Door, spoil: fn(&mut Value)) -> String {
    let answer = door.knock(&by_device(ALICES).spoil(spoil), MALLORY).await;
    code(&answer).to_owned()
}

const INVALID: &str = "DEVICE_AUTH_SIGNATURE_INVALID";
const NOT_THAT_DEVICE: &str = "DEVICE_AUTH_DEVICE_ID_MISMATCH";

#[tokio::test]
async fn a_signature_of_zeros_proves_nothing() {
    assault(async |door| {
        let zeros = |p: &mut Value| p["device"]["signature"] = json!("A".repeat(86));
        assert_eq!(spoilt(door, zeros).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn an_empty_signature_proves_nothing() {
    assault(async |door| {
        assert_eq!(spoilt(door, |p| p["device"]["signature"] = json!("")).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_signature_with_one_bit_changed_proves_nothing() {
    assault(async |door| {
        let flip = |p: &mut Value| {
            let text = p["device"]["signature"].as_str().unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
            bytes[10] ^= 1;
            p["device"]["signature"] = json!(URL_SAFE_NO_PAD.encode(bytes));
        };
        assert_eq!(spoilt(door, flip).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_signature_of_a_megabyte_is_too_big() {
    assault(async |door| {
        let mut stranger = door.dial(MALLORY).await;
        let mut params = by_device(ALICES).params(&stranger.challenge.clone());
        params["device"]["signature"] = json!("A".repeat(1_000_000));
        stranger.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
        assert_eq!(stranger.close().await.0, 1009);
    })
    .await;
}

#[tokio::test]
async fn the_id_of_alice_with_the_key_of_mallory_is_no_device() {
    assault(async |door| {
        let hello = by_device(STRANGE).spoil(|p| p["device"]["id"] = json!(device_id(ALICES)));
        assert_eq!(code(&door.knock(&hello, MALLORY).await), NOT_THAT_DEVICE);
    })
    .await;
}

#[tokio::test]
async fn the_key_of_alice_with_the_signature_of_mallory_proves_nothing() {
    assault(async |door| {
        let hello = by_device(STRANGE).spoil(|p| {
            let key = URL_SAFE_NO_PAD.encode(signing_key(ALICES).verifying_key().as_bytes());
            p["device"]["publicKey"] = json!(key);
            p["device"]["id"] = json!(device_id(ALICES));
        });
        assert_eq!(code(&door.knock(&hello, MALLORY).await), INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_that_was_overheard_is_worth_nothing_on_another_connection() {
    assault(async |door| {
        let mut alice = door.dial(ALICE).await;
        let overheard = by_device(ALICES).params(&alice.challenge.clone());
        assert_eq!(alice.connect(&by_device(ALICES)).await["ok"], true);
        let mut mallory = door.dial(MALLORY).await;
        mallory.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": overheard })).await;
        let answer = mallory.frame().await.unwrap();
        assert_eq!(code(&answer), "DEVICE_AUTH_NONCE_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn an_overheard_signature_with_the_nonce_of_now_proves_nothing() {
    assault(async |door| {
        let alice = door.dial(ALICE).await;
        let overheard = by_device(ALICES).params(&alice.challenge.clone());
        let mut mallory = door.dial(MALLORY).await;
        let mut params = overheard;
        params["device"]["nonce"] = mallory.challenge["nonce"].clone();
        mallory.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
        assert_eq!(code(&mallory.frame().await.unwrap()), INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_for_less_is_none_for_more() {
    assault(async |door| {
        let widen =
            |p: &mut Value| p["scopes"] = json!(["operator.read", "operator.write", "operator.admin"]);
        assert_eq!(spoilt(door, widen).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_made_for_no_token_does_not_carry_one() {
    assault(async |door| {
        let add = |p: &mut Value| p["auth"] = json!({ "token": CAROLS_TOKEN });
        assert_eq!(spoilt(door, add).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_for_one_client_is_none_for_another() {
    assault(async |door| {
        assert_eq!(spoilt(door, |p| p["client"]["id"] = json!("cli")).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_for_one_platform_is_none_for_another() {
    assault(async |door| {
        assert_eq!(spoilt(door, |p| p["client"]["platform"] = json!("darwin")).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_device_family_that_was_not_signed_is_noticed() {
    assault(async |door| {
        assert_eq!(spoilt(door, |p| p["client"]["deviceFamily"] = json!("phone")).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_from_the_last_century_is_stale() {
    assault(async |door| {
        let old = |p: &mut Value| p["device"]["signedAt"] = json!(1);
        assert_eq!(spoilt(door, old).await, "DEVICE_AUTH_SIGNATURE_EXPIRED");
    })
    .await;
}

#[tokio::test]
async fn a_proof_from_the_end_of_time_is_stale_and_overflows_nothing() {
    assault(async |door| {
        for at in [i64::MAX, i64::MIN] {
            let mut stranger = door.dial(MALLORY).await;
            let mut params = by_device(ALICES).params(&stranger.challenge.clone());
            params["device"]["signedAt"] = json!(at);
            stranger.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
            assert_eq!(code(&stranger.frame().await.unwrap()), "DEVICE_AUTH_SIGNATURE_EXPIRED");
        }
    })
    .await;
}

#[tokio::test]
async fn a_nonce_of_blanks_is_none() {
    assault(async |door| {
        let blank = |p: &mut Value| p["device"]["nonce"] = json!("   ");
        assert_eq!(spoilt(door, blank).await, "DEVICE_AUTH_NONCE_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn an_id_in_upper_case_is_another_id() {
    assault(async |door| {
        let upper = |p: &mut Value| {
            let id = p["device"]["id"].as_str().unwrap().to_uppercase();
            p["device"]["id"] = json!(id);
        };
        assert_eq!(spoilt(door, upper).await, NOT_THAT_DEVICE);
    })
    .await;
}

#[tokio::test]
async fn a_key_of_31_bytes_is_no_key() {
    assault(async |door| {
        let cut = |p: &mut Value| p["device"]["publicKey"] = json!(URL_SAFE_NO_PAD.encode([7; 31]));
        assert_eq!(spoilt(door, cut).await, NOT_THAT_DEVICE);
    })
    .await;
}

/// With the neutral element as key, a signature of zeros verifies for every message where nobody looks closely.
#[tokio::test]
async fn a_key_of_small_order_signs_for_nobody() {
    assault(async |door| {
        let neutral = |p: &mut Value| {
            let mut key = [0; 32];
            key[0] = 1;
            let mut signature = [0; 64];
            signature[0] = 1;
            let hash = <sha2::Sha256 as sha2::Digest>::digest(key);
            let id: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            p["device"]["id"] = json!(id);
            p["device"]["publicKey"] = json!(URL_SAFE_NO_PAD.encode(key));
            p["device"]["signature"] = json!(URL_SAFE_NO_PAD.encode(signature));
        };
        assert_eq!(spoilt(door, neutral).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_signature_over_another_protocols_text_proves_nothing() {
    assault(async |door| {
        let other = |p: &mut Value| {
            let text = format!("I am {}", p["device"]["id"].as_str().unwrap());
            let signature = signing_key(ALICES).sign(text.as_bytes()).to_bytes();
            p["device"]["signature"] = json!(URL_SAFE_NO_PAD.encode(signature));
        };
        assert_eq!(spoilt(door, other).await, INVALID);
    })
    .await;
}

#[tokio::test]
async fn a_proof_that_is_no_object_is_refused() {
    assault(async |door| {
        let mut stranger = door.dial(MALLORY).await;
        let mut params = by_device(ALICES).params(&stranger.challenge.clone());
        params["device"] = json!([device_id(ALICES)]);
        stranger.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
        let (close, why) = stranger.close().await;
        assert!(close == 1008 && why.starts_with("invalid connect params"), "{close} {why}");
    })
    .await;
}

#[tokio::test]
async fn forged_proofs_do_not_lock_anybody_out() {
    assault(async |door| {
        for _ in 0..15 {
            let forged = |p: &mut Value| p["device"]["signature"] = json!("AAAA");
            assert_eq!(spoilt(door, forged).await, INVALID);
        }
        door.enter(&by_device(ALICES), MALLORY).await;
    })
    .await;
}
