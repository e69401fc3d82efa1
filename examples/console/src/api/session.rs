//! Sessions: who somebody is, logging in and out.

use super::{Answer, Console, JsonBody, peer};
use crate::{access::Role, problem::Problem};
use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

/// Session of who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    /// Role; `null` if somebody has to log in first.
    role: Option<Role>,
    /// False if the console has no password, so that nobody has to log in.
    needs_password: bool,
}

/// Password of a role.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the document of the API")]
pub(super) struct LogIn {
    password: String,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(show, begin, end))
}

/// Returns the role of who asks.
#[utoipa::path(get, path = "/session", tag = "console", responses((status = 200, body = Session)))]
async fn show(State(console): State<Console>, request: Request) -> Answer<Session> {
    let (parts, _) = request.into_parts();
    let role = console.access.role(&parts, peer(&parts.extensions)).await.ok();
    Ok(Json(Session { role, needs_password: !console.access.is_open() }))
}

/// Logs in. The answer sets a cookie.
#[utoipa::path(post, path = "/session", tag = "console", request_body = LogIn,
    responses((status = 200, body = Session),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "there is no password"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json",
            description = "too many attempts have failed")))]
async fn begin(
    State(console): State<Console>,
    address: Option<axum::Extension<axum::extract::ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    uri: Uri,
    JsonBody(mut body): JsonBody,
) -> Result<Response, Problem> {
    let Some(Value::String(password)) = body.remove("password") else {
        return Err(Problem::field("password", "is missing"));
    };
    let password = Zeroizing::new(password);
    let peer = address.map_or(IpAddr::from([0, 0, 0, 0]), |address| address.0.0.ip());
    let (role, cookie) = console.access.log_in(&password, peer, &headers, &uri).await?;
    let session = Session { role: Some(role), needs_password: true };
    Ok(([(header::SET_COOKIE, cookie)], Json(session)).into_response())
}

/// Logs out.
#[utoipa::path(delete, path = "/session", tag = "console", responses((status = 204)))]
async fn end(State(console): State<Console>, headers: HeaderMap, uri: Uri) -> Response {
    let cookie = console.access.log_out(&headers, &uri);
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}
