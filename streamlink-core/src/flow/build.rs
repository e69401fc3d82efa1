//! The flow, which is always valid, and the builder that checks it.

use super::{
    address::Listen,
    allowlist::Allowlist,
    bitrate::Bitrate,
    builder::Common,
    name::{Name, check_text},
    output::{IntoOutput, Output, OutputKind},
    pairing::{FedBy, allowed_text, family::Family},
    secret::StreamKey,
    settings::{check_millis, millis},
    source::{IntoSource, Source, SourceKind},
};
use crate::{
    error::{ConfigError, ConfigErrors, Problem},
    media::MediaFamily,
    secret::Secret,
};
use std::{
    collections::HashMap, fmt, marker::PhantomData, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration,
};

/// Maximum number of sources of one merge.
pub(crate) const MAX_PATHS: usize = 16;

/// Treatment of media above the flow's maximum bandwidth. As text: `drop`, `disconnect` or `warn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BandwidthPolicy {
    /// Drops whole packets, of RTMP whole frames; of RTMP and RTSP all pictures up to the next key frame.
    #[default]
    Drop,
    /// Disconnects the source.
    Disconnect,
    /// Everything passes; an event and the counters tell. SRT outputs without a maximum of their own pace by what comes
    /// in; queues stay those of the maximum bandwidth, and an output that falls behind more than that loses the oldest.
    Warn,
}

/// Rules for the change between the sources of a flow.
///
/// The first source that delivers media feeds the flow. It is lost when its connection closes, or when it delivers
/// nothing for the loss threshold; then the first other source that has media takes over, and [`Event::Switched`] reports
/// it. A switch never disconnects an output.
///
/// ```
/// use std::time::Duration;
/// use streamlink_core::{Bitrate, Failover, FailoverPolicy, Flow, Output, Source};
///
/// let policy = FailoverPolicy::Prefer(Duration::from_secs(5));
/// let flow = Flow::builder("match-day", Bitrate::mbps(20))
///     .source(Source::srt_listener("venue", "0.0.0.0:9000"))
///     .backup(Source::srt_caller("spare", "example.com:9000"))
///     .failover(Failover::new(policy).loss_threshold(Duration::from_millis(300)))
///     .output(Output::srt_listener("partner", "0.0.0.0:9001"))
///     .build()?;
/// assert_eq!(flow.sources().len(), 2);
/// # Ok::<(), streamlink_core::ConfigErrors>(())
/// ```
///
/// - RTMP and RTSP continue with a video key frame: with the last one of the backup, whose group of pictures is kept (up
///   to 16 MiB), or else with the next. Timestamps, sequence numbers and sender reports continue; headers and parameter
///   sets are sent again when they differ. RTSP players stay connected if the tracks have the same encoding.
/// - MPEG-TS, over SRT or RTP, continues at a random access point of the video, if the stream marks them and one arrives
///   within the loss threshold; otherwise, as any other payload, with the next packet. The first transport packet of
///   each PID is preceded by one with the discontinuity indicator. PCR, PTS, DTS and SCTE 35 times are shifted so that
///   they continue, unless they do so already. RTP keeps one SSRC with continuous sequence numbers and timestamps; a
///   backup that carries identical packets continues with the next of them, unaltered.
///
/// [`Event::Switched`]: crate::Event::Switched
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Failover {
    pub(crate) policy: FailoverPolicy,
    pub(crate) loss_threshold: Duration,
    pub(crate) cold: bool,
}

/// Conditions for a switch between the sources of a flow.
///
/// As text: `stay`, `prefer` or `prefer:MILLISECONDS` (5000 ms), `merge` or `merge:MILLISECONDS` (200 ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailoverPolicy {
    /// Stays with the backup after a loss. The source that delivers first is active.
    Stay,
    /// Returns to the first source once it has delivered for this time (0–3 600 000 ms).
    Prefer(Duration),
    /// Merges up to 16 sources that carry the same RTP packets, over RTP or SRT, packet by packet (SMPTE ST 2022-7). The
    /// recovery window of 100–500 ms is the maximum delay of one path behind another.
    Merge(Duration),
}

