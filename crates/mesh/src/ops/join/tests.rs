use openclaw_client::Secret;

use super::*;

fn invite(url: &str, from: Option<&str>) -> Invite {
    Invite {
        from: from.map(|prefix| To { name: "Robert".into(), email_prefix: prefix.into() }),
        url: url.parse().unwrap(),
        expires_at: None,
        pin: Some("ab".repeat(32).parse().unwrap()),
        gateway_id: None,
        code: Secret::new("code".into()),
        proof: None,
    }
}

fn at(ip: &str) -> Agent {
    Agent { ip: Some(ip.into()), ..Agent::new("Bob", "bob") }
}

#[test]
fn what_the_registry_says_stays_and_the_rest_is_filled_in() {
    let url = "wss://10.0.0.11:18789";
    let mut nowhere = at("");
    assert_eq!(complete(&mut nowhere, &invite(url, None), false), ["url", "tlsFingerprint"]);
    assert_eq!((nowhere.url.as_deref(), nowhere.tls_fingerprint.unwrap().len()), (Some(url), 64));

    let elsewhere = Agent { tls_fingerprint: Some("cd".repeat(32)), ..at("10.0.0.12") };
    let mut kept = elsewhere.clone();
    assert!(complete(&mut kept, &invite(url, None), false).is_empty());
    assert_eq!(kept, elsewhere);
    assert_eq!(complete(&mut kept, &invite(url, None), true), ["url", "tlsFingerprint"]);
    assert_eq!((kept.url.as_deref(), kept.tls_fingerprint), (Some(url), Some("ab".repeat(32))));
}

#[test]
fn an_invite_that_contradicts_the_registry_is_not_followed() {
    let to = To::from(&at(""));
    let check = |known: &Agent| {
        let pinned = known.tls_pin().unwrap();
        agree(&to, Some(known), pinned, &invite("wss://10.0.0.11:18789", None))
    };
    let there = Agent { url: Some("wss://10.0.0.11:18789".into()), ..Agent::new("Bob", "bob") };
    check(&there).unwrap();
    check(&at("")).unwrap();
    assert!(matches!(check(&at("10.0.0.11")), Err(MeshError::InviteElsewhere { .. })), "without TLS");
    let pinned = Agent { tls_fingerprint: Some("cd".repeat(32)), ..there };
    assert!(matches!(
        check(&pinned),
        Err(MeshError::IdentityChanged { mark: Mark::Certificate, pinned_by: PinnedBy::Registry, .. })
    ));
}

#[test]
fn the_sender_is_named_by_the_user_the_invite_or_the_address() {
    let carol = Agent { ip: Some("10.0.0.13".into()), ..Agent::new("Carol", "carol") };
    let registry = Registry { agents: vec![at("10.0.0.11"), carol], ..Registry::default() };
    let name = |url: &str, says: Option<&str>, from: Option<&str>| {
        sender(&registry, &invite(url, says), from).map(|to| to.name).map_err(|error| error.to_string())
    };
    let bobs = "ws://10.0.0.11:18789";
    assert_eq!(name(bobs, Some("bob"), None).as_deref(), Ok("Bob"), "the registry knows the name");
    assert_eq!(name(bobs, Some("rob"), None).as_deref(), Ok("Robert"));
    assert_eq!(name(bobs, Some("bob"), Some("carol")).as_deref(), Ok("Carol"));
    assert_eq!(name(bobs, None, Some("dave")).as_deref(), Ok("dave"));
    assert_eq!(name(bobs, None, None).as_deref(), Ok("Bob"), "who lives at the address");
    assert!(name("ws://10.0.0.14:18789", None, None).unwrap_err().contains("--from"));
}
