//! Who gets in: the checks of `connect`, and hello-ok.

use serde_json::{Value, json};

use crate::methods;
use crate::recorded::recorded;
use crate::refusal::Refusal;
use crate::world::World;

const CLIENT_IDS: [&str; 17] = [
    "webchat-ui",
    "openclaw-control-ui",
    "openclaw-browser-copilot",
    "openclaw-tui",
    "webchat",
    "cli",
    "gateway-client",
    "openclaw-macos",
    "openclaw-linux",
    "openclaw-ios",
    "openclaw-watchos",
    "openclaw-android",
    "node-host",
    "openclaw-worker",
    "test",
    "fingerprint",
    "openclaw-probe",
];
const CLIENT_MODES: [&str; 7] = ["webchat", "cli", "ui", "backend", "node", "worker", "probe"];
const PARAMS: [&str; 15] = [
    "minProtocol",
    "maxProtocol",
    "client",
    "caps",
    "commands",
    "computerUse",
    "workerRuns",
    "permissions",
    "pathEnv",
    "role",
    "scopes",
    "device",
    "auth",
    "locale",
    "userAgent",
];
const CLIENT: [&str; 10] = [
    "id",
    "displayName",
    "version",
    "buildId",
    "platform",
    "deviceFamily",
    "modelIdentifier",
    "timeZone",
    "mode",
    "instanceId",
];
const DEVICE: [&str; 5] = ["id", "publicKey", "signature", "signedAt", "nonce"];
const AUTH: [&str; 4] = ["token", "deviceToken", "bootstrapToken", "password"];
const READ_WRITE: [&str; 2] = ["operator.read", "operator.write"];

/// A client that got in.
pub(crate) struct Admission {
    pub hello: Value,
    pub scopes: Vec<String>,
    pub session_scoped: bool,
}

/// Judges the first frame of a connection.
pub(crate) fn judge(
    world: &World,
    frame: &Value,
    nonce: Option<&str>,
    number: u32,
) -> Result<Admission, Refusal> {
    if frame["type"] != "req" || frame["method"] != "connect" || !frame["id"].is_string() {
        let message = "invalid handshake: first request must be connect";
        return Err(Refusal::new(json!({"code": "INVALID_REQUEST", "message": message}), 1008));
    }
    let params = &frame["params"];
    check_schema(frame, params)?;
    scripted_refusal(world)?;
    check_protocol(world, params)?;
    check_device(world, &params["device"], nonce)?;
    let (method, scopes) = check_credentials(world, params)?;
    let session_scoped = list(&params["caps"]).iter().any(|cap| cap == "session-scoped-events");
    let hello = hello(world, params, method, &scopes, number);
    Ok(Admission { hello, scopes, session_scoped })
}

fn check_schema(frame: &Value, params: &Value) -> Result<(), Refusal> {
    only_keys("", frame, &["type", "id", "method", "params"])?;
    only_keys("", params, &PARAMS)?;
    only_keys("/client", &params["client"], &CLIENT)?;
    only_keys("/device", &params["device"], &DEVICE)?;
    only_keys("/auth", &params["auth"], &AUTH)?;
    for (name, allowed) in [("id", &CLIENT_IDS[..]), ("mode", &CLIENT_MODES[..])] {
        if !params["client"][name].as_str().is_some_and(|value| allowed.contains(&value)) {
            let problem = format!("at /client/{name}: must be equal to one of the allowed values");
            return Err(Refusal::bad_params(&problem));
        }
    }
    for name in ["version", "platform"] {
        if params["client"][name].as_str().unwrap_or_default().is_empty() {
            return Err(Refusal::bad_params(&format!("at /client: must have required property '{name}'")));
        }
    }
    if !params["role"].is_null() && params["role"] != "operator" {
        return Err(Refusal::new(json!({"code": "INVALID_REQUEST", "message": "invalid role"}), 1008));
    }
    Ok(())
}

fn only_keys(at: &str, value: &Value, allowed: &[&str]) -> Result<(), Refusal> {
    let Some(object) = value.as_object() else { return Ok(()) };
    match object.keys().find(|key| !allowed.contains(&key.as_str())) {
        Some(key) => Err(Refusal::bad_params(&format!("at {at}: unexpected property '{key}'"))),
        None => Ok(()),
    }
}

fn scripted_refusal(world: &World) -> Result<(), Refusal> {
    let connects = world.change(|state| {
        state.connects += 1;
        state.connects
    });
    match &world.script.refusal {
        Some((limit, refusal)) if limit.is_none_or(|limit| connects <= limit) => Err(refusal.clone()),
        _ => Ok(()),
    }
}

fn check_protocol(world: &World, params: &Value) -> Result<(), Refusal> {
    let (min, max) = (&params["minProtocol"], &params["maxProtocol"]);
    let spoken = world.script.protocol;
    if min.as_u64().is_some_and(|min| min <= spoken) && max.as_u64().is_some_and(|max| spoken <= max) {
        return Ok(());
    }
    Err(Refusal::protocol_mismatch(spoken, min, max))
}

