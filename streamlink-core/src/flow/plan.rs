//! The flow: a configuration that is always valid, and the builder that makes it so.

use super::{
    address::Listen,
    allowlist::Allowlist,
    bitrate::Bitrate,
    endpoint::Common,
    name::{Name, check_text},
    output::{IntoOutput, Output, OutputKind},
    pairing::{FedBy, allowed_text, family::Family},
    secret::StreamKey,
    settings::check_millis,
    source::{IntoSource, Source, SourceKind},
};
use crate::{
    error::{ConfigError, ConfigErrors, Problem},
    media::MediaFamily,
};
use std::{collections::HashMap, marker::PhantomData, net::SocketAddr, time::Duration};

/// Sources of one merge at most.
pub(crate) const MAX_PATHS: usize = 16;

/// What happens to media above the flow's maximum bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BandwidthPolicy {
    /// Whole packets are dropped, of RTMP whole frames; of RTMP and RTSP all pictures up to the next key frame.
    #[default]
    Drop,
    /// The source is disconnected.
    Disconnect,
    /// Everything passes; an event and the counters tell. SRT outputs without a maximum of their own pace by what comes
    /// in; queues stay those of the maximum bandwidth, and an output that falls behind more than that loses the oldest.
    Warn,
}

/// How the sources of a flow back each other.
///
/// The first source that brings media feeds the flow. It is lost when its connection closes, or when it brings nothing
/// for the loss threshold; then the first other source that has media takes over, and [`Event::Switched`] tells of it.
/// Outputs are never disconnected for it.
///
/// - RTMP and RTSP go on with a video key frame: with the last one of the backup, whose group of pictures is kept (up
///   to 16 MiB), or else with the next. Timestamps, sequence numbers and sender reports go on; headers and parameter
///   sets are sent again when they differ. RTSP players stay when the tracks are coded alike.
/// - MPEG-TS, over SRT or RTP, goes on at a random access point of the video, if the stream marks them and one comes
///   within the loss threshold; otherwise, and anything else, with the next packet. Before the first transport packet of
///   each PID goes one with the discontinuity indicator; PCR, PTS, DTS and SCTE 35 messages of a source whose times do
///   not go on by themselves are moved so that they do. RTP keeps one SSRC, with sequence numbers and timestamps that go
///   on; a backup that carries the very same packets goes on with the next of them, unaltered.
///
/// [`Event::Switched`]: crate::Event::Switched
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    pub(crate) policy: FailoverPolicy,
    pub(crate) loss_threshold: Duration,
    pub(crate) cold: bool,
}

/// When a flow switches between its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverPolicy {
    /// The source that delivers first is active; after a loss the flow stays with the backup.
    Stay,
    /// Back to the first source when it has delivered for this long.
    Prefer(Duration),
    /// All sources carry the same RTP packets, over RTP or SRT, and are merged packet by packet (SMPTE ST 2022-7) in a
    /// recovery window of 100–500 ms: a path may be later than another by as much. Up to 16 sources.
    Merge(Duration),
}

impl Failover {
    /// A policy, with a loss threshold of 500 ms and hot backups.
    pub fn new(policy: FailoverPolicy) -> Self {
        Self { policy, loss_threshold: Duration::from_millis(500), cold: false }
    }

    /// How long the active source may bring no media before it counts as lost (500 ms; 50–60 000).
    pub fn loss_threshold(mut self, threshold: Duration) -> Self {
        self.loss_threshold = threshold;
        self
    }

    /// Connects the backups only when they are needed; for callers.
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self::new(FailoverPolicy::Stay)
    }
}

/// A flow: one source, or several that back each other, and any number of outputs.
///
/// A `Flow` is always valid: [`FlowBuilder::build`] is the only way to one.
#[derive(Clone, Debug)]
pub struct Flow {
    pub(crate) name: Name,
    pub(crate) max_bandwidth: Bitrate,
    pub(crate) policy: BandwidthPolicy,
    pub(crate) coalesce: Duration,
    pub(crate) failover: Failover,
    pub(crate) sources: Vec<Source>,
    pub(crate) outputs: Vec<Output>,
}

/// The type of a [`FlowBuilder`] that has no source yet.
#[derive(Clone, Copy, Debug)]
pub enum NoSource {}

impl Flow {
    /// Starts a flow with its name (1–128 bytes) and its maximum bandwidth (above 0).
    pub fn builder(name: impl Into<String>, max_bandwidth: Bitrate) -> FlowBuilder<NoSource> {
        FlowBuilder {
            draft: FlowDraft {
                name: name.into(),
                max_bandwidth,
                policy: BandwidthPolicy::default(),
                coalesce: Flow::DEFAULT_COALESCE,
                failover: Failover::default(),
                sources: Vec::new(),
                outputs: Vec::new(),
                errors: Vec::new(),
            },
            family: PhantomData,
        }
    }

