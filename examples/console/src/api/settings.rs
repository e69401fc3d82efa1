//! Settings, protocols and their pairing, and the regions of this console: the contents of forms.

use super::{Answer, Console};
use axum::{Json, extract::State};
use serde::Serialize;
use streamlink_core::{InputProtocol, OutputProtocol, Setting, SettingScope, SettingValue};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Settings by their owners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettingList {
    scopes: Vec<Scope>,
}

/// Owner of settings, with its settings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scope {
    /// Name, as in `SRT listener source`.
    #[schema(example = "SRT listener source")]
    name: &'static str,
    /// `source`, `output` or `flow`.
    direction: &'static str,
    settings: Vec<SettingView>,
}

/// A setting.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettingView {
    /// Name in URLs and in JSON.
    name: &'static str,
    /// `number`, `boolean`, `choice`, `text` or `form`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Minimum of a number, or minimum length of a text in bytes.
    min: Option<u64>,
    /// Maximum of a number, or maximum length of a text in bytes.
    max: Option<u64>,
    /// Words of a choice.
    choices: Vec<&'static str>,
    /// Range, or form, in words.
    range: String,
    unit: &'static str,
    /// Default as text; empty if there is none.
    default: &'static str,
    /// True if the value is not shown.
    secret: bool,
    /// Meaning, in one sentence.
    summary: &'static str,
}

/// Protocols of sources, each with those of the outputs that it can feed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pairing {
    inputs: Vec<Input>,
}

/// Protocol of sources.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Input {
    #[schema(example = "SRT")]
    protocol: &'static str,
    /// Protocols of the outputs, in the order for a selection list.
    allowed_outputs: Vec<&'static str>,
}

/// Version and regions of this console.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct About {
    version: &'static str,
    /// Names of the regions from which outputs can send, in order.
    regions: Vec<String>,
    /// Names of those that are on other machines.
    remote_regions: Vec<String>,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(settings)).routes(routes!(pairing)).routes(routes!(about))
}

fn view(setting: &'static Setting) -> SettingView {
    let (min, max) = match setting.value {
        SettingValue::Number { min, max } | SettingValue::Text { min, max } => (Some(min), Some(max)),
        _ => (None, None),
    };
    let choices = match setting.value {
        SettingValue::Choice(words) => words.to_vec(),
        _ => Vec::new(),
    };
    SettingView {
        name: setting.name,
        kind: setting.value.type_name(),
        min,
        max,
        choices,
        range: setting.range(),
        unit: setting.unit,
        default: setting.default,
        secret: setting.secret,
        summary: setting.summary,
    }
}

/// Returns every setting of flows, sources and outputs, for forms.
#[utoipa::path(get, path = "/settings", tag = "console", responses((status = 200, body = SettingList)))]
async fn settings() -> Answer<SettingList> {
    let served = SettingScope::ALL.iter().copied();
    let served = served.filter(|scope| !matches!(scope, SettingScope::AppSource | SettingScope::TapOutput));
    let scopes = served.map(|scope| Scope {
        name: scope.name(),
        direction: if scope.is_source() {
            "source"
        } else if scope.is_output() {
            "output"
        } else {
            "flow"
        },
        settings: scope.settings().map(view).collect(),
    });
    Ok(Json(SettingList { scopes: scopes.collect() }))
}

/// Returns the protocols of sources, and of the outputs that each can feed.
#[utoipa::path(get, path = "/protocols", tag = "console", responses((status = 200, body = Pairing)))]
async fn pairing() -> Answer<Pairing> {
    let inputs = InputProtocol::ALL.iter().filter(|protocol| !matches!(protocol, InputProtocol::App(_)));
    let inputs = inputs.map(|protocol| {
        let outputs = protocol.allowed_outputs().iter().filter(|output| **output != OutputProtocol::Tap);
        Input { protocol: protocol.name(), allowed_outputs: outputs.map(|output| output.name()).collect() }
    });
    Ok(Json(Pairing { inputs: inputs.collect() }))
}

/// Returns the version and the regions of this console.
#[utoipa::path(get, path = "/console", tag = "console", responses((status = 200, body = About)))]
async fn about(State(console): State<Console>) -> Answer<About> {
    let known = console.flows.engine().regions();
    let remote = known.iter().filter(|(_, is_remote)| *is_remote).map(|(name, _)| name.clone());
    let remote_regions = remote.collect();
    let regions = known.into_iter().map(|(name, _)| name).collect();
    Ok(Json(About { version: env!("CARGO_PKG_VERSION"), regions, remote_regions }))
}