impl BandwidthPolicy {
    /// All policies.
    pub const ALL: &'static [Self] = &[Self::Drop, Self::Disconnect, Self::Warn];

    /// Returns the name, as in `drop`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Disconnect => "disconnect",
            Self::Warn => "warn",
        }
    }
}

impl fmt::Display for BandwidthPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BandwidthPolicy {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let found = Self::ALL.iter().find(|policy| policy.name() == s);
        found.copied().ok_or_else(|| Problem::malformed(s, "drop, disconnect or warn"))
    }
}

impl FailoverPolicy {
    /// Range of the hold time, in milliseconds.
    const HOLD: RangeInclusive<u64> = 0..=3_600_000;
    /// Range of the recovery window, in milliseconds.
    const WINDOW: RangeInclusive<u64> = 100..=500;
    /// Hold time of `prefer` as text, if none is given.
    pub(crate) const DEFAULT_HOLD: Duration = Duration::from_secs(5);
    /// Recovery window of `merge` as text, if none is given.
    pub(crate) const DEFAULT_WINDOW: Duration = Duration::from_millis(200);
}

impl fmt::Display for FailoverPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("stay"),
            Self::Prefer(hold) => write!(f, "prefer:{}", hold.as_millis()),
            Self::Merge(window) => write!(f, "merge:{}", window.as_millis()),
        }
    }
}

impl FromStr for FailoverPolicy {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let (name, time) = match s.split_once(':') {
            Some((name, time)) => (name, Some(time)),
            None => (s, None),
        };
        match (name, time) {
            ("stay", None) => Ok(Self::Stay),
            ("prefer", None) => Ok(Self::Prefer(Self::DEFAULT_HOLD)),
            ("prefer", Some(hold)) => millis(hold, Self::HOLD).map(Self::Prefer),
            ("merge", None) => Ok(Self::Merge(Self::DEFAULT_WINDOW)),
            ("merge", Some(window)) => millis(window, Self::WINDOW).map(Self::Merge),
            _ => Err(Problem::malformed(s, "stay, prefer[:MILLISECONDS] or merge[:MILLISECONDS]")),
        }
    }
}

impl Failover {
    /// Returns the rules of a policy, with a loss threshold of 500 ms and hot backups.
    pub fn new(policy: FailoverPolicy) -> Self {
        Self { policy, loss_threshold: Duration::from_millis(500), cold: false }
    }

    /// Sets the time without media after which the active source counts as lost (500 ms; 50–60 000).
    pub fn loss_threshold(mut self, threshold: Duration) -> Self {
        self.loss_threshold = threshold;
        self
    }

    /// Makes the backups cold: they connect only when they are needed. All of them must be callers.
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

/// A flow: one source, or several with failover between them, and any number of outputs.
///
/// A `Flow` is always valid, as [`FlowBuilder::build`] checks everything.
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

/// Type parameter of a [`FlowBuilder`] that has no source yet.
#[derive(Clone, Copy, Debug)]
pub enum NoSource {}

impl Flow {
    /// Returns the builder of a flow with its name (1–128 bytes) and its maximum bandwidth (above 0).
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

    /// Default of [`FlowBuilder::coalesce`].
    pub const DEFAULT_COALESCE: Duration = Duration::from_millis(1);

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the maximum bit rate of the source.
    pub fn max_bandwidth(&self) -> Bitrate {
        self.max_bandwidth
    }

    /// Returns the sources; never empty, all of one family. `Prefer` returns to the first.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Returns the outputs.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Returns the rules for the change between the sources.
    pub fn failover(&self) -> Failover {
        self.failover
    }

    /// Returns the protocol of the first source.
    pub(crate) fn input(&self) -> super::InputProtocol {
        // Invariant: as below.
        self.sources.first().map_or(super::InputProtocol::Rtp, Source::protocol)
    }