    /// The default of [`FlowBuilder::coalesce`].
    pub const DEFAULT_COALESCE: Duration = Duration::from_millis(1);

    /// The name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The most that the source may bring.
    pub fn max_bandwidth(&self) -> Bitrate {
        self.max_bandwidth
    }

    /// The sources; never empty, all of one family. The first is the one that `Prefer` prefers.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The outputs.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// How the sources back each other.
    pub fn failover(&self) -> Failover {
        self.failover
    }

    /// What the first source speaks: its outputs are those of the family.
    pub(crate) fn input(&self) -> super::InputProtocol {
        // Invariant: as below.
        self.sources.first().map_or(super::InputProtocol::Rtp, Source::protocol)
    }

    /// The media family of the sources.
    pub fn family(&self) -> MediaFamily {
        // Invariant: a flow has at least one source; the fallback is never taken.
        self.sources.first().map_or(MediaFamily::Datagrams, Source::family)
    }
}

/// Collects a flow, and all that is wrong with it. `F` is the family of the source.
#[derive(Clone, Debug)]
pub struct FlowBuilder<F> {
    draft: FlowDraft,
    family: PhantomData<F>,
}

/// A flow that has not been checked.
#[derive(Clone, Debug)]
pub(crate) struct FlowDraft {
    pub(crate) name: String,
    pub(crate) max_bandwidth: Bitrate,
    pub(crate) policy: BandwidthPolicy,
    pub(crate) coalesce: Duration,
    pub(crate) failover: Failover,
    pub(crate) sources: Vec<Source>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) errors: Vec<ConfigError>,
}

impl FlowBuilder<NoSource> {
    /// The source.
    pub fn source<S: IntoSource>(mut self, source: S) -> FlowBuilder<S::Family> {
        self.draft.sources.push(source.into_source());
        FlowBuilder { draft: self.draft, family: PhantomData }
    }
}

impl<F> FlowBuilder<F> {
    /// What happens above the maximum bandwidth (`Drop`).
    pub fn bandwidth_policy(mut self, policy: BandwidthPolicy) -> Self {
        self.draft.policy = policy;
        self
    }

    /// How long packets of RTP and RTSP sources that have arrived may wait for more, so that they leave together
    /// (1 ms; 0–20).
    ///
    /// Sending many datagrams at once costs a fraction of sending each by itself. 0 hands on at once whatever
    /// one read finds.
    pub fn coalesce(mut self, window: Duration) -> Self {
        self.draft.coalesce = window;
        self
    }
}

impl<F: Family> FlowBuilder<F> {
    /// A backup for the source, of the same family. May be called again.
    ///
    /// Two RTMP listeners without a key at one address are two input addresses, each with a key that was generated.
    pub fn backup<S: IntoSource<Family = F>>(mut self, source: S) -> Self {
        self.draft.sources.push(source.into_source());
        self
    }

    /// How the sources back each other (`Stay`, 500 ms).
    pub fn failover(mut self, failover: Failover) -> Self {
        self.draft.failover = failover;
        self
    }

