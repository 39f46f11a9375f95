//! `device.pair.setupCode`: the owner invites somebody.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::Uri;
use openclaw_protocol::ErrorShape;
use openclaw_protocol::methods::device::{MintSetupCode, MintedSetupCode, SetupCode};
use uuid::Uuid;

use super::{Answer, Call, json};
use crate::codes::NotMinted;
use crate::shared::{lock, now};

/// The only profile there is: messaging.
const LIMITED: &str = "limited";

/// Makes a code. Nothing of it is kept but a hash, until it ends.
pub(super) fn mint(call: &Call<'_>) -> Answer {
    let params: MintSetupCode = call.params()?;
    if params.bootstrap_profile.as_deref().is_some_and(|profile| profile != LIMITED) {
        return Err(call.invalid(&"at /bootstrapProfile: this gateway has `limited` only"));
    }
    let (url, url_source) = match params.public_url {
        Some(url) => (checked(url)?, "request.publicUrl"),
        None => (of_listener(call.shared.config.listen)?, "listen"),
    };
    let minted = lock(&call.shared.pairing).codes.mint(now()).map_err(|error| match error {
        NotMinted::Full => ErrorShape::unavailable("too many setup codes are good", "setup-full", 60_000),
        NotMinted::NoRandomness => ErrorShape::new("UNAVAILABLE", "the system gives no randomness"),
    })?;
    let code = SetupCode {
        url: url.clone(),
        bootstrap_token: minted.token.expose().to_owned(),
        expires_at_ms: Some(minted.expires_at_ms),
        tls_fingerprint: None,
    };
    let code = serde_json::to_vec(&code).map_err(|error| ErrorShape::new("INTERNAL", error.to_string()))?;
    json(&MintedSetupCode {
        setup_id: Some(Uuid::new_v4().to_string()),
        expires_at_ms: Some(minted.expires_at_ms),
        setup_code: URL_SAFE_NO_PAD.encode(code),
        gateway_url: url,
        auth: "token".to_owned(),
        url_source: url_source.to_owned(),
        access: Some(LIMITED.to_owned()),
        // Without a profile the real gateway gives everything.
        access_downgraded: params.bootstrap_profile.is_none().then_some(true),
    })
}

/// An address that may stand in a code, as far as the real gateway's rule goes: what is not encrypted stays near.
fn checked(url: String) -> Result<String, ErrorShape> {
    let uri = url.parse::<Uri>().map_err(|_| ErrorShape::invalid("Configured publicUrl is invalid."))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("wss") if !host.is_empty() && !has_user => Ok(url),
        Some("ws") if is_near(host) && !has_user => Ok(url),
        Some("ws") if !host.is_empty() && !has_user => Err(ErrorShape::invalid(
            "ws:// is only valid for localhost, private addresses, .local and .ts.net: use a wss:// publicUrl",
        )),
        _ => Err(ErrorShape::invalid("Configured publicUrl is invalid.")),
    }
}

fn is_near(host: &str) -> bool {
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => {
            // 100.64.0.0/10 is what Tailscale uses.
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared
        }
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".local") || host.ends_with(".ts.net")
        }
    }
}

/// Where others reach us, if the address we listen on says so.
fn of_listener(listen: SocketAddr) -> Result<String, ErrorShape> {
    if listen.ip().to_canonical().is_loopback() {
        return Err(ErrorShape::invalid("Gateway is only bound to loopback. Give a publicUrl."));
    }
    if listen.ip().is_unspecified() {
        return Err(ErrorShape::invalid("Gateway is bound to every address. Give a publicUrl."));
    }
    Ok(format!("ws://{listen}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_encrypted_stays_near() {
        for good in [
            "wss://bob.example.com",
            "wss://203.0.113.1:18789/gw",
            "ws://10.0.0.11:18789",
            "ws://[fd00::1]:18789",
            "ws://100.64.0.1",
            "ws://Bob.local",
            "ws://localhost:1",
        ] {
            assert_eq!(checked(good.to_owned()).as_deref(), Ok(good));
        }
        for bad in [
            "ws://203.0.113.1",
            "ws://bob.example.com",
            "ws://[2001:db8::1]",
            "http://10.0.0.11",
            "wss://user:hunter2@bob",
            "10.0.0.11",
            "",
        ] {
            let error = checked(bad.to_owned()).unwrap_err();
            assert!(!error.message.contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_address_is_given_only_where_it_is_one_for_others() {
        assert_eq!(of_listener("10.0.0.11:18789".parse().unwrap()).unwrap(), "ws://10.0.0.11:18789");
        assert_eq!(of_listener("[fd00::1]:1".parse().unwrap()).unwrap(), "ws://[fd00::1]:1");
        for nowhere in ["127.0.0.1:1", "[::1]:1", "0.0.0.0:1", "[::]:1"] {
            assert!(of_listener(nowhere.parse().unwrap()).is_err(), "{nowhere}");
        }
    }
}
