//! Tokens that are stolen, bent, or shown in the wrong place.

use agent_mesh_gateway::TokenHash;
use serde_json::{Value, json};

use crate::door::*;
use crate::support::*;

fn scopes(answer: &Value) -> &Value {
    assert_eq!(answer["ok"], true, "{answer}");
    &answer["payload"]["auth"]["scopes"]
}

#[tokio::test]
async fn a_members_token_opens_messaging_and_no_more() {
    assault(async |door| {
        let greedy = Hello::token(CAROLS_TOKEN).scopes(&["operator.admin", "operator.pairing"]);
        assert_eq!(scopes(&door.knock(&greedy, CAROL).await), &json!(RW));
    })
    .await;
}

#[tokio::test]
async fn a_members_token_is_no_owners_token_on_loopback() {
    assault(async |door| {
        let hello = Hello::token(CAROLS_TOKEN).scopes(&OWNER);
        let mut carol = door.enter(&hello, LOCAL).await;
        assert_eq!(carol.error("device.pair.list", json!({})).await["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn a_stolen_token_does_not_go_with_another_members_device() {
    assault(async |door| {
        let thief = Hello::token(CAROLS_TOKEN).device(BOBS);
        assert_eq!(code(&door.knock(&thief, BOB).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_members_token_with_a_new_device_leaves_no_approved_device_behind() {
    assault(async |door| {
        door.enter(&Hello::token(CAROLS_TOKEN).device(STRANGE), CAROL).await;
        let listed = door.owner().await.ok("device.pair.list", json!({})).await;
        assert_eq!((&listed["paired"], &listed["pending"]), (&json!([]), &json!([])));
        assert_eq!(code(&door.knock(&by_device(STRANGE), CAROL).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn the_hash_of_a_token_is_no_token() {
    assault(async |door| {
        let hash = TokenHash::of(CAROLS_TOKEN).to_string();
        for shown in [hash.clone(), hash[7..].to_owned()] {
            assert_eq!(code(&door.knock(&Hello::token(&shown), MALLORY).await), "AUTH_TOKEN_MISMATCH");
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_with_a_line_break_is_another_token() {
    assault(async |door| {
        let hello = Hello::token(&format!("{CAROLS_TOKEN}\n"));
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn the_beginning_of_a_token_is_no_token() {
    assault(async |door| {
        let hello = Hello::token(&CAROLS_TOKEN[..CAROLS_TOKEN.len() - 1]);
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_token_in_other_letters_is_another_token() {
    assault(async |door| {
        let hello = Hello::token(&CAROLS_TOKEN.to_uppercase());
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_members_token_is_no_device_token() {
    assault(async |door| {
        let hello = Hello::device_token(CAROLS_TOKEN).device(STRANGE);
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "AUTH_DEVICE_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_members_token_is_no_one_time_code() {
    assault(async |door| {
        let hello = Hello::auth(json!({ "bootstrapToken": CAROLS_TOKEN })).device(STRANGE);
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "AUTH_BOOTSTRAP_TOKEN_INVALID");
    })
    .await;
}

#[tokio::test]
async fn the_owners_token_gives_nothing_to_who_is_not_here() {
    assault(async |door| {
        let hello = Hello::token(TOKEN).scopes(&["operator.admin"]);
        let mut thief = door.enter(&hello, MALLORY).await;
        assert_eq!(thief.error("agent", say("main", "hi", "k")).await["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn the_owners_token_makes_no_member_of_a_strange_device() {
    assault(async |door| {
        let hello = Hello::token(TOKEN).device(STRANGE);
        assert_eq!(code(&door.knock(&hello, MALLORY).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn the_owners_token_does_not_raise_a_member() {
    assault(async |door| {
        let hello = Hello::token(TOKEN).device(ALICES).scopes(&["operator.read", "operator.admin"]);
        assert_eq!(scopes(&door.knock(&hello, ALICE).await), &json!(["operator.read"]));
    })
    .await;
}

#[tokio::test]
async fn the_token_of_alices_device_is_worthless_without_the_device() {
    assault(async |door| {
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        let token = hello["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();
        let bare = door.knock(&Hello::device_token(&token), MALLORY).await;
        assert_eq!(code(&bare), "DEVICE_IDENTITY_REQUIRED");
        let other = door.knock(&Hello::device_token(&token).device(STRANGE), MALLORY).await;
        assert_eq!(code(&other), "AUTH_DEVICE_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn the_token_of_alices_device_does_not_make_bob_alice() {
    assault(async |door| {
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        let token = hello["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();
        let thief = door.knock(&Hello::device_token(&token).device(BOBS), BOB).await;
        assert_eq!(code(&thief), "AUTH_DEVICE_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_device_token_asks_for_no_more_than_messaging() {
    assault(async |door| {
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        let token = hello["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();
        let more = Hello::device_token(&token).device(ALICES).scopes(&["operator.pairing"]);
        assert_eq!(code(&door.knock(&more, LOCAL).await), "AUTH_SCOPE_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_no_text_is_refused() {
    assault(async |door| {
        for token in [json!(7), json!(["x"]), json!({ "$gt": "" }), json!(true)] {
            let mut stranger = door.dial(MALLORY).await;
            let mut params = Hello::auth(json!({})).params(&stranger.challenge.clone());
            params["auth"]["token"] = token;
            stranger.send(&json!({ "type": "req", "id": "c", "method": "connect", "params": params })).await;
            assert_eq!(stranger.close().await.0, 1008);
        }
    })
    .await;
}

#[tokio::test]
async fn no_refusal_repeats_what_was_shown() {
    assault(async |door| {
        let shown = "my-secret-for-somebody-else";
        for auth in ["token", "password", "deviceToken", "bootstrapToken"] {
            let hello = Hello::auth(json!({ auth: shown }));
            let answer = door.knock(&hello, MALLORY).await;
            assert!(!answer.to_string().contains(shown), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_hello_tells_a_member_nothing_of_others() {
    assault(async |door| {
        let mut others = (door.bob().await, door.with_secrets().await);
        others.0.turn("plans", SECRET, "bobs").await;
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        keeps_quiet(&hello);
        let text = hello.to_string();
        assert!(!text.contains(&device_id(BOBS)) && !text.contains("bob") && !text.contains(CAROLS_TOKEN));
        assert_eq!(hello["payload"]["snapshot"]["presence"], json!([]));
        assert_eq!(hello["payload"]["snapshot"]["health"]["sessions"]["count"], 0);
    })
    .await;
}
