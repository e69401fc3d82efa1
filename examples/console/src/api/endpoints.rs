//! Sources and outputs of a flow: list, create, change, delete; switching to a source, disconnecting a player.

use super::{
    Answer, Console, JsonBody,
    flows::{EndpointDocument, check_endpoints, view},
    views::{Changed, EndpointView},
};
use crate::{
    access::Role,
    apply::Effect,
    document::{Direction, endpoints_mut, flow_of, merge, position},
    problem::Problem,
    store::Record,
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Sources or outputs of a flow.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointList {
    endpoints: Vec<EndpointView>,
}

/// Player that is to be disconnected.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Kick {
    /// Address of the player, as in the statistics.
    #[schema(value_type = String, example = "192.0.2.1:50000")]
    peer: SocketAddr,
}

/// Changes of a source or an output, as a merge patch (RFC 7396): members that are absent stay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what a merge patch may hold")]
pub(super) struct EndpointPatch {
    /// New name.
    #[schema(required = false)]
    name: String,
    /// New address.
    #[schema(required = false)]
    url: String,
    /// `true` when the endpoint takes part in the flow.
    #[schema(required = false)]
    enabled: bool,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new()
        .routes(routes!(sources, add_source))
        .routes(routes!(show_source, change_source, remove_source))
        .routes(routes!(switch))
        .routes(routes!(outputs, add_output))
        .routes(routes!(show_output, change_output, remove_output))
        .routes(routes!(kick))
}

/// Returns the place of an endpoint in its flow, as errors of the library name it.
fn prefix(direction: Direction, at: usize) -> String {
    format!("{}[{at}]", direction.member())
}

/// Checks what the console cannot serve, with paths within the endpoint.
fn check(document: &Value, prefix: String) -> Result<String, Problem> {
    check_endpoints(&flow_of(document, &prefix)?).map_err(|problem| problem.within(&prefix))?;
    Ok(prefix)
}

async fn add(
    console: &Console,
    role: Role,
    direction: Direction,
    flow: String,
    endpoint: Map<String, Value>,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    let name = endpoint.get("name").and_then(Value::as_str).unwrap_or_default();
    let what = format!("{} `{name}` added", direction.noun());
    let edit = move |record: &mut Record| {
        let list = endpoints_mut(&mut record.flow, direction).ok_or_else(|| Problem::internal("no list"))?;
        let at = list.len();
        list.push(Value::Object(endpoint));
        check(&record.flow, prefix(direction, at))
    };
    let (flow, applied) = console.flows.change(flow, role.name(), what, edit).await?;
    Ok((StatusCode::CREATED, Json(Changed { applied, flow: view(console, &flow)? })))
}

async fn edit(
    console: &Console,
    role: Role,
    direction: Direction,
    (flow, name): (String, String),
    patch: Map<String, Value>,
) -> Answer<Changed> {
    let members: Vec<&str> = patch.keys().map(String::as_str).collect();
    let what = format!("{} `{name}` changed: {}", direction.noun(), members.join(", "));
    let edit = move |record: &mut Record| {
        let at = position(&record.flow, direction, &name)?;
        if let Some(endpoint) = endpoints_mut(&mut record.flow, direction).and_then(|list| list.get_mut(at)) {
            merge_endpoint(endpoint, patch)?;
        }
        check(&record.flow, prefix(direction, at))
    };
    let (flow, applied) = console.flows.change(flow, role.name(), what, edit).await?;
    Ok(Json(Changed { applied, flow: view(console, &flow)? }))
}

/// Applies a patch to an endpoint. A new URL brings the settings of its query with it, in the place of older ones.
fn merge_endpoint(endpoint: &mut Value, patch: Map<String, Value>) -> Result<(), Problem> {
    let url = patch.get("url").and_then(Value::as_str).unwrap_or_default();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    let before = endpoint.get("url").and_then(Value::as_str).unwrap_or_default();
    let keeps_key = endpoint.get("key").is_some() && !patch.contains_key("key") && !names.contains(&"key");
    // Beside a key the path is an application; without one it ends with the key. An address that was pasted as a whole
    // would publish to another application under the old key.
    if keeps_key && !url.is_empty() && path_of(url) != path_of(before) {
        let message = "has another path than before, which may end with a stream key: send `key` beside it, or null as \
                       the `key` if the path ends with it";
        return Err(Problem::field("url", message));
    }
    for name in names {
        if let Some(members) = endpoint.as_object_mut().filter(|_| !matches!(name, "" | "name" | "url")) {
            members.remove(name);
        }
    }
    merge(endpoint, patch);
    Ok(())
}

