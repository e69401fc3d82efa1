//! Flows: list, create, change, delete, and read with their secrets.

use super::{
    Answer, Console, JsonBody, TextBody,
    views::{Changed, FlowSummary, FlowView, Secrets},
};
use crate::{
    access::Role,
    document::{check_not_hidden, flow_of, merge},
    flows::State as Stored,
    problem::Problem,
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use streamlink_core::{Flow, FlowStats};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Members that a change of a flow may hold; sources and outputs have addresses of their own.
const CHANGEABLE: &[&str] =
    &["name", "enabled", "max_bandwidth", "bandwidth_policy", "coalesce", "entry_wait", "failover"];

/// Flows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FlowList {
    flows: Vec<FlowSummary>,
}

/// Flow as it is created. All settings are in `/api/v1/settings`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct FlowDocument {
    /// Name of the flow: 1 to 128 bytes.
    #[schema(example = "match-day")]
    name: String,
    /// Maximum bit rate of the source.
    #[schema(example = "20M")]
    max_bandwidth: String,
    /// Sources of one media family, the backups behind the first.
    sources: Vec<EndpointDocument>,
    /// Outputs.
    #[schema(required = false)]
    outputs: Vec<EndpointDocument>,
    /// Rules for the change between the sources.
    #[schema(value_type = Object, required = false)]
    failover: Value,
    /// False if the flow is not to run yet.
    #[schema(required = false, default = true)]
    enabled: bool,
}

/// Source or output. Its settings are in the query of its URL, or members beside it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct EndpointDocument {
    /// Name of the endpoint, unique in its flow: 1 to 128 bytes.
    #[schema(example = "venue")]
    name: String,
    /// Address. Port 0 stands for a free one, which is then kept.
    #[schema(example = "srt://:9000?mode=listener")]
    url: String,
    /// Description for people.
    #[schema(required = false)]
    description: String,
    /// False if the endpoint holds its configuration only, and no sockets.
    #[schema(required = false, default = true)]
    enabled: bool,
}

/// Changes of a flow, as a merge patch (RFC 7396): members that are absent stay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what a merge patch may hold")]
pub(super) struct FlowPatch {
    /// New name. The flow is started anew.
    #[schema(required = false)]
    name: String,
    /// `true` when the flow runs.
    #[schema(required = false)]
    enabled: bool,
    #[schema(required = false)]
    max_bandwidth: String,
    #[schema(required = false)]
    bandwidth_policy: String,
    #[schema(value_type = Object, required = false)]
    failover: Value,
    #[schema(required = false)]
    coalesce: u32,
    #[schema(required = false)]
    entry_wait: u32,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, change, remove)).routes(routes!(secrets))
}

/// Returns a flow as it is shown.
pub(super) fn view(console: &Console, name: &str) -> Result<FlowView, Problem> {
    let stored = console.flows.get(name)?.state();
    FlowView::new(name, &stored, stats(console, name, &stored))
}

/// Returns the statistics of a flow, if it runs.
fn stats(console: &Console, name: &str, stored: &Stored) -> Option<FlowStats> {
    let handle = console.flows.engine().flow(name).filter(|_| stored.record.enabled);
    handle.map(|handle| handle.stats())
}

/// Lists all flows, with statistics that are a second old at most.
#[utoipa::path(get, path = "/flows", tag = "flows", responses((status = 200, body = FlowList)))]
pub(super) async fn list(State(console): State<Console>) -> Answer<FlowList> {
    let latest = console.samples.latest();
    let all = console.flows.all();
    let flows = all.iter().map(|(name, flow)| {
        let stored = flow.state();
        match latest.get(name).filter(|_| stored.record.enabled) {
            Some(stats) => FlowSummary::new(name, &stored, Some(stats)),
            // It has been started since.
            None => FlowSummary::new(name, &stored, stats(&console, name, &stored).as_ref()),
        }
    });
    Ok(Json(FlowList { flows: flows.collect() }))
}