    /// Returns the media family of the sources.
    pub fn family(&self) -> MediaFamily {
        // Invariant: a flow has at least one source; the fallback is never taken.
        self.sources.first().map_or(MediaFamily::Datagrams, Source::family)
    }
}

/// Builder of a [`Flow`] that collects all errors. `F` is the family of the source.
#[derive(Clone, Debug)]
#[must_use]
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
    /// Sets the source.
    pub fn source<S: IntoSource>(mut self, source: S) -> FlowBuilder<S::Family> {
        self.draft.sources.push(source.into_source());
        FlowBuilder { draft: self.draft, family: PhantomData }
    }

    /// Does not compile: a flow needs its source before its outputs, as the source decides which outputs it can feed.
    ///
    /// ```compile_fail
    /// use streamlink_core::*;
    /// Flow::builder("f", Bitrate::mbps(20)).output(Output::rtp("studio", "192.0.2.1:5004"));
    /// ```
    pub fn output<O: NeedsSource>(self, _output: O) -> Self {
        self
    }
}

/// Implemented by nothing: names the mistake when an output is given to a flow that has no source yet.
#[diagnostic::on_unimplemented(
    message = "a flow needs its source before its outputs",
    label = "this flow has no source yet",
    note = "call `.source(…)` first: it decides which outputs can follow"
)]
pub trait NeedsSource {}

impl<F> FlowBuilder<F> {
    /// Sets the treatment of media above the maximum bandwidth (`Drop`).
    pub fn bandwidth_policy(mut self, policy: BandwidthPolicy) -> Self {
        self.draft.policy = policy;
        self
    }

    /// Sets the time that packets of RTP and RTSP sources may wait for more, so that they leave together (1 ms; 0–20).
    ///
    /// Sending many datagrams at once costs a fraction of sending each by itself. 0 passes packets on after each read.
    pub fn coalesce(mut self, window: Duration) -> Self {
        self.draft.coalesce = window;
        self
    }
}

impl<F: Family> FlowBuilder<F> {
    /// Adds a backup for the source, of the same family. May be called again.
    ///
    /// Two RTMP listeners without a key may share an address: each gets a generated key of its own.
    pub fn backup<S: IntoSource<Family = F>>(mut self, source: S) -> Self {
        self.draft.sources.push(source.into_source());
        self
    }

    /// Sets the rules for the change between the sources (`Stay`, loss threshold 500 ms).
    pub fn failover(mut self, failover: Failover) -> Self {
        self.draft.failover = failover;
        self
    }

    /// Adds an output. The compiler checks that the source can feed it; see [`FedBy`].
    ///
    /// ```compile_fail
    /// use streamlink_core::*;
    /// // An SRT source feeds SRT and RTMP_PUSH, not RTP:
    /// Flow::builder("f", Bitrate::mbps(20))
    ///     .source(Source::srt_listener("venue", "0.0.0.0:9000"))
    ///     .output(Output::rtp("studio", "192.0.2.1:5004"));
    /// ```
    ///
    /// An [`Output`] itself, as [`Output::from_url`] returns it, is checked by `build()`.
    pub fn output<O: IntoOutput + FedBy<F>>(mut self, output: O) -> Self {
        self.draft.outputs.push(output.into_output());
        self
    }

    /// Checks everything and returns the flow.
    ///
    /// # Errors
    /// Every error, each with the path of its field, as in `outputs[1].latency`.
    pub fn build(self) -> Result<Flow, ConfigErrors> {
        self.draft.build()
    }
}

