//! What the types of a `connect` cannot say.

use openclaw_protocol::ErrorShape;
use openclaw_protocol::connect::ConnectParams;

/// The closed sets of the real gateway.
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
/// See [`CLIENT_IDS`].
const CLIENT_MODES: [&str; 8] = ["webchat", "cli", "ui", "backend", "node", "worker", "probe", "test"];

/// Refuses what the real gateway would, and more: texts are bounded because they are kept and shown to those who approve.
pub(crate) fn check(params: &ConnectParams) -> Result<(), ErrorShape> {
    const MAX_TEXT: usize = 256;
    const MAX_ITEMS: usize = 64;
    let client = &params.client;
    let invalid = |place: &str, why: &str| {
        Err(ErrorShape::invalid(format!("invalid connect params: at {place}: {why}")))
    };
    if !CLIENT_IDS.contains(&client.id.as_str()) {
        return invalid("/client/id", "must be equal to one of the allowed values");
    }
    if !CLIENT_MODES.contains(&client.mode.as_str()) {
        return invalid("/client/mode", "must be equal to one of the allowed values");
    }
    let texts = [
        ("/client/version", Some(&client.version)),
        ("/client/platform", Some(&client.platform)),
        ("/client/displayName", client.display_name.as_ref()),
        ("/client/deviceFamily", client.device_family.as_ref()),
    ];
    for (place, text) in texts {
        if text.is_some_and(|text| text.chars().count() > MAX_TEXT) {
            return invalid(place, "must NOT have more than 256 characters");
        }
    }
    for (place, items) in [("/scopes", &params.scopes), ("/caps", &params.caps)] {
        if items.len() > MAX_ITEMS || items.iter().any(|item| item.len() > MAX_TEXT) {
            return invalid(place, "must NOT have more than 64 items");
        }
    }
    match params.role.as_str() {
        "operator" => Ok(()),
        _ => Err(ErrorShape::invalid("invalid role")),
    }
}
