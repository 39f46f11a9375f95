//! Guesses: whoever makes them is locked out, and nobody else.

use serde_json::json;

use crate::door::*;
use crate::support::*;

/// Guesses until the address is locked.
async fn guess(door: &Door, from: &str) {
    for _ in 0..10 {
        assert_eq!(code(&door.knock(&Hello::token("a guess"), from).await), "AUTH_TOKEN_MISMATCH");
    }
    let locked = door.knock(&Hello::token("a guess"), from).await;
    assert_eq!(code(&locked), "AUTH_RATE_LIMITED");
    assert!(
        locked["error"]["retryAfterMs"].as_u64().unwrap() > 290_000 && locked["error"]["retryable"] == true
    );
}

#[tokio::test]
async fn ten_guesses_lock_who_makes_them() {
    assault(async |door| guess(door, MALLORY).await).await;
}

#[tokio::test]
async fn guesses_behind_one_address_do_not_lock_a_member_there_out() {
    assault(async |door| {
        guess(door, MALLORY).await;
        door.enter(&by_device(ALICES), "10.0.0.66:1").await;
    })
    .await;
}

#[tokio::test]
async fn guesses_behind_one_address_do_not_lock_a_members_token_out() {
    assault(async |door| {
        guess(door, MALLORY).await;
        door.enter(&Hello::token(CAROLS_TOKEN), "10.0.0.66:1").await;
    })
    .await;
}

#[tokio::test]
async fn guesses_behind_one_address_do_not_lock_an_approved_device_out() {
    assault(async |door| {
        let token = door.gateway.pair(5, &RW).await;
        for _ in 0..11 {
            door.knock(&Hello::device_token("a guess").device(STRANGE), MALLORY).await;
        }
        guess(door, MALLORY).await;
        door.enter(&Hello::device_token(&token).device(5), MALLORY).await;
    })
    .await;
}

#[tokio::test]
async fn while_locked_even_the_right_owners_token_tells_nothing() {
    assault(async |door| {
        guess(door, MALLORY).await;
        assert_eq!(code(&door.knock(&Hello::token(TOKEN), MALLORY).await), "AUTH_RATE_LIMITED");
        let with_device = Hello::token(TOKEN).device(STRANGE);
        assert_eq!(code(&door.knock(&with_device, MALLORY).await), "AUTH_RATE_LIMITED");
    })
    .await;
}

#[tokio::test]
async fn guesses_elsewhere_do_not_lock_this_address() {
    assault(async |door| {
        guess(door, MALLORY).await;
        assert_eq!(code(&door.knock(&Hello::token("a guess"), BOB).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_whole_ipv6_network_is_one_guesser() {
    assault(async |door| {
        for i in 0..10 {
            let from = format!("[2001:db8::{i}]:1");
            assert_eq!(code(&door.knock(&Hello::token("a guess"), &from).await), "AUTH_TOKEN_MISMATCH");
        }
        let next = door.knock(&Hello::token("a guess"), "[2001:db8::ffff]:1").await;
        assert_eq!(code(&next), "AUTH_RATE_LIMITED");
    })
    .await;
}

#[tokio::test]
async fn an_ipv4_address_in_ipv6_clothes_is_the_same_guesser() {
    assault(async |door| {
        guess(door, "10.0.0.66:1").await;
        let mapped = door.knock(&Hello::token("a guess"), "[::ffff:10.0.0.66]:1").await;
        assert_eq!(code(&mapped), "AUTH_RATE_LIMITED");
    })
    .await;
}

#[tokio::test]
async fn a_device_without_a_token_is_no_guess() {
    assault(async |door| {
        for _ in 0..15 {
            assert_eq!(code(&door.knock(&by_device(STRANGE), MALLORY).await), "PAIRING_REQUIRED");
        }
        assert_eq!(code(&door.knock(&Hello::token("a guess"), MALLORY).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn guesses_on_loopback_do_not_keep_the_owner_out() {
    assault(async |door| {
        let guess = async {
            let mut socket = door.dial(LOCAL).await;
            socket.connect(&Hello::token("a guess")).await
        };
        let owner = async { door.owner().await.ok("health", json!({})).await };
        let (refused, well) = tokio::join!(guess, owner);
        assert_eq!((code(&refused), &well["ok"]), ("AUTH_TOKEN_MISMATCH", &json!(true)));
    })
    .await;
}

#[tokio::test]
async fn a_stolen_token_shown_with_the_wrong_device_counts_as_a_guess() {
    assault(async |door| {
        let thief = Hello::token(CAROLS_TOKEN).device(BOBS);
        for _ in 0..10 {
            assert_eq!(code(&door.knock(&thief, MALLORY).await), "AUTH_TOKEN_MISMATCH");
        }
        assert_eq!(code(&door.knock(&Hello::token("a guess"), MALLORY).await), "AUTH_RATE_LIMITED");
        door.enter(&by_device(BOBS), MALLORY).await;
    })
    .await;
}
