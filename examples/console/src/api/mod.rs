//! The HTTP API: its state, its routes, and the checks of every request.

mod endpoints;
mod events;
mod flows;
mod session;
mod settings;
mod stats;
mod views;

use crate::{
    access::{Access, COOKIE, Role, is_safe},
    document::Members,
    flows::Flows,
    page,
    problem::Problem,
    samples::Samples,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State, rejection::BytesRejection},
    http::{HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;
use tower_http::{set_header::SetResponseHeaderLayer, timeout::RequestBodyTimeoutLayer};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

/// Maximum size of the body of a request, in bytes.
const MAX_BODY: usize = 256 << 10;
/// Time within which more of a body has to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// State that all requests share.
#[derive(Clone)]
pub(crate) struct Console {
    pub(crate) flows: Flows,
    pub(crate) samples: Samples,
    pub(crate) access: Access,
    /// Permits of event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// True once the stored flows were started.
    pub(crate) is_ready: Arc<AtomicBool>,
}

#[derive(OpenApi)]
#[openapi(
    modifiers(&Security),
    security((), ("bearer" = []), ("session" = [])),
    info(
        title = "StreamLink console",
        description = "Flows of live video: create, change, watch. Names in paths are percent-encoded. Errors are problem \
                       documents (RFC 9457). Without passwords, everyone who reaches the console is an operator; with \
                       them, a session (`POST /api/v1/session`) or `Authorization: Bearer PASSWORD` is needed.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "flows", description = "Flows, with their sources and outputs"),
        (name = "events", description = "What happened, with reasons"),
        (name = "statistics", description = "Counters and rates"),
        (name = "console", description = "The console itself: settings, sessions, health")
    )
)]
struct Document;

/// Adds the ways in which a request shows its role.
struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        let name = "the name ends with `_` and the port, if the request names one";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description(COOKIE, name));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// Returns the routes and their document.
pub(crate) fn router(console: &Console) -> Router {
    let routes = OpenApiRouter::with_openapi(Document::openapi())
        .merge(flows::routes())
        .merge(endpoints::routes())
        .merge(events::routes())
        .merge(stats::routes())
        .merge(settings::routes())
        .merge(session::routes());
    let (routes, mut document) =
        OpenApiRouter::new().nest("/api/v1", routes).merge(stats::outer_routes()).split_for_parts();
    add_common_responses(&mut document);
    // Made once, of types that have a JSON form.
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let document = get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) });
    let routes = routes.route("/api/v1/openapi.json", document).fallback(page::serve);
    let checked = middleware::from_fn_with_state(console.clone(), check);
    let fixed = |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    routes
        .layer(checked)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIME))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
        .layer(fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"))
        .layer(fixed(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        ))
        .with_state(console.clone())
}

/// Returns true for paths that need no role: the page itself, which holds nothing of the flows, health, and logging in.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/api/v1/session") || page::is_asset(path)
}

/// Checks host, origin and role of every request, before anything else of it is looked at.
async fn check(State(console): State<Console>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let peer = peer(&parts.extensions);
    let allowed = async {
        let path = parts.uri.path();
        if !matches!(path, "/healthz" | "/readyz") {
            console.access.check_host(&parts.headers, &parts.uri)?;
        }
        if !is_safe(&parts.method) || path.starts_with("/api/") {
            Access::check_origin(&parts.headers, &parts.uri)?;
        }
        if is_public(path) {
            return Ok(None);
        }
        let role = console.access.role(&parts, peer).await?;
        if !is_safe(&parts.method) && role < Role::Operator {
            return Err(Problem::forbidden("a viewer cannot change anything"));
        }
        Ok(Some(role))
    };
    match allowed.await {
        Ok(role) => {
            if let Some(role) = role {
                parts.extensions.insert(role);
            }
            let is_api = parts.uri.path().starts_with("/api/");
            let response = next.run(Request::from_parts(parts, body)).await;
            if is_api { as_problem(response).await } else { response }
        }
        Err(problem) => problem.into_response(),
    }
}

/// Maximum length of the text of an error that becomes the detail of a problem, in bytes.
const MAX_DETAIL: usize = 1024;

/// Returns an error as a problem document, if it is none: of addresses, queries and methods that are refused before any
/// handler of ours is asked.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !(status.is_client_error() || status.is_server_error()) || kind.contains("json") {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_DETAIL).await.unwrap_or_default();
    let mut problem = Problem::of_status(status, &String::from_utf8_lossy(&text)).into_response();
    if let Some(methods) = parts.headers.get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, methods.clone());
    }
    problem
}

/// Adds the problems that every operation may answer with, or every one with a body or parameters.
fn add_common_responses(document: &mut openapi::OpenApi) {
    let problem = |description: &str| {
        let schema = openapi::Ref::from_schema_name("Problem");
        let content = openapi::ContentBuilder::new().schema(Some(schema)).build();
        openapi::ResponseBuilder::new().description(description).content("application/problem+json", content).build()
    };
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let takes_anything = operation.request_body.is_some() || operation.parameters.is_some();
            let answers = &mut operation.responses.responses;
            let mut add = |status: &str, description: &str| {
                answers.entry(status.to_owned()).or_insert_with(|| problem(description).into());
            };
            if takes_anything {
                add("400", "the body or a parameter cannot be read");
            }
            if !is_public(path) {
                add("401", "no password was sent, or a wrong one");
            }
            if !matches!(path.as_str(), "/healthz" | "/readyz") {
                add("403", "the host, the origin or the role is not allowed");
            }
        }
    }
}

/// Returns the address from which a request comes.
fn peer(extensions: &axum::http::Extensions) -> IpAddr {
    let address = extensions.get::<ConnectInfo<SocketAddr>>();
    address.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip())
}

/// Returns whether the stored flows were started.
fn is_ready(console: &Console) -> bool {
    console.is_ready.load(Ordering::Acquire)
}

/// Members of the JSON object that a request has as its body.
struct JsonBody(Map<String, Value>);

/// Body of a request as text.
struct TextBody(Bytes);

impl FromRequest<Console> for TextBody {
    type Rejection = Problem;
    async fn from_request(request: Request<Body>, state: &Console) -> Result<Self, Problem> {
        // A page of another origin cannot send this type without being asked.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !matches!(kind, "application/json" | "application/merge-patch+json") {
            return Err(Problem::malformed("the body is to be of the type application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error {
            BytesRejection::FailedToBufferBody(error) if error.status() == 413 => {
                Problem::malformed(format!("the body is larger than {MAX_BODY} bytes"))
            }
            error => Problem::malformed(error.to_string()),
        })?;
        Ok(Self(bytes))
    }
}

impl FromRequest<Console> for JsonBody {
    type Rejection = Problem;
    async fn from_request(request: Request<Body>, state: &Console) -> Result<Self, Problem> {
        let TextBody(bytes) = TextBody::from_request(request, state).await?;
        Members::read(&bytes).map(Self)
    }
}

/// Answer of a handler: JSON, or a problem.
type Answer<T> = Result<Json<T>, Problem>;