    /// An output. Which outputs a source can feed is checked by the compiler; see [`FedBy`].
    ///
    /// ```compile_fail
    /// use streamlink_core::*;
    /// // An SRT source feeds SRT and RTMP_PUSH, not RTP:
    /// Flow::builder("f", Bitrate::mbps(20))
    ///     .source(Source::srt_listener("venue", "0.0.0.0:9000"))
    ///     .output(Output::rtp("studio", "192.0.2.1:5004"));
    /// ```
    pub fn output<O: IntoOutput>(mut self, output: O) -> Self
    where
        O::Settings: FedBy<F>,
    {
        self.draft.outputs.push(output.into_output());
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong, each with the path of its field, as in `outputs[1].latency`.
    pub fn build(self) -> Result<Flow, ConfigErrors> {
        self.draft.build()
    }
}

impl FlowDraft {
    pub(crate) fn build(mut self) -> Result<Flow, ConfigErrors> {
        let mut errors = std::mem::take(&mut self.errors);
        let mut keep = |path: &str, result: Result<(), Problem>| {
            if let Err(problem) = result {
                errors.push(ConfigError::new(path, problem));
            }
        };
        let name = Name::new(self.name.clone());
        keep("name", name.as_ref().map(|_| ()).map_err(Clone::clone));
        if self.max_bandwidth.as_bps() == 0 {
            keep("max_bandwidth", Err(Problem::out_of_range("0", "1 bit per second and more")));
        }
        keep("coalesce", check_millis(self.coalesce, 0..=20).map(drop));
        check_failover(&self, &mut keep);

        let first = self.sources.first().map(|s| (s.protocol(), s.family()));
        if first.is_none() {
            keep("sources", Err(Problem::Missing));
        }
        let mut taken = Taken::default();
        for (i, source) in self.sources.iter_mut().enumerate() {
            let path = format!("sources[{i}]");
            source.common.errors.extend(source_problem(source));
            check_endpoint(&path, &mut source.common, &mut taken, &mut errors);
            if let SourceKind::Rtmp(s) = &mut source.kind {
                generate_key(&path, &mut s.key, &mut errors);
            }
            let (found, expected) = (source.family(), first.map_or(source.family(), |(_, family)| family));
            if found != expected {
                let problem = Problem::MixedFamilies { found: found.to_string(), expected: expected.to_string() };
                errors.push(ConfigError::new(path.as_str(), problem));
            }
            taken.claim(&path, source.claim(), &mut errors);
        }
        for (i, output) in self.outputs.iter_mut().enumerate() {
            let path = format!("outputs[{i}]");
            output.common.errors.extend(output_problem(output));
            check_endpoint(&path, &mut output.common, &mut taken, &mut errors);
            if let OutputKind::RtmpPlay(s) = &mut output.kind {
                generate_key(&path, &mut s.key, &mut errors);
            }
            if let Some((input, _)) = first {
                errors.extend(check_pairing(input, output).map(|problem| ConfigError::new(path.as_str(), problem)));
            }
            taken.claim(&path, output.claim(), &mut errors);
        }
        match (ConfigErrors::collect(errors), name) {
            (None, Ok(name)) => Ok(Flow {
                name,
                max_bandwidth: self.max_bandwidth,
                policy: self.policy,
                coalesce: self.coalesce,
                failover: self.failover,
                sources: self.sources,
                outputs: self.outputs,
            }),
            (Some(errors), _) => Err(errors),
            (None, Err(problem)) => Err(ConfigError::new("name", problem).into()),
        }
    }
}

/// Checks one output by itself, as when it is added to a running flow.
pub(crate) fn check_output(
    flow: &str,
    input: super::InputProtocol,
    mut output: Output,
) -> Result<Output, ConfigErrors> {
    let mut errors = Vec::new();
    output.common.errors.extend(output_problem(&output));
    check_endpoint(flow, &mut output.common, &mut Taken::default(), &mut errors);
    errors.extend(check_pairing(input, &output).map(|problem| ConfigError::new(flow, problem)));
    if let OutputKind::RtmpPlay(s) = &mut output.kind {
        generate_key(flow, &mut s.key, &mut errors);
    }
    ConfigErrors::collect(errors).map_or(Ok(output), Err)
}

fn check_pairing(input: super::InputProtocol, output: &Output) -> Option<Problem> {
    let broken = output.common.errors.iter().any(|e| e.path() == "url"); // no protocol to compare
    (!broken && !input.allowed_outputs().contains(&output.protocol())).then(|| Problem::Pairing {
        input: input.to_string(),
        output: output.protocol().to_string(),
        allowed: allowed_text(input.family()),
    })
}

fn check_failover(draft: &FlowDraft, keep: &mut impl FnMut(&str, Result<(), Problem>)) {
    keep("failover.loss_threshold", check_millis(draft.failover.loss_threshold, 50..=60_000).map(drop));
    match draft.failover.policy {
        FailoverPolicy::Stay => {}
        FailoverPolicy::Prefer(hold) => keep("failover.hold", check_millis(hold, 0..=3_600_000).map(drop)),
        FailoverPolicy::Merge(window) => {
            keep("failover.window", check_millis(window, 100..=500).map(drop));
            if draft.sources.len() > MAX_PATHS {
                keep("sources", Err(Problem::Conflict(format!("at most {MAX_PATHS} sources can be merged"))));
            }
            let families = [MediaFamily::Rtp, MediaFamily::Datagrams];
            if draft.sources.iter().any(|s| !families.contains(&s.family())) {
                keep("failover.policy", Err(Problem::Conflict("only RTP and SRT sources can be merged".into())));
            }
        }
    }
    if draft.failover.cold {
        let pushed = draft.sources.iter().skip(1).find(|s| !s.is_caller());
        if let Some(source) = pushed {
            let problem = format!("`{}` waits to be connected to; only a caller can be a cold backup", source.name());
            keep("failover.cold", Err(Problem::Conflict(problem)));
        }
    }
}

/// The name, description, region and the builder's own errors of one endpoint.
fn check_endpoint(path: &str, common: &mut Common, taken: &mut Taken, errors: &mut Vec<ConfigError>) {
    let mut keep = |field: &str, result: Result<(), Problem>| {
        if let Err(problem) = result {
            errors.push(ConfigError::new(field, problem).within(path));
        }
    };
    keep("name", Name::new(common.name.as_str()).map(drop));
    if let Some(text) = &common.description {
        keep("description", check_description(text));
    }
    if let Some(text) = &common.region {
        keep("region", Name::new(text.as_str()).map(drop));
    }
    if let Some(other) = taken.names.insert(common.name.clone(), path.to_owned()) {
        keep("name", Err(Problem::Duplicate(format!("`{}` is already the name of {other}", common.name))));
    }
    errors.extend(common.errors.drain(..).map(|e| e.within(path)));
}

/// A description: at most 1024 bytes without control characters.
pub(crate) fn check_description(text: &str) -> Result<(), Problem> {
    check_text(text, 0, 1024)
}

fn generate_key(path: &str, key: &mut Option<StreamKey>, errors: &mut Vec<ConfigError>) {
    if key.is_none() {
        match StreamKey::generate() {
            Ok(fresh) => *key = Some(fresh),
            Err(problem) => errors.push(ConfigError::new("key", problem).within(path)),
        }
    }
}

fn source_problem(source: &Source) -> Option<ConfigError> {
    match &source.kind {
        SourceKind::Rtp(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        SourceKind::RtspListener(s) => s.rtsp.check_no_group(),
        SourceKind::RtspCaller(s) => s.rtsp.check_no_group(),
        SourceKind::RtmpPull(s) if s.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        _ => None,
    }
}

fn output_problem(output: &Output) -> Option<ConfigError> {
    match &output.kind {
        OutputKind::RtspCaller(s) => s.rtsp.check_no_group(),
        OutputKind::RtmpPush(s) if s.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        OutputKind::RtmpRelay(s) if s.first.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        _ => None,
    }
}

/// A local address, and what distinguishes endpoints that share it: app and key, stream id, path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    transport: &'static str,
    address: SocketAddr,
    key: String,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.transport, self.address)
    }
}

