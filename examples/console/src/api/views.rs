//! Forms in which flows and their endpoints are shown.

use crate::{
    apply::Effect,
    document::{Direction, endpoints, flow_of, name_of},
    flows::State,
    problem::Problem,
};
use serde::Serialize;
use serde_json::{Value, json};
use streamlink_core::{EndpointStats, FlowStats, SettingScope, shown_url};
use utoipa::ToSchema;

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FlowState {
    /// The flow is disabled.
    Stopped,
    /// The flow is enabled, and could not be started.
    Failed,
    /// No source brings media.
    Waiting,
    /// A source brings media.
    Connected,
}

/// A flow in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FlowSummary {
    /// Name of the flow.
    name: String,
    /// False if the flow is not to run.
    enabled: bool,
    state: FlowState,
    /// Reason for the state, in words; `null` if there is none to tell.
    reason: Option<String>,
    /// Protocol of the first source.
    protocol: String,
    /// Name of the source that feeds the flow, or of the first one.
    source: String,
    /// Number of sources.
    sources: usize,
    /// Number of outputs.
    outputs: usize,
    /// Number of outputs that are connected.
    outputs_connected: usize,
    /// Number of outputs that have failed, or are retrying after an error.
    outputs_failing: usize,
    /// Number of players of all outputs that listen.
    players: usize,
    /// Rate of the source that feeds the flow, in bits per second.
    bit_rate: u64,
    /// Rate of all outputs, in bits per second.
    output_bit_rate: u64,
    /// Maximum bandwidth of the flow.
    max_bandwidth: String,
}

/// A flow.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FlowView {
    #[serde(flatten)]
    summary: FlowSummary,
    /// Configuration in the JSON form of flows. An ellipsis stands for each secret.
    #[schema(value_type = Object)]
    configuration: Value,
    /// Protocols of outputs that the sources can feed.
    allowed_outputs: Vec<&'static str>,
    /// Sources, in the order of preference.
    source_list: Vec<EndpointView>,
    /// Outputs.
    output_list: Vec<EndpointView>,
}

/// A source or an output.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointView {
    /// Name of the endpoint, unique in its flow.
    name: String,
    /// Protocol, as in `SRT`.
    protocol: String,
    /// Owner of its settings, as in `SRT listener output`; see `/api/v1/settings`.
    scope: &'static str,
    /// False if the endpoint holds its configuration only, and no sockets.
    enabled: bool,
    /// Configuration, with an ellipsis for each secret.
    #[schema(value_type = Object)]
    configuration: Value,
    /// Address to which encoders send, or from which players fetch, with an ellipsis for a stream key.
    address: Option<String>,
    /// The same address over IPv4, of an endpoint that listens on `[::]`.
    address_ipv4: Option<String>,
    /// Statistics, while the flow runs; see `FlowStatistics`.
    #[schema(value_type = Option<super::stats::EndpointStatistics>)]
    statistics: Option<EndpointStats>,
}

/// Result of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changed {
    /// Way in which the change took effect.
    pub(super) applied: Effect,
    /// The flow after the change.
    pub(super) flow: FlowView,
}

/// Configuration of a flow with its secrets, and its addresses as they are pasted into programs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Secrets {
    /// Configuration in the JSON form of flows, which can be sent again.
    #[schema(value_type = Object)]
    configuration: Value,
    /// Addresses of sources and outputs that listen.
    addresses: Vec<Address>,
}

/// Address of a source or an output that listens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Address {
    /// `source` or `output`.
    direction: &'static str,
    /// Name of the endpoint.
    name: String,
    /// The whole URL.
    url: String,
    /// The same URL over IPv4, of an endpoint that listens on `[::]`.
    url_ipv4: Option<String>,
    /// Address of an RTMP server without the key, as OBS and many encoders want it.
    server: Option<String>,
    /// Stream key of RTMP.
    key: Option<String>,
}

