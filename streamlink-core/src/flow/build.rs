//! The flow, which is always valid, and the builder that checks it.

use super::{
    address::Call,
    bandwidth_policy::BandwidthPolicy,
    bitrate::Bitrate,
    builder::Common,
    claim::Claim,
    failover::{Failover, FailoverPolicy},
    name::{Name, check_text},
    output::{IntoOutput, Output, OutputKind},
    pairing::{FedBy, InputProtocol, allowed_text, family::Family},
    rtmp::share_picked_ports,
    secret::StreamKey,
    settings::check_millis,
    source::{IntoSource, Source, SourceKind},
};
use crate::{
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    media::MediaFamily,
};
use std::{
    collections::{HashMap, HashSet},
    marker::PhantomData,
    time::Duration,
};

/// Maximum number of sources of one merge.
pub(crate) const MAX_PATHS: usize = 16;

/// A flow: one source, or several with failover between them, and any number of outputs.
///
/// A `Flow` is always valid, as [`FlowBuilder::build`] checks everything.
#[derive(Clone, Debug)]
pub struct Flow {
    pub(crate) name: Name,
    pub(crate) max_bandwidth: Bitrate,
    pub(crate) policy: BandwidthPolicy,
    pub(crate) coalesce: Duration,
    pub(crate) entry_wait: Duration,
    pub(crate) failover: Failover,
    /// Protocol of the first source.
    pub(crate) input: InputProtocol,
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
                coalesce: Self::DEFAULT_COALESCE,
                entry_wait: Self::DEFAULT_ENTRY_WAIT,
                failover: Failover::default(),
                sources: Vec::new(),
                outputs: Vec::new(),
                errors: Vec::new(),
            },
            family: PhantomData,
        }
    }

    /// Default of [`FlowBuilder::coalesce`].
    pub const DEFAULT_COALESCE: Duration = Duration::from_millis(5);

    /// Default of [`FlowBuilder::entry_wait`].
    pub const DEFAULT_ENTRY_WAIT: Duration = Duration::from_secs(3);

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the maximum bit rate of the source.
    pub fn max_bandwidth(&self) -> Bitrate {
        self.max_bandwidth
    }

    /// Returns the sources: one or more, all of one family. `Prefer` returns to the first.
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

    /// Returns the media family of the sources.
    pub fn family(&self) -> MediaFamily {
        self.input.family()
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
    pub(crate) entry_wait: Duration,
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

    /// Sets the maximum time that packets of RTP and RTSP sources may wait for more, so that they leave together (5 ms;
    /// 0–20).
    ///
    /// Sending many datagrams at once costs a fraction of sending each by itself. Packets of RTP and UDP sources that come
    /// steadily, one at a time, wait until about 16 have come, or for this time: at 6 Mb/s three leave together. In a flow
    /// with fewer than 8 outputs they wait for no more than 1 ms, and those of RIST and RTSP sources in any flow. What
    /// comes after a pause does not wait but over RTSP. 0 passes packets on after each read.
    pub fn coalesce(mut self, window: Duration) -> Self {
        self.draft.coalesce = window;
        self
    }

    /// Sets the time for which RTMP and RTSP players that join, and a backup that takes over, wait for a picture that
    /// decoding can start with (3 s; 0–60). Past it they start anyway, with sound and pictures that decode with errors
    /// at first.
    pub fn entry_wait(mut self, time: Duration) -> Self {
        self.draft.entry_wait = time;
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
        let mut record = |path: &str, result: Result<(), ConfigErrorKind>| {
            if let Err(problem) = result {
                errors.push(ConfigError::new(path, problem));
            }
        };
        let name = Name::new(self.name.clone());
        record("name", name.as_ref().map(|_| ()).map_err(Clone::clone));
        if self.max_bandwidth.as_bps() == 0 {
            record("max_bandwidth", Err(ConfigErrorKind::out_of_range("0", "1 bit per second and more")));
        }
        let backups = second_addresses(&mut self.sources, &self.outputs);
        self.sources.extend(backups);
        share_picked_ports(self.sources.iter_mut().filter_map(|source| match &mut source.kind {
            SourceKind::Rtmp(settings) => Some(settings),
            _ => None,
        }));
        record("coalesce", check_millis(self.coalesce, 0..=20).map(drop));
        record("entry_wait", check_millis(self.entry_wait, 0..=60_000).map(drop));
        check_failover(self.failover, &self.sources, &mut record);

        let first = self.sources.first().map(|s| (s.protocol(), s.family()));
        if first.is_none() {
            record("sources", Err(ConfigErrorKind::Missing));
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
                let problem =
                    ConfigErrorKind::MixedFamilies { found: found.to_string(), expected: expected.to_string() };
                errors.push(ConfigError::new(path.as_str(), problem));
            }
            used.claim(&path, None, source.claim(), &mut errors);
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
            used.claim(&path, output.common.region.clone(), output.claim(), &mut errors);
        }
        match (ConfigErrors::collect(errors), name, first) {
            (None, Ok(name), Some((input, _))) => Ok(Flow {
                name,
                max_bandwidth: self.max_bandwidth,
                policy: self.policy,
                coalesce: self.coalesce,
                entry_wait: self.entry_wait,
                failover: self.failover,
                input,
                sources: self.sources,
                outputs: self.outputs,
            }),
            (Some(errors), ..) => Err(errors),
            (None, Err(problem), _) => Err(ConfigError::new("name", problem).into()),
            (None, Ok(_), None) => Err(ConfigError::new("sources", ConfigErrorKind::Missing).into()),
        }
    }
}

