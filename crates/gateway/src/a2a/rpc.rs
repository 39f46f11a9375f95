//! JSON-RPC: which method, and what it gives. Errors have HTTP status 200, as the binding says.

use std::sync::Arc;

use hyper::header::HeaderValue;
use openclaw_protocol::ErrorShape;
use openclaw_protocol::a2a::{Request, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Caller, send, stream, task};
use crate::denial::{self, Rule};
use crate::http::{self, Reply};
use crate::methods::count_request;
use crate::policy::Mode;
use crate::shared::Shared;

/// So much of what a client sent is said back.
const MAX_WORDS: usize = 64;

pub(super) async fn answer(
    shared: &Arc<Shared>,
    caller: Caller,
    version: Option<&HeaderValue>,
    body: &[u8],
) -> Reply {
    let request = match read(body) {
        Ok(request) => request,
        Err(error) => return failure(&Value::Null, &error),
    };
    let id = request.id.clone().unwrap_or_default();
    match dispatch(shared, caller, version, &request).await {
        Ok(Answer::Result(result)) => {
            http::document(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
        }
        Ok(Answer::Stream(reply)) => reply,
        Err(error) => failure(&id, &error),
    }
}

enum Answer {
    Result(Value),
    Stream(Reply),
}

fn read(body: &[u8]) -> Result<Request<'_>, RpcError> {
    // First whether it is JSON at all: the two mistakes have codes of their own.
    let raw: &RawValue =
        serde_json::from_slice(body).map_err(|_| RpcError::new(RpcError::PARSE, "the body is not JSON"))?;
    let invalid = |words: &str| RpcError::new(RpcError::INVALID_REQUEST, words);
    let request: Request<'_> = serde_json::from_str(raw.get())
        .map_err(|_| invalid("the body is no JSON-RPC request; batches are not taken"))?;
    if request.jsonrpc != "2.0" || request.method.is_empty() {
        return Err(invalid("jsonrpc must be 2.0, and a method named"));
    }
    match &request.id {
        Some(Value::String(_) | Value::Number(_)) => Ok(request),
        _ => Err(invalid("id must be a text or a number")),
    }
}

async fn dispatch(
    shared: &Arc<Shared>,
    caller: Caller,
    version: Option<&HeaderValue>,
    request: &Request<'_>,
) -> Result<Answer, RpcError> {
    shared.metrics.a2a_request();
    check_version(version)?;
    let id = request.id.clone().unwrap_or_default();
    let denied = |error: ErrorShape| {
        shared.refused(&caller.member.key, &id.to_string(), &request.method, &error);
        RpcError::from(error)
    };
    let rules = shared.access().rules(&caller.member);
    if rules.mode == Mode::Deny {
        return Err(denied(denial::forbidden(Rule::Mode)));
    }
    let method = &*request.method;
    if !matches!(method, "SendMessage" | "SendStreamingMessage") {
        // Those two are counted where they become a run.
        count_request(shared, &caller.member, &rules).map_err(denied)?;
    }
    match method {
        "SendMessage" => result_of(&send::message(shared, &caller, params(request)?).await?),
        "SendStreamingMessage" => {
            Ok(Answer::Stream(stream::message(shared, caller, id, params(request)?).await?))
        }
        "SubscribeToTask" => Ok(Answer::Stream(stream::again(shared, caller, id, params(request)?).await?)),
        "GetTask" => result_of(&task::find(shared, &caller, &params(request)?).await?),
        "CancelTask" => result_of(&task::cancel(shared, &caller, &params(request)?).await?),
        "ListTasks" => Err(RpcError::new(RpcError::UNSUPPORTED_OPERATION, "tasks are not listed here")),
        "GetExtendedAgentCard" => {
            Err(RpcError::new(RpcError::EXTENDED_CARD_NOT_CONFIGURED, "there is one card, the public one"))
        }
        "CreateTaskPushNotificationConfig"
        | "GetTaskPushNotificationConfig"
        | "ListTaskPushNotificationConfigs"
        | "DeleteTaskPushNotificationConfig" => {
            Err(RpcError::new(RpcError::PUSH_NOT_SUPPORTED, "nobody is called back"))
        }
        other => {
            let name: String = other.chars().take(MAX_WORDS).collect();
            Err(RpcError::new(RpcError::METHOD_NOT_FOUND, format!("no such method: {name}")))
        }
    }
}

/// Without the header any version may be meant: OpenClaw sends none, and speaks 1.0.
fn check_version(version: Option<&HeaderValue>) -> Result<(), RpcError> {
    let asked = version.map(|version| version.to_str().unwrap_or("?").trim().to_owned());
    match asked.as_deref() {
        None | Some("" | "1") => Ok(()),
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(_) => Err(RpcError::new(RpcError::VERSION_NOT_SUPPORTED, "this agent speaks A2A 1.0")),
    }
}

fn params<P: DeserializeOwned>(request: &Request<'_>) -> Result<P, RpcError> {
    let text = request.params.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|error| {
        let why: String = error.to_string().chars().take(4 * MAX_WORDS).collect();
        RpcError::new(RpcError::INVALID_PARAMS, format!("invalid params: {why}"))
    })
}

fn result_of<T: Serialize>(result: &T) -> Result<Answer, RpcError> {
    serde_json::to_value(result)
        .map(Answer::Result)
        .map_err(|_| RpcError::new(RpcError::SERVER, "the result cannot be written"))
}

/// An answer with a result, as text.
pub(super) fn result<T: Serialize>(id: &Value, result: &T) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
}

fn failure(id: &Value, error: &RpcError) -> Reply {
    http::document(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}