impl FlowSummary {
    pub(super) fn new(name: &str, stored: &State, stats: Option<&FlowStats>) -> Self {
        let document = &stored.record.flow;
        let is_connected = |endpoint: &&EndpointStats| endpoint.state == streamlink_core::State::Connected;
        let sources = stats.map_or(&[][..], |stats| &stats.sources);
        let outputs = stats.map_or(&[][..], |stats| &stats.outputs);
        let active = sources.iter().find(|source| source.active).or_else(|| sources.iter().find(is_connected));
        // One that is disabled says nothing about media while another one is to bring them.
        let active = active.filter(|source| source.enabled);
        let shown = active.or_else(|| sources.iter().find(|source| source.enabled)).or(sources.first());
        let state = match stats {
            Some(_) if sources.iter().any(|source| is_connected(&source)) => FlowState::Connected,
            Some(_) => FlowState::Waiting,
            None if stored.record.enabled => FlowState::Failed,
            None => FlowState::Stopped,
        };
        let reason = match state {
            FlowState::Failed => Some(stored.error.clone().unwrap_or_else(|| "the flow is starting".into())),
            FlowState::Waiting => shown.map(waiting_reason),
            FlowState::Stopped | FlowState::Connected => None,
        };
        let first = endpoints(document, Direction::Source).first();
        let is_failing = |output: &&EndpointStats| {
            output.enabled
                && !is_connected(output)
                && (output.state == streamlink_core::State::Failed || output.last_error.is_some())
        };
        let protocol = shown.map(|source| source.protocol.to_owned());
        Self {
            name: name.to_owned(),
            enabled: stored.record.enabled,
            state,
            reason,
            // Of a flow that does not run, the scheme tells as much as the list needs.
            protocol: protocol.unwrap_or_else(|| first.map(scheme).unwrap_or_default()),
            source: shown.map_or(first.map_or("", name_of), |source| &source.name).to_owned(),
            sources: endpoints(document, Direction::Source).len(),
            outputs: endpoints(document, Direction::Output).len(),
            outputs_connected: outputs.iter().filter(is_connected).count(),
            outputs_failing: outputs.iter().filter(is_failing).count(),
            // A caller lists its destinations there, which are no players.
            players: outputs.iter().filter(|output| output.url.is_some()).map(|output| output.players.len()).sum(),
            // Of a merge, each source carries the flow; the fastest is the one that counts.
            bit_rate: sources.iter().filter(|source| source.active).map(|s| s.bit_rate.as_bps()).max().unwrap_or(0),
            output_bit_rate: outputs.iter().map(|output| output.bit_rate.as_bps()).sum(),
            max_bandwidth: document.get("max_bandwidth").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }
    }
}

/// Returns why a source that is not connected waits.
fn waiting_reason(source: &EndpointStats) -> String {
    if !source.enabled {
        return format!("source `{}` is disabled", source.name);
    }
    match &source.last_error {
        Some(error) => format!("source `{}`: {}", source.name, error.text),
        None => format!("source `{}` waits for media", source.name),
    }
}

fn scheme(endpoint: &Value) -> String {
    let url = endpoint.get("url").and_then(Value::as_str).unwrap_or_default();
    url.split(':').next().unwrap_or_default().to_uppercase()
}

impl FlowView {
    pub(super) fn new(name: &str, stored: &State, stats: Option<FlowStats>) -> Result<Self, Problem> {
        let summary = FlowSummary::new(name, stored, stats.as_ref());
        let Ok(flow) = flow_of(&stored.record.flow, "") else {
            // Of another version of the library, for example: its secrets cannot be told, so nothing of it is shown.
            let (source_list, output_list, allowed_outputs) = Default::default();
            let configuration = json!({ "name": name });
            return Ok(Self { summary, configuration, allowed_outputs, source_list, output_list });
        };
        let configuration = serde_json::to_value(flow.configuration()).map_err(internal)?;
        let (sources, outputs) = stats.map(|stats| (stats.sources, stats.outputs)).unwrap_or_default();
        let source = |source: &streamlink_core::Source| (source.protocol().to_string(), source.scope());
        let output = |output: &streamlink_core::Output| (output.protocol().to_string(), output.scope());
        let source_scopes: Vec<_> = flow.sources().iter().map(source).collect();
        let output_scopes: Vec<_> = flow.outputs().iter().map(output).collect();
        let allowed = flow.sources().first().map(|source| source.protocol().allowed_outputs()).unwrap_or_default();
        let allowed = allowed.iter().filter(|protocol| **protocol != streamlink_core::OutputProtocol::Tap);
        Ok(Self {
            summary,
            source_list: views(&configuration, Direction::Source, source_scopes, sources),
            output_list: views(&configuration, Direction::Output, output_scopes, outputs),
            configuration,
            allowed_outputs: allowed.map(|protocol| protocol.name()).collect(),
        })
    }

    /// Takes the view of one endpoint.
    pub(super) fn into_endpoint(self, direction: Direction, name: &str) -> Result<EndpointView, Problem> {
        let mut list = self.into_endpoints(direction).into_iter();
        list.find(|endpoint| endpoint.name == name).ok_or_else(|| Problem::not_found(direction.noun(), name))
    }