impl FlowDraft {
    pub(crate) fn build(mut self) -> Result<Flow, ConfigErrors> {
        let mut errors = std::mem::take(&mut self.errors);
        let mut record = |path: &str, result: Result<(), Problem>| {
            if let Err(problem) = result {
                errors.push(ConfigError::new(path, problem));
            }
        };
        let name = Name::new(self.name.clone());
        record("name", name.as_ref().map(|_| ()).map_err(Clone::clone));
        if self.max_bandwidth.as_bps() == 0 {
            record("max_bandwidth", Err(Problem::out_of_range("0", "1 bit per second and more")));
        }
        record("coalesce", check_millis(self.coalesce, 0..=20).map(drop));
        check_failover(&self, &mut record);

        let first = self.sources.first().map(|s| (s.protocol(), s.family()));
        if first.is_none() {
            record("sources", Err(Problem::Missing));
        }
        let mut used = UsedNames::default();
        for (i, source) in self.sources.iter_mut().enumerate() {
            let path = format!("sources[{i}]");
            source.common.errors.extend(source_problem(source));
            check_endpoint(&path, &mut source.common, &mut used, &mut errors);
            if let SourceKind::Rtmp(s) = &mut source.kind {
                generate_key(&path, &mut s.key, &mut errors);
            }
            let found = source.family();
            let expected = first.map_or(found, |(_, family)| family);
            if found != expected {
                let problem = Problem::MixedFamilies { found: found.to_string(), expected: expected.to_string() };
                errors.push(ConfigError::new(path.as_str(), problem));
            }
            used.claim(&path, source.claim(), &mut errors);
        }
        for (i, output) in self.outputs.iter_mut().enumerate() {
            let path = format!("outputs[{i}]");
            output.common.errors.extend(output_problem(output));
            check_endpoint(&path, &mut output.common, &mut used, &mut errors);
            if let OutputKind::RtmpPlay(s) = &mut output.kind {
                generate_key(&path, &mut s.key, &mut errors);
            }
            if let Some((input, _)) = first {
                errors.extend(check_pairing(input, output).map(|problem| ConfigError::new(path.as_str(), problem)));
            }
            used.claim(&path, output.claim(), &mut errors);
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
    check_endpoint(flow, &mut output.common, &mut UsedNames::default(), &mut errors);
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

fn check_failover(draft: &FlowDraft, record: &mut impl FnMut(&str, Result<(), Problem>)) {
    record("failover.loss_threshold", check_millis(draft.failover.loss_threshold, 50..=60_000).map(drop));
    match draft.failover.policy {
        FailoverPolicy::Stay => {}
        FailoverPolicy::Prefer(hold) => record("failover.hold", check_millis(hold, FailoverPolicy::HOLD).map(drop)),
        FailoverPolicy::Merge(window) => {
            record("failover.window", check_millis(window, FailoverPolicy::WINDOW).map(drop));
            if draft.sources.len() > MAX_PATHS {
                record("sources", Err(Problem::Conflict(format!("at most {MAX_PATHS} sources can be merged"))));
            }
            let families = [MediaFamily::Rtp, MediaFamily::Datagrams];
            if draft.sources.iter().any(|s| !families.contains(&s.family())) {
                record("failover.policy", Err(Problem::Conflict("only RTP and SRT sources can be merged".into())));
            }
        }
    }
    if draft.failover.cold {
        let pushed = draft.sources.iter().skip(1).find(|s| !s.is_caller());
        if let Some(source) = pushed {
            let problem = format!("`{}` waits to be connected to; only a caller can be a cold backup", source.name());
            record("failover.cold", Err(Problem::Conflict(problem)));
        }
    }
}

/// Checks the name, description and region of one endpoint, and collects the errors of its builder.
fn check_endpoint(path: &str, common: &mut Common, used: &mut UsedNames, errors: &mut Vec<ConfigError>) {
    let mut record = |field: &str, result: Result<(), Problem>| {
        if let Err(problem) = result {
            errors.push(ConfigError::new(field, problem).within(path));
        }
    };
    record("name", Name::new(common.name.as_str()).map(drop));
    if let Some(text) = &common.description {
        record("description", check_description(text));
    }
    if let Some(text) = &common.region {
        record("region", Name::new(text.as_str()).map(drop));
    }
    if let Some(other) = used.names.insert(common.name.clone(), path.to_owned()) {
        record("name", Err(Problem::Duplicate(format!("`{}` is already the name of {other}", common.name))));
    }
    errors.extend(common.errors.drain(..).map(|e| e.within(path)));
}

/// Checks a description: at most 1024 bytes without control characters.
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
        SourceKind::RtspCaller(s) => s.rtsp.check_no_group().or_else(|| s.rtsp.silence.check_caller()),
        SourceKind::SrtCaller(s) => s.srt.silence.check_caller(),
        SourceKind::RtmpPull(s) if s.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        SourceKind::RtmpPull(s) => s.silence.check_caller(),
        _ => None,
    }
}

fn output_problem(output: &Output) -> Option<ConfigError> {
    match &output.kind {
        OutputKind::RtspCaller(s) => s.rtsp.check_no_group().or_else(|| s.rtsp.silence.check_output()),
        OutputKind::RtspListener(s) => s.rtsp.silence.check_output(),
        OutputKind::SrtCaller(s) => s.srt.silence.check_output(),
        OutputKind::SrtListener(s) => s.srt.silence.check_output(),
        OutputKind::RtmpPush(s) if s.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        OutputKind::RtmpRelay(s) if s.first.key.is_none() => Some(ConfigError::new("key", Problem::Missing)),
        _ => None,
    }
}

/// A local address, and the application and key, stream id or path that tells endpoints apart that share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    transport: &'static str,
    address: SocketAddr,
    key: Secret,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.address)
    }
}