/// Creates a flow, and starts it.
#[utoipa::path(
    post,
    path = "/flows",
    tag = "flows",
    request_body = FlowDocument,
    responses(
        (status = 201, body = FlowView, headers(("Location" = String, description = "Address of the flow"))),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "the name or an address is taken"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "every error of the configuration, with the path of its field")
    )
)]
pub(super) async fn create(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    TextBody(body): TextBody,
) -> Result<Response, Problem> {
    let mut document: Value =
        serde_json::from_slice(&body).map_err(|_| Problem::malformed("the body is not a JSON object"))?;
    check_not_hidden("", &document)?;
    let enabled = match document.as_object_mut().and_then(|members| members.remove("enabled")) {
        None => true,
        Some(Value::Bool(enabled)) => enabled,
        Some(_) => return Err(Problem::field("enabled", "is neither true nor false")),
    };
    let flow = flow_of(&document, "")?;
    check_endpoints(&flow)?;
    let name = console.flows.create(flow, enabled, role.name()).await?;
    let mut response = (StatusCode::CREATED, Json(view(&console, &name)?)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/flows/{}", encoded(&name))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Refuses endpoints that the console cannot serve: those in the process of a host.
pub(super) fn check_endpoints(flow: &Flow) -> Result<(), Problem> {
    for (at, source) in flow.sources().iter().enumerate() {
        if source.scope() == streamlink_core::SettingScope::AppSource {
            return Err(Problem::field(
                format!("sources[{at}].url"),
                "app sources are for programs, not for the console",
            ));
        }
        check_endpoint_name(&format!("sources[{at}].name"), source.name())?;
    }
    for (at, output) in flow.outputs().iter().enumerate() {
        if output.scope() == streamlink_core::SettingScope::TapOutput {
            return Err(Problem::field(format!("outputs[{at}].url"), "taps are for programs, not for the console"));
        }
        check_endpoint_name(&format!("outputs[{at}].name"), output.name())?;
    }
    Ok(())
}

fn check_endpoint_name(path: &str, name: &str) -> Result<(), Problem> {
    match name {
        "." | ".." => {
            Err(Problem::field(path, "`.` and `..` are no names, because addresses of the API hold the name"))
        }
        _ => Ok(()),
    }
}

/// Returns a name as a part of a path.
fn encoded(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

/// Returns a flow.
#[utoipa::path(
    get,
    path = "/flows/{flow}",
    tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses(
        (status = 200, body = FlowView),
        (status = 404, body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(State(console): State<Console>, Path(flow): Path<String>) -> Answer<FlowView> {
    view(&console, &flow).map(Json)
}

/// Changes a flow: its name, its limits, its failover, and whether it runs.
#[utoipa::path(
    patch,
    path = "/flows/{flow}",
    tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    request_body = FlowPatch,
    responses(
        (status = 200, body = Changed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn change(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(flow): Path<String>,
    JsonBody(mut patch): JsonBody,
) -> Answer<Changed> {
    if let Some(name) = patch.keys().find(|name| !CHANGEABLE.contains(&name.as_str())) {
        let known = CHANGEABLE.join(", ");
        return Err(Problem::field(name, format!("cannot be changed here; these can: {known}")));
    }
    let members: Vec<&str> = patch.keys().map(String::as_str).collect();
    let what = format!("flow changed: {}", members.join(", "));
    let enabled = match patch.remove("enabled") {
        None => None,
        Some(Value::Bool(enabled)) => Some(enabled),
        Some(_) => return Err(Problem::field("enabled", "is neither true nor false")),
    };
    let edit = move |record: &mut crate::store::Record| {
        record.enabled = enabled.unwrap_or(record.enabled);
        merge(&mut record.flow, patch);
        Ok(String::new())
    };
    let (name, applied) = console.flows.change(flow, role.name(), what, edit).await?;
    Ok(Json(Changed { applied, flow: view(&console, &name)? }))
}

/// Stops a flow, and deletes it.
#[utoipa::path(
    delete,
    path = "/flows/{flow}",
    tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses(
        (status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn remove(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(flow): Path<String>,
) -> Result<StatusCode, Problem> {
    console.flows.delete(flow, role.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the configuration of a flow with its secrets, and its whole addresses. For operators.
#[utoipa::path(
    get,
    path = "/flows/{flow}/secrets",
    tag = "flows",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses(
        (status = 200, body = Secrets),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn secrets(
    State(console): State<Console>,
    Extension(role): Extension<Role>,
    Path(flow): Path<String>,
) -> Answer<Secrets> {
    if role < Role::Operator {
        return Err(Problem::forbidden("a viewer sees no secrets"));
    }
    let stored = console.flows.get(&flow)?.state();
    let stats = stats(&console, &flow, &stored);
    Ok(Json(Secrets::new(stored.record.flow, stats.as_ref())))
}
