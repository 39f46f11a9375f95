//! Rules that change while somebody is inside.

use agent_mesh_gateway::{Access, Member, Policy, Roster};
use serde_json::json;

use crate::door::*;
use crate::support::*;

#[tokio::test]
async fn who_is_denied_while_inside_is_put_out() {
    assault(async |door| {
        let (mut alice, mut bob) = (door.alice().await, door.bob().await);
        door.reload.access(access("[peers.alice]\nmode = \"deny\""));
        assert_eq!(alice.close().await, (4001, "access withdrawn".into()));
        assert_eq!(bob.ok("health", json!({})).await["ok"], true, "and nobody else");
        assert_eq!(code(&door.knock(&by_device(ALICES), ALICE).await), "POLICY_DENIED");
    })
    .await;
}

#[tokio::test]
async fn who_leaves_the_team_is_put_out_and_has_to_ask() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let policy = Policy::open();
        door.reload.access(Access { policy, roster: Roster::default() });
        assert_eq!(alice.close().await.0, 4001);
        assert_eq!(code(&door.knock(&by_device(ALICES), ALICE).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn the_device_token_of_who_left_the_team_is_worthless() {
    assault(async |door| {
        let hello = door.knock(&by_device(ALICES), ALICE).await;
        let token = hello["payload"]["auth"]["deviceToken"].as_str().unwrap().to_owned();
        door.reload.access(Access { policy: Policy::open(), roster: Roster::default() });
        let answer = door.knock(&Hello::device_token(&token).device(ALICES), ALICE).await;
        assert_eq!(code(&answer), "AUTH_DEVICE_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn who_came_with_a_token_that_ended_is_put_out() {
    assault(async |door| {
        let mut carol = door.carol().await;
        door.reload.access(Access { policy: Policy::open(), ..access("") });
        assert_eq!(carol.close().await, (4001, "access withdrawn".into()));
        assert_eq!(code(&door.knock(&Hello::token(CAROLS_TOKEN), CAROL).await), "AUTH_TOKEN_MISMATCH");
    })
    .await;
}

#[tokio::test]
async fn a_tighter_rule_holds_at_once_for_who_is_inside() {
    assault(async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "a long message", "k1").await;
        door.reload.access(access("[peers.alice]\nmessage-bytes = 3"));
        assert_eq!(rule(&alice.error("agent", say("main", "a long message", "k2")).await), "message-bytes");
    })
    .await;
}

#[tokio::test]
async fn a_wider_rule_holds_at_once_for_who_is_inside() {
    assault_on("[peers.alice]\nmessage-bytes = 3", async |door| {
        let mut alice = door.alice().await;
        assert_eq!(rule(&alice.error("agent", say("main", "a long message", "k1")).await), "message-bytes");
        door.reload.access(access(""));
        alice.turn("main", "a long message", "k1").await;
    })
    .await;
}

#[tokio::test]
async fn what_was_spent_before_is_spent_afterwards() {
    assault_on("[peers.alice]\nruns-per-day = 2", async |door| {
        let mut alice = door.alice().await;
        alice.turn("main", "hi", "k1").await;
        alice.turn("main", "hi", "k2").await;
        door.reload.access(access("[peers.alice]\nruns-per-day = 2"));
        assert_eq!(rule(&alice.error("agent", say("main", "hi", "k3")).await), "runs-per-day");
    })
    .await;
}

#[tokio::test]
async fn a_run_under_way_ends_as_it_began() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "", |_| {}).await;
    let mut alice = door.alice().await;
    let id = alice.request("agent", say("main", "work", "k")).await;
    alice.answer(&id).await;
    let held = turns.recv().await.unwrap();
    door.reload.access(access("[peers.alice]\nruns-per-day = 0"));
    held.finish.send(Ok("done".into())).unwrap();
    assert_eq!(reply(&alice.answer(&id).await), "done");
}

#[tokio::test]
async fn who_gets_another_name_has_to_come_again() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let renamed =
            Member { key: "alicia".into(), device_id: Some(device_id(ALICES)), ..Member::default() };
        door.reload.access(Access { policy: Policy::open(), roster: Roster::new([renamed]) });
        assert_eq!(alice.close().await.0, 1012, "what is his is under another name now");
    })
    .await;
}

#[tokio::test]
async fn a_device_that_two_claim_from_now_on_is_nobodys() {
    assault(async |door| {
        let mut alice = door.alice().await;
        let member =
            |key: &str| Member { key: key.into(), device_id: Some(device_id(ALICES)), ..Member::default() };
        let roster = Roster::new([member("alice"), member("mallory")]);
        door.reload.access(Access { policy: Policy::open(), roster });
        assert_eq!(alice.close().await.0, 4001);
        assert_eq!(code(&door.knock(&by_device(ALICES), ALICE).await), "PAIRING_REQUIRED");
    })
    .await;
}

#[tokio::test]
async fn the_owner_is_never_put_out() {
    assault(async |door| {
        let mut owner = door.owner().await;
        let policy = Policy::parse("").unwrap();
        door.reload.access(Access { policy, roster: Roster::default() });
        owner.turn("main", "still here", "k").await;
    })
    .await;
}

#[tokio::test]
async fn nobody_slips_in_while_the_rules_change() {
    assault(async |door| {
        for round in 0..20 {
            let deny = async {
                tokio::task::yield_now().await;
                door.reload.access(access("[peers.alice]\nmode = \"deny\""));
            };
            let enter = async {
                let mut alice = door.dial(ALICE).await;
                let answer = alice.connect(&by_device(ALICES)).await;
                (alice, answer["ok"] == true)
            };
            let ((mut alice, came_in), ()) = tokio::join!(enter, deny);
            if came_in {
                assert_eq!(alice.close().await.0, 4001, "round {round}");
            }
            door.reload.access(access(""));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_held_of_who_is_denied_stays_the_owners_to_decide() {
    let (puppet, mut turns) = Puppet::new();
    let door = Door::open(puppet, "[peers.alice]\nmode = \"approve\"", |_| {}).await;
    door.alice().await.ok("agent", say("main", "please", "k")).await;
    door.reload.access(access("[peers.alice]\nmode = \"deny\""));
    let mut owner = door.owner().await;
    let held = owner.ok("mesh.inbox.list", json!({})).await;
    assert_eq!(held["held"].as_array().unwrap().len(), 1);
    assert!(turns.try_recv().is_err());
}
