//! MCP over streamable HTTP, on loopback, for whoever has the token.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_mesh_gateway::SharedToken;
use agent_team_mesh::MeshError;
use agent_team_mesh::client::Secret;
use agent_team_mesh::private_file;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::server::Server;
use crate::error::{CliError, Exit, token_too_short};
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::ui::Ui;

/// The one path.
const PATH: &str = "/mcp";
/// How long a client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// After a failed accept (most often: no file descriptor is free) the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Reply = Response<BoxBody<Bytes, Infallible>>;
type Service = StreamableHttpService<Server, LocalSessionManager>;

/// Serves until Ctrl-C.
pub async fn serve(
    address: SocketAddr,
    token_file: Option<&Path>,
    settings: &Settings,
    server: Server,
    ui: &Ui,
) -> Result<Exit, CliError> {
    if !address.ip().is_loopback() {
        let what = format!("--http {address}: only loopback, the token would be overheard elsewhere");
        return Err(CliError::new(Exit::Policy, "plain-text-refused", what)
            .hint("--http 127.0.0.1:PORT; a tunnel such as ssh -L makes it reachable from elsewhere"));
    }
    let (token, kept_in) = token(token_file, settings)?;
    let token = SharedToken::new(token.expose()).map_err(|error| {
        let place = token_file.or(kept_in.as_deref()).unwrap_or(Path::new("--token-file"));
        token_too_short(place, error)
    })?;
    let listener = TcpListener::bind(address).await.map_err(|e| CliError::io("cannot listen", &e))?;
    let local = listener.local_addr().map_err(|e| CliError::io("cannot listen", &e))?;
    let stop = CancellationToken::new();
    // A page in a browser must not reach us through a name that leads to loopback: hosts other than loopback are refused
    // by default, and so is every Origin.
    let config = StreamableHttpServerConfig::default()
        .with_cancellation_token(stop.clone())
        .enforce_origin_validation();
    let service = StreamableHttpService::new(move || Ok(server.clone()), Arc::default(), config);
    let door = Arc::new(Door { token, service });
    ui.announce(&format!("listening on http://{local}{PATH}"));
    if let Some(path) = kept_in {
        ui.note(format!("the bearer token is in {}", path.display()));
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = interrupted() => break,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(visit(Arc::clone(&door), stream))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    stop.cancel();
    Ok(Exit::Done)
}

struct Door {
    token: SharedToken,
    service: Service,
}

async fn visit(door: Arc<Door>, stream: TcpStream) {
    let answer = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that breaks off is its own problem.
    let _ = connection.await;
}

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        if !bearer(request.headers()).is_some_and(|token| self.token.is(token)) {
            let mut reply = empty(StatusCode::UNAUTHORIZED);
            reply.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
            return reply;
        }
        if request.uri().path() != PATH {
            return empty(StatusCode::NOT_FOUND);
        }
        self.service.handle(request).await
    }
}

fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(http_body_util::Empty::new().boxed());
    *reply.status_mut() = status;
    reply
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The token, and the file it is kept in if we made it ourselves, now or before.
fn token(file: Option<&Path>, settings: &Settings) -> Result<(Secret, Option<PathBuf>), CliError> {
    let read = |path: &Path| {
        let bytes = private_file::read(path).map_err(MeshError::from)?;
        let text = bytes.map(|bytes| Secret::new(String::from_utf8_lossy(&bytes).trim().to_owned()));
        Ok::<_, CliError>(text)
    };
    if let Some(path) = file {
        let token = read(path)?.ok_or_else(|| {
            CliError::no_file(
                path,
                "it has to hold the token, with mode 0600; without --token-file one is made",
            )
        })?;
        return Ok((token, None));
    }
    let path = settings.state_dir.value.join("mcp-token");
    if let Some(token) = read(&path)? {
        return Ok((token, Some(path)));
    }
    // Two version 4 UUIDs: 244 random bits.
    let token = Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
    private_file::create(&path, token.expose().as_bytes()).map_err(MeshError::from)?;
    Ok((token, Some(path)))
}