impl Source {
    /// What this source claims for itself alone; `None` for callers, and for a port that the system picks.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let (transport, listen, key) = match &self.kind {
            SourceKind::Rtp(s) => ("rtp", &s.listen, format!("{:?} {:?}", s.multicast_source, s.interface)),
            SourceKind::SrtListener(s) => ("srt", &s.listen, s.srt.stream_id.clone().unwrap_or_default()),
            SourceKind::Rtmp(s) => ("rtmp", &s.listen, app_key("publish", &s.app, &s.key)),
            SourceKind::RtspListener(s) => ("rtsp", &s.listen, format!("record {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key })
    }

    /// The allowlist of a listener.
    pub(crate) fn allow_mut(&mut self) -> Option<&mut Allowlist> {
        match &mut self.kind {
            SourceKind::Rtp(s) => Some(&mut s.listen.allow),
            SourceKind::SrtListener(s) => Some(&mut s.listen.allow),
            SourceKind::Rtmp(s) => Some(&mut s.listen.allow),
            SourceKind::RtspListener(s) => Some(&mut s.listen.allow),
            _ => None,
        }
    }
}

impl Output {
    /// The settings of an output that listens.
    pub(crate) fn listen_mut(&mut self) -> Option<&mut Listen> {
        match &mut self.kind {
            OutputKind::SrtListener(s) => Some(&mut s.listen),
            OutputKind::RtmpPlay(s) => Some(&mut s.listen),
            OutputKind::RtspListener(s) => Some(&mut s.listen),
            _ => None,
        }
    }

    /// What this output claims for itself alone; `None` for callers, and for a port that the system picks.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let (transport, listen, key) = match &self.kind {
            OutputKind::SrtListener(s) => ("srt", &s.listen, s.srt.stream_id.clone().unwrap_or_default()),
            OutputKind::RtmpPlay(s) => ("rtmp", &s.listen, app_key("play", &s.app, &s.key)),
            OutputKind::RtspListener(s) => ("rtsp", &s.listen, format!("play {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key })
    }
}

/// A publisher and players may use the same application and key: they ask for different things.
fn app_key(role: &str, app: &str, key: &Option<StreamKey>) -> String {
    format!("{role} {app}/{}", key.as_ref().map_or("", StreamKey::reveal))
}

/// Names and addresses that are taken within a flow, with the path of who took them.
#[derive(Default)]
struct Taken {
    names: HashMap<String, String>,
    claims: HashMap<Claim, String>,
}

impl Taken {
    fn claim(&mut self, path: &str, claim: Option<Claim>, errors: &mut Vec<ConfigError>) {
        let Some(claim) = claim else { return };
        let text = claim.to_string();
        if let Some(other) = self.claims.insert(claim, path.to_owned()) {
            let problem = Problem::Duplicate(format!("{other} already listens on {text} with the same key"));
            errors.push(ConfigError::new("bind", problem).within(path));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
