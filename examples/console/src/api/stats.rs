//! Statistics, metrics and health.

use super::{Answer, Console, is_ready};
use crate::{problem::Problem, samples::Series};
use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use streamlink_core::FlowStats;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Statistics of all flows that run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatisticsList {
    #[schema(value_type = Vec<FlowStatistics>)]
    flows: Vec<FlowStats>,
}

/// Statistics of a flow at one moment.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct FlowStatistics {
    /// Name of the flow.
    name: String,
    /// Maximum bandwidth, in bits per second.
    max_bandwidth: u64,
    /// Packets that no source of a merge delivered in time.
    merge_lost: u64,
    sources: Vec<EndpointStatistics>,
    outputs: Vec<EndpointStatistics>,
}

/// Statistics of a source or an output. Counters start with the endpoint. Durations are in milliseconds, rates in bits
/// per second. There are more members than these.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct EndpointStatistics {
    name: String,
    description: Option<String>,
    protocol: String,
    /// `idle`, `waiting`, `connected` or `failed`.
    state: String,
    enabled: bool,
    /// True if this source feeds the flow.
    active: bool,
    url: Option<String>,
    connected_ms: Option<f64>,
    reconnections: u64,
    bytes: u64,
    packets: u64,
    bit_rate: u64,
    lost: u64,
    recovered: u64,
    retransmitted: u64,
    dropped: u64,
    malformed: u64,
    refused: u64,
    jitter_ms: f64,
    round_trip_ms: f64,
    latency_ms: f64,
    buffered_ms: f64,
    encrypted: bool,
    /// Players of an output that listens.
    players: Vec<PlayerStatistics>,
    /// Description of the media.
    media: Option<String>,
    /// Address of the sender of a source, or of the server that a caller has reached.
    peer: Option<String>,
    last_error: Option<LastError>,
}

/// One player of an output.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct PlayerStatistics {
    peer: String,
    connected_ms: f64,
    bytes: u64,
    packets: u64,
    retransmitted: u64,
    lost: u64,
    dropped: u64,
    round_trip_ms: f64,
}

/// Last error of an endpoint. It stays when the endpoint has recovered.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct LastError {
    /// Stable name of the class of the reason.
    kind: String,
    /// The reason in words.
    text: String,
    peer: Option<String>,
    /// Time since the error.
    age_ms: f64,
}

/// Values of the last minutes, one a second.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SampleList {
    series: Vec<Series>,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(of_flow)).routes(routes!(samples))
}

/// Returns the routes for machines that watch, which are not below those of the API.
pub(super) fn outer_routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(health)).routes(routes!(readiness))
}

/// Returns the statistics of all flows that run.
#[utoipa::path(get, path = "/stats", tag = "statistics", responses((status = 200, body = StatisticsList)))]
async fn all(State(console): State<Console>) -> Answer<StatisticsList> {
    Ok(Json(StatisticsList { flows: console.flows.engine().stats() }))
}

/// Returns the statistics of a flow that runs.
#[utoipa::path(get, path = "/flows/{flow}/stats", tag = "statistics",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 200, body = FlowStatistics),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "the flow does not run")))]
async fn of_flow(State(console): State<Console>, Path(flow): Path<String>) -> Answer<FlowStats> {
    Ok(Json(console.flows.running(&flow)?.stats()))
}

/// Returns rates, losses and round-trip times of the last five minutes.
#[utoipa::path(get, path = "/flows/{flow}/samples", tag = "statistics",
    params(("flow" = String, Path, description = "Name of the flow")),
    responses((status = 200, body = SampleList),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn samples(State(console): State<Console>, Path(flow): Path<String>) -> Answer<SampleList> {
    console.flows.get(&flow)?;
    Ok(Json(SampleList { series: console.samples.of(&flow) }))
}

/// Returns all metrics as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "statistics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
async fn metrics(State(console): State<Console>) -> Result<Response, Problem> {
    let engine = console.flows.engine().clone();
    // The text of a thousand endpoints takes a while, in which requests are answered.
    let text = tokio::task::spawn_blocking(move || engine.metrics()).await;
    let mut text = text.map_err(|error| Problem::internal(error.to_string()))?;
    let all = console.flows.all();
    let states = all.iter().map(|(_, flow)| flow.state());
    let mut enabled = 0;
    let mut failed = 0;
    for state in states {
        enabled += usize::from(state.record.enabled);
        failed += usize::from(state.record.enabled && state.error.is_some());
    }
    let failing = u8::from(console.flows.is_store_failing());
    let own = format!(
        "# HELP streamlink_console_flows Flows, by whether they are to run\n# TYPE streamlink_console_flows gauge\n\
         streamlink_console_flows{{enabled=\"true\"}} {enabled}\nstreamlink_console_flows{{enabled=\"false\"}} {}\n\
         # HELP streamlink_console_failed_flows Flows that are to run and could not be started\n\
         # TYPE streamlink_console_failed_flows gauge\nstreamlink_console_failed_flows {failed}\n\
         # HELP streamlink_console_store_failing 1 if the last write of the store has failed, as on a full disk\n\
         # TYPE streamlink_console_store_failing gauge\nstreamlink_console_store_failing {failing}\n",
        all.len() - enabled
    );
    let end = text.rfind("# EOF").unwrap_or(text.len());
    text.insert_str(end, &own);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Answers as long as the console runs.
#[utoipa::path(get, path = "/healthz", tag = "console", responses((status = 200, body = String)))]
async fn health() -> &'static str {
    "ok\n"
}

/// Answers once the stored flows were started.
#[utoipa::path(get, path = "/readyz", tag = "console",
    responses((status = 200, body = String),
        (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn readiness(State(console): State<Console>) -> Result<&'static str, Problem> {
    if is_ready(&console) { Ok("ready\n") } else { Err(Problem::unavailable("the flows are being started", 1)) }
}