/// Shape, nonce and time; the signature itself is not verified (the real gateway judges that).
fn check_device(world: &World, device: &Value, nonce: Option<&str>) -> Result<(), Refusal> {
    if device.is_null() {
        return Ok(());
    }
    for (name, length) in [("id", 64), ("publicKey", 43), ("signature", 86)] {
        if device[name].as_str().map(str::len) != Some(length) {
            return Err(Refusal::bad_params(&format!(
                "at /device/{name}: testkit wants {length} characters"
            )));
        }
    }
    if nonce.is_some() && device["nonce"].as_str() != nonce {
        return Err(Refusal::nonce_mismatch());
    }
    if device["signedAt"].as_u64().is_none_or(|at| at.abs_diff(world.now_ms()) > 120_000) {
        return Err(Refusal::signature_expired());
    }
    Ok(())
}

fn check_credentials(world: &World, params: &Value) -> Result<(&'static str, Vec<String>), Refusal> {
    let auth = |name: &str| params["auth"][name].as_str().filter(|value| !value.is_empty());
    let device = params["device"]["id"].as_str();
    let script = &world.script;
    let holds_device_token = world.read(|state| {
        [auth("deviceToken"), auth("token")]
            .into_iter()
            .flatten()
            .any(|token| state.device_tokens.contains(token))
    });
    let anyone =
        script.shared_token.is_none() && script.bootstrap_token.is_none() && script.device_tokens.is_empty();
    let scopes = list(&params["scopes"]);
    if holds_device_token {
        return match device {
            None => Err(Refusal::device_identity_required()),
            Some(_) if scopes.iter().all(|scope| READ_WRITE.contains(&scope.as_str())) => {
                Ok(("device-token", scopes))
            }
            Some(_) => Err(Refusal::scope_mismatch()),
        };
    }
    let method = match (auth("token"), auth("deviceToken"), auth("bootstrapToken")) {
        _ if anyone => "token",
        (Some(token), _, _) if script.shared_token.as_deref() == Some(token) => "token",
        (_, _, Some(code)) if script.bootstrap_token.as_deref() == Some(code) && device.is_some() => {
            "bootstrap-token"
        }
        (_, Some(_), _) => return Err(Refusal::device_token_mismatch()),
        (Some(_), _, _) => return Err(Refusal::token_mismatch()),
        (_, _, Some(_)) => return Err(Refusal::bootstrap_token_invalid()),
        (None, None, None) if device.is_some() => return Err(Refusal::token_missing()),
        (None, None, None) => return Err(Refusal::device_identity_required()),
    };
    match device {
        None if script.pairing => Ok((method, Vec::new())),
        Some(device) if script.pairing => check_pairing(world, device).map(|()| (method, scopes)),
        _ => Ok((method, scopes)),
    }
}

fn check_pairing(world: &World, device: &str) -> Result<(), Refusal> {
    world.change(|state| {
        if state.approved.contains(device) {
            return Ok(());
        }
        let fresh = state.new_id();
        let request = state.pending.entry(device.to_owned()).or_insert(fresh);
        Err(Refusal::pairing_required(request, device, "not-paired"))
    })
}

fn hello(world: &World, params: &Value, method: &str, scopes: &[String], number: u32) -> Value {
    let script = &world.script;
    let mut hello = if script.protocol > 3 { recorded!("hello-ok", "payload") } else { hello_v3() };
    hello["protocol"] = json!(script.protocol);
    hello["server"]["connId"] = json!(format!("conn-{number}"));
    hello["policy"]["maxPayload"] = json!(script.max_payload);
    hello["policy"]["tickIntervalMs"] = json!(script.tick.as_millis());
    let issued = script.issued.as_ref().filter(|_| !params["device"].is_null());
    if script.protocol > 3 {
        hello["server"]["bootId"] = json!(world.boot_id());
        hello["auth"] = json!({"method": method, "role": "operator", "scopes": scopes});
    } else if issued.is_some() {
        // The oldest gateways have no `auth` at all unless they hand out a device token.
        hello["auth"] = json!({"role": "operator", "scopes": scopes});
    }
    if let Some(token) = issued {
        hello["auth"]["deviceToken"] = json!(token);
        hello["auth"]["issuedAtMs"] = json!(world.now_ms());
        world.change(|state| state.device_tokens.insert(token.clone()));
    }
    merge(&mut hello, &script.hello_extra);
    hello
}

fn hello_v3() -> Value {
    json!({
        "type": "hello-ok", "protocol": 3, "server": {"version": "2026.3.13", "connId": ""},
        "features": {"methods": methods::NAMES, "events": ["connect.challenge", "agent", "chat", "health", "tick", "shutdown"]},
        "snapshot": {"presence": [], "health": {}, "stateVersion": {"presence": 0, "health": 0}, "uptimeMs": 1},
        "policy": {"maxPayload": 0, "maxBufferedBytes": 52_428_800, "tickIntervalMs": 0},
    })
}

fn merge(base: &mut Value, extra: &Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (base, extra) => *base = extra.clone(),
    }
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