impl Source {
    /// Returns the address that no other endpoint may use; `None` for callers, and for a port that the system picks.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let (transport, listen, key) = match &self.kind {
            SourceKind::Rtp(s) => ("rtp", &s.listen, format!("{:?} {:?}", s.multicast_source, s.interface)),
            SourceKind::SrtListener(s) => ("srt", &s.listen, s.srt.stream_id.clone().unwrap_or_default()),
            SourceKind::Rtmp(s) => ("rtmp", &s.listen, app_key("publish", &s.app, &s.key)),
            SourceKind::RtspListener(s) => ("rtsp", &s.listen, format!("record {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key: key.into() })
    }

    /// Returns the allowlist of a listener.
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
    /// Returns the settings of an output that listens.
    pub(crate) fn listen_mut(&mut self) -> Option<&mut Listen> {
        match &mut self.kind {
            OutputKind::SrtListener(s) => Some(&mut s.listen),
            OutputKind::RtmpPlay(s) => Some(&mut s.listen),
            OutputKind::RtspListener(s) => Some(&mut s.listen),
            _ => None,
        }
    }

    /// Returns the address that no other endpoint may use; `None` for callers, and for a port that the system picks.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let (transport, listen, key) = match &self.kind {
            OutputKind::SrtListener(s) => ("srt", &s.listen, s.srt.stream_id.clone().unwrap_or_default()),
            OutputKind::RtmpPlay(s) => ("rtmp", &s.listen, app_key("play", &s.app, &s.key)),
            OutputKind::RtspListener(s) => ("rtsp", &s.listen, format!("play {}", s.rtsp.path)),
            _ => return None,
        };
        (listen.bind.port() != 0).then_some(Claim { transport, address: listen.bind, key: key.into() })
    }
}

/// Returns the application and key as part of a claim. The role is part of it, because a publisher and players may use
/// the same ones.
fn app_key(role: &str, app: &str, key: &Option<StreamKey>) -> String {
    format!("{role} {app}/{}", key.as_ref().map_or("", StreamKey::reveal))
}

/// Names and addresses in use within a flow, each with the path of the endpoint that uses it.
#[derive(Default)]
struct UsedNames {
    names: HashMap<String, String>,
    claims: HashMap<Claim, String>,
}

impl UsedNames {
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
mod tests;
