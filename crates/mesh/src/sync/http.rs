//! `https:` - a document on a web server. What it said last is kept, so that an unchanged one is not sent again.

use std::{path::Path, time::Duration};

use openclaw_client::Secret;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{
        ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    },
    redirect::{Attempt, Policy},
};

use super::remembered::Remembered;
use super::{Broken, MAX_ANSWER, uri::is_loopback};
use crate::error::chain;

/// A redirect more than this is a loop.
const MAX_REDIRECTS: usize = 5;

/// How to ask.
pub(super) struct Request<'a> {
    pub(super) url: &'a Url,
    pub(super) bearer: Option<&'a Secret>,
    pub(super) connect_timeout: Duration,
    /// For all of it.
    pub(super) timeout: Duration,
    /// The folder of what was remembered.
    pub(super) memory: &'a Path,
}

/// The document, and what to remember once it turned out to be a good one.
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) fresh: Option<Remembered>,
}

pub(super) async fn fetch(request: &Request<'_>) -> Result<Document, Broken> {
    let remembered = Remembered::load(request.memory, request.url);
    let asked = ask(request, remembered.as_ref());
    match tokio::time::timeout(request.timeout, asked).await {
        Err(_) => Err(Broken::Slow(request.timeout)),
        Ok(answer) => match (answer?, remembered) {
            (Answer::Fresh(document), _) => Ok(document),
            (Answer::NotModified, Some(known)) => {
                Ok(Document { bytes: known.body.into_bytes(), fresh: None })
            }
            // Nobody asked for that.
            (Answer::NotModified, None) => Err(Broken::Status(StatusCode::NOT_MODIFIED.as_u16())),
        },
    }
}

enum Answer {
    Fresh(Document),
    NotModified,
}

async fn ask(request: &Request<'_>, remembered: Option<&Remembered>) -> Result<Answer, Broken> {
    let client = client(request)?;
    let mut asking = client.get(request.url.clone()).header(ACCEPT, "application/json, text/csv, */*;q=0.5");
    asking = conditional(asking, remembered);
    if let Some(bearer) = request.bearer {
        asking = asking.bearer_auth(bearer.expose());
    }
    let response = asking.send().await.map_err(failed)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED => return Ok(Answer::NotModified),
        other => return Err(Broken::Status(other.as_u16())),
    }
    check_type(response.headers())?;
    let validators = (text(response.headers(), ETAG), text(response.headers(), LAST_MODIFIED));
    let bytes = body(response).await?;
    let fresh = Remembered::new(request.url, validators, &bytes);
    Ok(Answer::Fresh(Document { bytes, fresh }))
}

fn client(request: &Request<'_>) -> Result<Client, Broken> {
    // Without a provider reqwest panics; a second call of this changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let here = request.url.scheme() == "http";
    let mut builder = Client::builder()
        .user_agent(concat!("agent-mesh/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(request.connect_timeout)
        .referer(false)
        .redirect(Policy::custom(move |attempt| {
            let safe = attempt.url().scheme() == "https" || (here && is_loopback(attempt.url()));
            follow(attempt, safe)
        }));
    if here {
        // A proxy has another idea of what 127.0.0.1 is.
        builder = builder.no_proxy();
    }
    builder.build().map_err(failed)
}

fn follow(attempt: Attempt<'_>, safe: bool) -> reqwest::redirect::Action {
    if !safe {
        attempt.error("it redirects to a place without https")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("it redirects too often")
    } else {
        attempt.follow()
    }
}

fn conditional(mut asking: RequestBuilder, remembered: Option<&Remembered>) -> RequestBuilder {
    let Some(known) = remembered else { return asking };
    if let Some(etag) = &known.etag {
        asking = asking.header(IF_NONE_MATCH, etag);
    }
    if let Some(date) = &known.last_modified {
        asking = asking.header(IF_MODIFIED_SINCE, date);
    }
    asking
}

/// A page with status 200 is what a proxy or a login sends in place of a list.
fn check_type(headers: &HeaderMap) -> Result<(), Broken> {
    let Some(given) = text(headers, CONTENT_TYPE) else { return Ok(()) };
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fits = kind.ends_with("json")
        || kind.ends_with("csv")
        || matches!(kind.as_str(), "text/plain" | "application/octet-stream" | "binary/octet-stream");
    if fits { Ok(()) } else { Err(Broken::ContentType(kind)) }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

async fn body(mut response: Response) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if (bytes.len() + chunk.len()) as u64 > MAX_ANSWER {
            return Err(Broken::TooLarge(MAX_ANSWER));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The facts without the URL, whose query may be a secret.
fn failed(error: reqwest::Error) -> Broken {
    Broken::Request(chain(&error.without_url()))
}

#[cfg(test)]
mod tests;