    pub(super) fn into_endpoints(self, direction: Direction) -> Vec<EndpointView> {
        match direction {
            Direction::Source => self.source_list,
            Direction::Output => self.output_list,
        }
    }
}

fn internal(error: serde_json::Error) -> Problem {
    Problem::internal(error.to_string())
}

fn views(
    configuration: &Value,
    direction: Direction,
    scopes: Vec<(String, SettingScope)>,
    mut stats: Vec<EndpointStats>,
) -> Vec<EndpointView> {
    let mut view = |(configuration, (protocol, scope)): (&Value, (String, SettingScope))| {
        let name = name_of(configuration).to_owned();
        let at = stats.iter().position(|stats| stats.name == name);
        let statistics = at.map(|at| stats.swap_remove(at));
        EndpointView {
            address: statistics.as_ref().and_then(|stats| stats.url.as_ref()).map(|url| shown_url(url)),
            address_ipv4: statistics.as_ref().and_then(|stats| stats.url_ipv4.as_ref()).map(|url| shown_url(url)),
            name,
            protocol,
            scope: scope.name(),
            enabled: configuration.get("enabled").and_then(Value::as_bool).unwrap_or(true),
            configuration: configuration.clone(),
            statistics,
        }
    };
    endpoints(configuration, direction).iter().zip(scopes).map(&mut view).collect()
}

impl Secrets {
    pub(super) fn new(document: Value, stats: Option<&FlowStats>) -> Self {
        let of = |direction: &'static str, list: &[EndpointStats]| -> Vec<Address> {
            let with_url = list.iter().filter_map(|stats| Some((stats, stats.url.as_ref()?)));
            let address = with_url.map(|(stats, url)| {
                let (server, key) = url.server_and_key().unzip();
                Address {
                    direction,
                    name: stats.name.clone(),
                    url: url.as_str().to_owned(),
                    url_ipv4: stats.url_ipv4.as_ref().map(|url| url.as_str().to_owned()),
                    server: server.map(str::to_owned),
                    key: key.map(str::to_owned),
                }
            });
            address.collect()
        };
        let mut addresses = Vec::new();
        if let Some(stats) = stats {
            addresses.extend(of("source", &stats.sources));
            addresses.extend(of("output", &stats.outputs));
        }
        Self { configuration: document, addresses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Record;

    #[test]
    fn flow_that_cannot_be_read_is_shown_as_failed_without_its_secrets() {
        let flow = json!({
            "name": "f", "max_bandwidth": "5M", "invented": true,
            "sources": [{ "name": "in", "url": "srt://:9000?passphrase=hunter2-hunter2" }]
        });
        let stored =
            State { record: Record { enabled: true, flow: flow.clone() }, error: Some("no such setting".into()) };
        let view = serde_json::to_value(FlowView::new("f", &stored, None).unwrap()).unwrap();
        assert_eq!((&view["state"], &view["reason"]), (&json!("failed"), &json!("no such setting")));
        assert!(!view.to_string().contains("hunter2"), "{view}");
        assert_eq!(Secrets::new(flow.clone(), None).configuration, flow, "operators can save it");
    }

    #[test]
    fn waiting_flow_tells_the_reason_of_a_source_that_is_enabled() {
        let record = Record {
            enabled: true,
            flow: json!({ "max_bandwidth": "5M", "sources": [{ "name": "a", "url": "srt://:1" }] }),
        };
        let stored = State { record, error: None };
        let source = |name: &str, enabled: bool, active: bool| {
            json!({ "name": name, "protocol": "SRT", "state": if enabled { "waiting" } else { "idle" }, "enabled": enabled,
                "active": active, "last_error": { "kind": "rejected", "text": "wrong passphrase", "age_ms": 5.0 } })
        };
        let reason = |sources: Value| {
            let stats = json!({ "name": "f", "max_bandwidth": 1, "merge_lost": 0, "sources": sources, "outputs": [] });
            let stats: FlowStats = serde_json::from_value(stats).unwrap();
            FlowSummary::new("f", &stored, Some(&stats)).reason.unwrap()
        };
        for is_active in [false, true] {
            let reason = reason(json!([source("a", false, is_active), source("b", true, false)]));
            assert_eq!(reason, "source `b`: wrong passphrase");
        }
        assert_eq!(reason(json!([source("a", false, false), source("b", false, false)])), "source `a` is disabled");
        assert_eq!(reason(json!([source("a", true, false), source("b", true, true)])), "source `b`: wrong passphrase");
    }
}