/// Returns the path of a URL, without slashes around it.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.split_once('/').map_or("", |(_, path)| path.trim_matches('/'))
}

async fn remove(
    console: &Console,
    role: Role,
    direction: Direction,
    (flow, name): (String, String),
) -> Answer<Changed> {
    let what = format!("{} `{name}` deleted", direction.noun());
    let edit = move |record: &mut Record| {
        let at = position(&record.flow, direction, &name)?;
        if let Some(list) = endpoints_mut(&mut record.flow, direction) {
            if direction == Direction::Source && list.len() == 1 {
                return Err(Problem::conflict("the last source of a flow can only be changed or disabled"));
            }
            list.remove(at);
        }
        Ok(prefix(direction, at))
    };
    let (flow, applied) = console.flows.change(flow, role.name(), what, edit).await?;
    Ok(Json(Changed { applied, flow: view(console, &flow)? }))
}

/// Lists the sources of a flow.
#[utoipa::path(get, path = "/flows/{flow}/sources", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 200, body = EndpointList),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn sources(State(console): State<Console>, Path(flow): Path<String>) -> Answer<EndpointList> {
    Ok(Json(EndpointList { endpoints: view(&console, &flow)?.into_endpoints(Direction::Source) }))
}

/// Lists the outputs of a flow.
#[utoipa::path(get, path = "/flows/{flow}/outputs", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 200, body = EndpointList),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn outputs(State(console): State<Console>, Path(flow): Path<String>) -> Answer<EndpointList> {
    Ok(Json(EndpointList { endpoints: view(&console, &flow)?.into_endpoints(Direction::Output) }))
}

/// Adds a source, as the last one in the order of preference.
#[utoipa::path(post, path = "/flows/{flow}/sources", tag = "flows", request_body = EndpointDocument,
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 201, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn add_source(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(flow): Path<String>,
    JsonBody(endpoint): JsonBody,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    add(&console, role, Direction::Source, flow, endpoint).await
}

/// Adds an output.
#[utoipa::path(post, path = "/flows/{flow}/outputs", tag = "flows", request_body = EndpointDocument,
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 201, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn add_output(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(flow): Path<String>,
    JsonBody(endpoint): JsonBody,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    add(&console, role, Direction::Output, flow, endpoint).await
}