/// Returns the backups of the sources that have two input addresses. A source that is wrong gets none, so that its errors
/// are reported once.
fn second_addresses(sources: &mut [Source], outputs: &[Output]) -> Vec<Source> {
    let names = sources.iter().map(Source::name).chain(outputs.iter().map(Output::name));
    let mut names: HashSet<String> = names.map(str::to_owned).collect();
    let mut backups = Vec::new();
    for source in sources {
        let SourceKind::Rtmp(settings) = &mut source.kind else { continue };
        let Some(second) = settings.divide() else { continue };
        let description = source.common.description.as_deref().unwrap_or_default();
        let is_good = source.common.errors.is_empty() && check_description(description).is_ok();
        if !is_good || Name::new(source.common.name.as_str()).is_err() {
            continue;
        }
        let mut common = source.common.clone();
        common.name = backup_name(&common.name, &names);
        names.insert(common.name.clone());
        backups.push(Source { common, kind: SourceKind::Rtmp(second) });
    }
    backups
}

/// Returns a name for the backup of a source that no other endpoint of the flow has.
fn backup_name(name: &str, taken: &HashSet<String>) -> String {
    let mut number = 1;
    loop {
        let suffix = if number == 1 { "-backup".to_owned() } else { format!("-backup-{number}") };
        let mut end = name.len().min(Name::MAX_LEN - suffix.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let found = format!("{}{suffix}", name.get(..end).unwrap_or_default());
        if !taken.contains(&found) {
            return found;
        }
        number += 1;
    }
}

/// Checks one output by itself, as when it is added to a running flow.
pub(crate) fn check_output(flow: &str, input: InputProtocol, mut output: Output) -> Result<Output, ConfigErrors> {
    let mut errors = Vec::new();
    output.common.errors.extend(output_problem(&output));
    check_endpoint(flow, &mut output.common, &mut UsedNames::default(), &mut errors);
    errors.extend(check_pairing(input, &output).map(|problem| ConfigError::new(flow, problem)));
    if let OutputKind::RtmpPlay(s) = &mut output.kind {
        generate_key(flow, &mut s.key, &mut errors);
    }
    ConfigErrors::collect(errors).map_or(Ok(output), Err)
}

/// Checks one source by itself, as when it is added to a running flow whose sources are of `family`.
pub(crate) fn check_source(path: &str, family: MediaFamily, mut source: Source) -> Result<Source, ConfigErrors> {
    let mut errors = Vec::new();
    source.common.errors.extend(source_problem(&source));
    let broken = source.common.errors.iter().any(|e| e.path() == "url"); // no family to compare
    check_endpoint(path, &mut source.common, &mut UsedNames::default(), &mut errors);
    if let SourceKind::Rtmp(s) = &mut source.kind {
        generate_key(path, &mut s.key, &mut errors);
        if s.failover {
            let problem = "the second input address is made when the flow is built; add a second source to this one";
            errors.push(ConfigError::new("failover", ConfigErrorKind::Conflict(problem.into())).within(path));
        }
    }
    if !broken && source.family() != family {
        let problem =
            ConfigErrorKind::MixedFamilies { found: source.family().to_string(), expected: family.to_string() };
        errors.push(ConfigError::new(path, problem));
    }
    ConfigErrors::collect(errors).map_or(Ok(source), Err)
}

fn check_pairing(input: InputProtocol, output: &Output) -> Option<ConfigErrorKind> {
    let broken = output.common.errors.iter().any(|e| e.path() == "url"); // no protocol to compare
    (!broken && !input.allowed_outputs().contains(&output.protocol())).then(|| ConfigErrorKind::Pairing {
        input: input.to_string(),
        output: output.protocol().to_string(),
        allowed: allowed_text(input.family()),
    })
}

/// Checks the rules for the change between these sources.
pub(crate) fn check_failover(
    failover: Failover,
    sources: &[Source],
    record: &mut impl FnMut(&str, Result<(), ConfigErrorKind>),
) {
    record("failover.loss_threshold", check_millis(failover.loss_threshold, 50..=60_000).map(drop));
    match failover.policy {
        FailoverPolicy::Stay => {}
        FailoverPolicy::Prefer(hold) => record("failover.hold", check_millis(hold, FailoverPolicy::HOLD).map(drop)),
        FailoverPolicy::Merge(window) => {
            record("failover.window", check_millis(window, FailoverPolicy::WINDOW).map(drop));
            if sources.len() > MAX_PATHS {
                record("sources", Err(ConfigErrorKind::Conflict(format!("at most {MAX_PATHS} sources can be merged"))));
            }
            if let Some(source) = sources.iter().find(|s| matches!(s.kind, SourceKind::Udp(_))) {
                let problem = format!("`{}` cannot be merged: MPEG-TS over UDP has no sequence numbers", source.name());
                record("failover.policy", Err(ConfigErrorKind::Conflict(problem)));
            }
            let families = [MediaFamily::Rtp, MediaFamily::Datagrams];
            if sources.iter().any(|s| !families.contains(&s.family())) {
                record(
                    "failover.policy",
                    Err(ConfigErrorKind::Conflict("only RTP and SRT sources can be merged".into())),
                );
            }
        }
    }
    if failover.cold {
        let pushed = sources.iter().skip(1).find(|s| !s.is_caller());
        if let Some(source) = pushed {
            let problem = format!("`{}` waits to be connected to; only a caller can be a cold backup", source.name());
            record("failover.cold", Err(ConfigErrorKind::Conflict(problem)));
        }
    }
}

/// Checks the name, description and region of one endpoint, and collects the errors of its builder.
fn check_endpoint(path: &str, common: &mut Common, used: &mut UsedNames, errors: &mut Vec<ConfigError>) {
    let mut record = |field: &str, result: Result<(), ConfigErrorKind>| {
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
        record("name", Err(ConfigErrorKind::Duplicate(format!("`{}` is already the name of {other}", common.name))));
    }
    errors.extend(common.errors.drain(..).map(|e| e.within(path)));
}

/// Checks a description: at most 1024 bytes without control characters.
pub(crate) fn check_description(text: &str) -> Result<(), ConfigErrorKind> {
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

/// Checks that a caller that accepts certain certificates only has TLS, without which it would accept everyone.
fn check_pins(call: &Call, tls: bool) -> Option<ConfigError> {
    let is_unused = !tls && !call.tls_fingerprints.as_slice().is_empty();
    let problem = || ConfigErrorKind::Conflict("needs TLS: an address with `rtmps` or `rtsps`".into());
    is_unused.then(|| ConfigError::new("tls_fingerprint", problem()))
}

fn source_problem(source: &Source) -> Option<ConfigError> {
    match &source.kind {
        SourceKind::Rtp(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        SourceKind::Rist(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        SourceKind::Udp(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        SourceKind::SrtCaller(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        SourceKind::RtmpPull(s) if s.key.is_none() => Some(ConfigError::new("key", ConfigErrorKind::Missing)),
        SourceKind::RtmpPull(s) => check_pins(&s.call, s.address.tls),
        SourceKind::RtspCaller(s) => check_pins(&s.call, s.rtsp.tls),
        _ => None,
    }
}

fn output_problem(output: &Output) -> Option<ConfigError> {
    match &output.kind {
        OutputKind::RtmpPush(s) if s.key.is_none() => Some(ConfigError::new("key", ConfigErrorKind::Missing)),
        OutputKind::RtmpRelay(s) if s.first.key.is_none() => Some(ConfigError::new("key", ConfigErrorKind::Missing)),
        OutputKind::RtmpPush(s) => check_pins(&s.call, s.address.tls),
        OutputKind::RtmpRelay(s) => {
            check_pins(&s.first.call, s.first.address.tls && s.second.as_ref().is_none_or(|(address, _)| address.tls))
        }
        OutputKind::SrtCaller(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        OutputKind::Rist(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        OutputKind::Rtp(s) => s.check().map(|(field, problem)| ConfigError::new(field, problem)),
        OutputKind::RtspCaller(s) => check_pins(&s.call, s.rtsp.tls),
        _ => None,
    }
}

/// Names and addresses in use within a flow, each with the path of the endpoint that uses it.
#[derive(Default)]
struct UsedNames {
    names: HashMap<String, String>,
    /// Claims, each with the region of its output. Outputs of different regions may be those of different machines, which
    /// is checked when the flow starts.
    claims: HashMap<(Option<String>, Claim), String>,
}

impl UsedNames {
    fn claim(&mut self, path: &str, region: Option<String>, claim: Option<Claim>, errors: &mut Vec<ConfigError>) {
        let Some(claim) = claim else { return };
        let text = claim.to_string();
        if let Some(other) = self.claims.insert((region, claim), path.to_owned()) {
            let problem = ConfigErrorKind::Duplicate(format!("{other} already listens on {text} with the same key"));
            errors.push(ConfigError::new("bind", problem).within(path));
        }
    }
}

#[cfg(test)]
mod tests;
