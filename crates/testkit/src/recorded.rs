//! Frames recorded from a real gateway, as templates.

use serde_json::Value;

/// Parses the payload (or error) of a recorded response.
macro_rules! recorded {
    ($name:literal, $part:literal) => {
        $crate::recorded::part(include_str!(concat!("../recorded/", $name, ".json")), $part)
    };
}
pub(crate) use recorded;

pub(crate) fn part(frame: &str, part: &str) -> Value {
    let mut frame: Value = serde_json::from_str(frame).expect("a recorded frame is JSON");
    frame[part].take()
}