/// Returns a source.
#[utoipa::path(get, path = "/flows/{flow}/sources/{source}", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow"),
        ("source" = String, Path, description = "Name of the source")),
    responses((status = 200, body = EndpointView),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn show_source(
    State(console): State<Console>,
    Path((flow, source)): Path<(String, String)>,
) -> Answer<EndpointView> {
    view(&console, &flow)?.into_endpoint(Direction::Source, &source).map(Json)
}

/// Returns an output.
#[utoipa::path(get, path = "/flows/{flow}/outputs/{output}", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow"),
        ("output" = String, Path, description = "Name of the output")),
    responses((status = 200, body = EndpointView),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn show_output(
    State(console): State<Console>,
    Path((flow, output)): Path<(String, String)>,
) -> Answer<EndpointView> {
    view(&console, &flow)?.into_endpoint(Direction::Output, &output).map(Json)
}

/// Changes a source, in place where that is possible.
#[utoipa::path(patch, path = "/flows/{flow}/sources/{source}", tag = "flows", request_body = EndpointPatch,
    params(("flow" = String, Path, description = "Name of the flow"),
        ("source" = String, Path, description = "Name of the source")),
    responses((status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn change_source(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(place): Path<(String, String)>,
    JsonBody(patch): JsonBody,
) -> Answer<Changed> {
    edit(&console, role, Direction::Source, place, patch).await
}

/// Changes an output, in place where that is possible.
#[utoipa::path(patch, path = "/flows/{flow}/outputs/{output}", tag = "flows", request_body = EndpointPatch,
    params(("flow" = String, Path, description = "Name of the flow"),
        ("output" = String, Path, description = "Name of the output")),
    responses((status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn change_output(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(place): Path<(String, String)>,
    JsonBody(patch): JsonBody,
) -> Answer<Changed> {
    edit(&console, role, Direction::Output, place, patch).await
}

/// Deletes a source; the last one stays.
#[utoipa::path(delete, path = "/flows/{flow}/sources/{source}", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow"),
        ("source" = String, Path, description = "Name of the source")),
    responses((status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn remove_source(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(place): Path<(String, String)>,
) -> Answer<Changed> {
    remove(&console, role, Direction::Source, place).await
}

/// Deletes an output.
#[utoipa::path(delete, path = "/flows/{flow}/outputs/{output}", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow"),
        ("output" = String, Path, description = "Name of the output")),
    responses((status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn remove_output(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(place): Path<(String, String)>,
) -> Answer<Changed> {
    remove(&console, role, Direction::Output, place).await
}

/// Switches the flow to a source, by hand. The flow stays with it until it is lost.
#[utoipa::path(post, path = "/flows/{flow}/sources/{source}/switch", tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow"),
        ("source" = String, Path, description = "Name of the source")),
    responses((status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn switch(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path((flow, source)): Path<(String, String)>,
) -> Answer<Changed> {
    let handle = console.flows.running(&flow)?;
    handle.switch_to(&source).map_err(|error| Problem::engine(&error, ""))?;
    console.flows.history().note(&flow, role.name(), format!("switch to source `{source}` ordered"));
    Ok(Json(Changed { applied: Effect::InPlace, flow: view(&console, &flow)? }))
}

/// Disconnects a player of an output. It may connect again; an allowlist prevents that.
#[utoipa::path(post, path = "/flows/{flow}/outputs/{output}/kick", tag = "flows", request_body = Kick,
    params(("flow" = String, Path, description = "Name of the flow"),
        ("output" = String, Path, description = "Name of the output")),
    responses((status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
async fn kick(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path((flow, output)): Path<(String, String)>,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, Problem> {
    let kick: Kick = serde_json::from_value(Value::Object(body))
        .map_err(|_| Problem::field("peer", "is not an address with a port, such as 192.0.2.1:50000"))?;
    let handle = console.flows.running(&flow)?;
    handle.kick_player(&output, kick.peer).await.map_err(|error| Problem::engine(&error, ""))?;
    console.flows.history().note(&flow, role.name(), format!("player {} of output `{output}` disconnected", kick.peer));
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patch_of_a_url_keeps_a_stream_key_only_if_that_is_plain() {
        let stored = json!({ "name": "p", "url": "rtmp://h:1935/app", "key": "ONE" });
        let patched = |patch: Value| {
            let mut endpoint = stored.clone();
            let Value::Object(patch) = patch else { unreachable!() };
            merge_endpoint(&mut endpoint, patch).map(|()| endpoint)
        };
        let key = |patch: Value| patched(patch).unwrap().get("key").cloned();
        // Another server, the same application.
        assert_eq!(key(json!({ "url": "rtmps://other.example/app/" })), Some(json!("ONE")));
        assert_eq!(key(json!({ "url": "rtmp://other.example/app?connect_timeout=5000" })), Some(json!("ONE")));
        // A whole address would be read as the application `app/TWO` with the key of before.
        for url in ["rtmp://h:1935/app/TWO", "rtmp://h:1935/live", "rtmp://h:1935", "rtmp://h/app/TWO?relay=true"] {
            assert!(patched(json!({ "url": url })).unwrap_err().has_fields(), "{url}");
        }
        assert_eq!(key(json!({ "url": "rtmp://h:1935/app/TWO", "key": null })), None);
        assert_eq!(key(json!({ "url": "rtmp://h:1935/live", "key": "TWO" })), Some(json!("TWO")));
        assert_eq!(key(json!({ "url": "rtmp://h:1935/live?key=TWO" })), None, "the URL has it");
        assert_eq!(key(json!({ "description": "d" })), Some(json!("ONE")));
    }
}
