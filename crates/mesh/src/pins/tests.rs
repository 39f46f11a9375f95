use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn pins() -> (tempfile::TempDir, Pins) {
    let folder = tempfile::tempdir().unwrap();
    let pins = Pins::new(folder.path().join("state/pins.json"));
    (folder, pins)
}

fn identity(digit: &str) -> Option<GatewayIdentity> {
    Some(GatewayIdentity { device_id: digit.repeat(64), public_key: "key".into() })
}

fn on_disk(pins: &Pins) -> Value {
    serde_json::from_slice(&std::fs::read(pins.path()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_gateway_is_kept_as_it_was_first_met() {
    let (_folder, pins) = pins();
    assert_eq!(pins.get("bob").unwrap(), Pin::default());
    let first = pins.meet("Bob", Some("boot-1"), identity("a")).await.unwrap();
    let restarted = pins.meet("bob", Some("boot-2"), identity("a")).await.unwrap();
    assert_eq!((&restarted.identity, restarted.boot_id.as_deref()), (&first.identity, Some("boot-2")));
    let other = pins.meet("bob", Some("boot-3"), identity("b")).await.unwrap();
    assert_eq!(other.identity, first.identity, "what is known is never replaced by being met");
    let mode = std::fs::metadata(pins.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = on_disk(&pins);
    assert_eq!(kept["pins"]["bob"]["identity"]["deviceId"], json!("a".repeat(64)));
    assert_eq!(kept["pins"]["bob"]["bootId"], "boot-3");
}

#[tokio::test]
async fn many_met_at_once_are_all_kept() {
    let (_folder, pins) = pins();
    let names: Vec<String> = (0..64).map(|n| format!("peer-{n}")).collect();
    let all = names.iter().map(|name| pins.meet(name, Some("boot"), identity("a")));
    for met in futures_util::future::join_all(all).await {
        assert!(met.unwrap().identity.is_some());
    }
    assert_eq!(on_disk(&pins)["pins"].as_object().unwrap().len(), names.len());
}

#[tokio::test]
async fn two_programs_that_meet_a_gateway_at_once_agree() {
    let (_folder, ours) = pins();
    let theirs = Pins::new(ours.path());
    assert_eq!(ours.get("bob").unwrap(), Pin::default());
    theirs.meet("bob", Some("boot-1"), identity("a")).await.unwrap();
    let met = ours.meet("bob", Some("boot-9"), identity("b")).await.unwrap();
    assert_eq!(met.identity.unwrap().device_id, "a".repeat(64));
}

#[tokio::test]
async fn certificates_and_identities_are_forgotten_together() {
    let (_folder, pins) = pins();
    pins.set_certificate("Bob", "1".repeat(64).parse().unwrap()).unwrap();
    pins.meet("bob", None, identity("a")).await.unwrap();
    assert_eq!(pins.get("bob").unwrap().certificate.unwrap().fingerprint, "1".repeat(64));
    let known = pins.forget("BOB").unwrap().unwrap();
    assert!(known.identity.is_some() && known.certificate.is_some());
    assert_eq!((pins.get("bob").unwrap(), pins.forget("bob").unwrap()), (Pin::default(), None));
}

#[test]
fn forgetting_nobody_makes_no_file() {
    let (_folder, pins) = pins();
    assert_eq!(pins.forget("bob").unwrap(), None);
    assert!(!pins.path().exists());
}

#[test]
fn fields_of_others_survive_and_a_damaged_file_is_no_first_contact() {
    let (_folder, pins) = pins();
    private_file::write(pins.path(), br#"{"version": 1, "pins": {}}"#).unwrap();
    pins.set_certificate("bob", "1".repeat(64).parse().unwrap()).unwrap();
    assert_eq!(on_disk(&pins)["version"], 1);
    private_file::write(pins.path(), b"{\"pins\": {\"bob\"").unwrap();
    let damaged = Pins::new(pins.path());
    assert!(matches!(damaged.get("bob"), Err(PinsError::Malformed { .. })));
}

/// A broadcast to thousands met them one by one, and wrote a file of thousands each time.
#[tokio::test]
async fn many_met_in_a_row_are_known_at_once_and_written_together() {
    let (_folder, pins) = pins();
    let written = || on_disk(&pins)["pins"].as_object().unwrap().len();
    pins.meeting_many();
    for n in 0..50 {
        let met = pins.meet(&format!("peer-{n}"), Some("boot"), identity("a")).await.unwrap();
        assert_eq!(
            (pins.get(&format!("peer-{n}")).unwrap(), written()),
            (met, 1),
            "the first shows that it can be"
        );
    }
    let other = pins.meet("peer-7", Some("boot-2"), identity("b")).await.unwrap();
    assert_eq!(other.identity.unwrap().device_id, "a".repeat(64), "what is known is not replaced");
    pins.write().await.unwrap();
    pins.met_many();
    assert_eq!(written(), 50);
    assert_eq!(on_disk(&pins)["pins"]["peer-7"]["bootId"], "boot-2");
    pins.meet("late", Some("boot"), identity("a")).await.unwrap();
    assert_eq!(written(), 51);
}

#[tokio::test]
async fn what_could_not_be_written_is_written_with_the_next() {
    let (folder, pins) = pins();
    // A file where the folder should be.
    std::fs::write(folder.path().join("state"), "").unwrap();
    assert!(pins.meet("bob", Some("boot"), identity("a")).await.is_err());
    std::fs::remove_file(folder.path().join("state")).unwrap();
    pins.meet("carol", Some("boot"), identity("a")).await.unwrap();
    assert_eq!(on_disk(&pins)["pins"].as_object().unwrap().len(), 2);
}
