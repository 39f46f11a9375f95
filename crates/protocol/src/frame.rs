//! One WebSocket text message: a request, a response or an event.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::ErrorShape;

/// A decoded frame that borrows from the text it came in. Payloads stay unparsed until somebody wants them: most
/// events of a busy gateway are of no interest to us.
#[derive(Debug)]
pub enum Frame<'a> {
    /// Client to server: call a method.
    Request(Request<'a>),
    /// Server to client: the answer to a request. `agent` gives two of them with one id.
    Response(Response<'a>),
    /// Server to client: something happened.
    Event(Event<'a>),
    /// A frame of a type this crate does not know.
    Unknown,
}

/// A call of a method.
#[derive(Debug, Serialize)]
pub struct Request<'a> {
    /// Chosen by the caller, unique on its connection.
    pub id: Cow<'a, str>,
    /// The method's name, such as `agent`.
    pub method: Cow<'a, str>,
    /// The method's parameters, unparsed; may be absent.
    pub params: Option<&'a RawValue>,
}

/// An answer to a [`Request`].
#[derive(Debug)]
pub struct Response<'a> {
    /// The request's id.
    pub id: Cow<'a, str>,
    /// Whether it worked. A provider error of `agent` carries an error *and* a payload.
    pub ok: bool,
    /// The result, unparsed.
    pub payload: Option<&'a RawValue>,
    /// The error, if `ok` is false.
    pub error: Option<ErrorShape>,
}

/// A pushed event.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its name, such as `chat` or `tick`.
    pub name: Cow<'a, str>,
    /// Its content, unparsed.
    pub payload: Option<&'a RawValue>,
    /// Counts the events of one connection from 1.
    pub seq: Option<u64>,
}

/// A text that is not a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not JSON, or not an object with the fields of its type.
    #[error("not a gateway frame: {0}")]
    Json(#[from] serde_json::Error),
    /// A frame without a field its type needs.
    #[error("a {kind} frame without `{field}`")]
    Missing {
        /// The frame's type.
        kind: &'static str,
        /// The absent field.
        field: &'static str,
    },
}

/// All fields of all frames. One flat struct instead of a tagged enum, because serde buffers tagged enums and would
/// so copy every payload, which may be 25 MiB.
#[derive(Deserialize)]
struct Flat<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    ok: Option<bool>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: Option<u64>,
}

impl<'a> Frame<'a> {
    /// Decodes one text message. Unknown top-level keys and frame types are accepted.
    ///
    /// # Errors
    /// When the text is not JSON or lacks a field that its type needs. Never panics, whatever the text.
    pub fn decode(text: &'a str) -> Result<Self, FrameError> {
        let flat: Flat<'a> = serde_json::from_str(text)?;
        let missing = |kind, field| FrameError::Missing { kind, field };
        Ok(match &*flat.kind {
            "req" => Self::Request(Request {
                id: flat.id.ok_or_else(|| missing("req", "id"))?,
                method: flat.method.ok_or_else(|| missing("req", "method"))?,
                params: flat.params,
            }),
            "res" => Self::Response(Response {
                id: flat.id.ok_or_else(|| missing("res", "id"))?,
                ok: flat.ok.ok_or_else(|| missing("res", "ok"))?,
                payload: flat.payload,
                // Read only here: in a request it would be a stranger's way to make us build 25 MiB of values.
                error: flat.error.map(|raw| serde_json::from_str(raw.get())).transpose()?,
            }),
            "event" => Self::Event(Event {
                name: flat.event.ok_or_else(|| missing("event", "event"))?,
                payload: flat.payload,
                seq: flat.seq,
            }),
            _ => Self::Unknown,
        })
    }
}

/// Writes a request frame.
///
/// # Errors
/// When `params` cannot be written as JSON, which a type of this crate always can.
pub fn encode_request<P: Serialize + ?Sized>(
    id: &str,
    method: &str,
    params: &P,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Out<'a, P: ?Sized> {
        r#type: &'static str,
        id: &'a str,
        method: &'a str,
        params: &'a P,
    }
    serde_json::to_string(&Out { r#type: "req", id, method, params })
}

/// Writes a response frame: `payload`, `error`, or (as for a failed `agent` run) both.
///
/// # Errors
/// When the payload cannot be written as JSON.
pub fn encode_response<P: Serialize + ?Sized>(
    id: &str,
    payload: Option<&P>,
    error: Option<&ErrorShape>,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Out<'a, P: ?Sized> {
        r#type: &'static str,
        id: &'a str,
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a P>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a ErrorShape>,
    }
    serde_json::to_string(&Out { r#type: "res", id, ok: error.is_none(), payload, error })
}

/// Writes an event frame.
///
/// # Errors
/// When the payload cannot be written as JSON.
pub fn encode_event<P: Serialize + ?Sized>(
    name: &str,
    payload: &P,
    seq: Option<u64>,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Out<'a, P: ?Sized> {
        r#type: &'static str,
        event: &'a str,
        payload: &'a P,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    }
    serde_json::to_string(&Out { r#type: "event", event: name, payload, seq })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_written_as_the_gateway_wants_it() {
        let text = encode_request("7", "health", &serde_json::json!({})).unwrap();
        assert_eq!(text, r#"{"type":"req","id":"7","method":"health","params":{}}"#);
        let Frame::Request(request) = Frame::decode(&text).unwrap() else { panic!("not a request") };
        assert_eq!((&*request.id, &*request.method), ("7", "health"));
    }

    #[test]
    fn unknown_frame_types_and_keys_are_accepted() {
        assert!(matches!(Frame::decode(r#"{"type":"hint","x":1}"#), Ok(Frame::Unknown)));
        let event = Frame::decode(r#"{"type":"event","event":"novel","payload":{"a":1},"later":true}"#);
        assert!(matches!(event, Ok(Frame::Event(Event { name, .. })) if name == "novel"));
    }

    #[test]
    fn a_response_needs_an_id() {
        let error = Frame::decode(r#"{"type":"res","ok":true}"#).unwrap_err();
        assert_eq!(error.to_string(), "a res frame without `id`");
    }

    #[test]
    fn a_failed_run_carries_error_and_payload() {
        let text = r#"{"type":"res","id":"1","ok":false,"error":{"code":"UNAVAILABLE","message":"m"},"payload":{"status":"error"}}"#;
        let Ok(Frame::Response(response)) = Frame::decode(text) else { panic!("not a response") };
        assert!(!response.ok && response.payload.is_some() && response.error.is_some());
    }

    proptest! {
        #[test]
        fn decode_never_panics(text in ".{0,400}") {
            let _ = Frame::decode(&text);
        }

        #[test]
        fn decode_never_panics_on_near_frames(kind in "req|res|event|x", id in any::<Option<u8>>(), tail in ".{0,60}") {
            let _ = Frame::decode(&format!(r#"{{"type":"{kind}","id":{},{tail}}}"#, id.map_or("null".into(), |i| i.to_string())));
        }
    }
}
