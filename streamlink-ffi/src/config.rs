//! Sources, outputs and flows before they run.

use crate::{
    error::{FieldError, StreamlinkError},
    guard::{Failure, give, guard, lock, object, place, quiet, take, text},
    status::Status,
    text::StreamlinkText,
};
use std::{ffi::c_char, sync::Mutex, time::Duration};
use streamlink_core::{
    BandwidthPolicy, Bitrate, ConfigErrorKind, Failover, FailoverPolicy, Flow, InputProtocol, MediaFamily, Output,
    OutputProtocol, Source,
};

/// A source under construction.
pub struct StreamlinkSource {
    source: Mutex<Source>,
}

/// An output under construction.
pub struct StreamlinkOutput {
    output: Mutex<Output>,
}

impl StreamlinkSource {
    /// Returns its current value.
    pub(crate) fn get(&self) -> Source {
        lock(&self.source).clone()
    }
}

impl StreamlinkOutput {
    /// Returns the endpoint as it is now.
    pub(crate) fn get(&self) -> Output {
        lock(&self.output).clone()
    }
}

/// Creates a source from its name (1 to 128 bytes) and its URL:
///
///   rtp://:5004                            rtp://239.1.1.1:5004?iface=eth1&pt=33
///   udp://:1234                            udp://@239.1.1.1:1234?iface=eth1   (MPEG-TS without RTP)
///   rist://:5000?latency=1000              RIST, simple profile
///   srt://:9000?mode=listener&latency=120  srt://example.com:9000?streamid=cam1
///   rtmp://0.0.0.0:1935/live/KEY           publishers push to us
///   rtmp://:1935/live?failover=true        the same with two input addresses, each with a generated key
///   rtmp://example.com/live?key=KEY        we pull
///   rtsp://0.0.0.0:554/cam/1               rtsp://user:password@example.com/path?transport=tcp
///   app://datagrams  app://rtp  app://rtmp  app://rtsp    this process pushes; see streamlink_flow_app_source()
///
/// `mode=listener` or `mode=caller` decides where the host does not (no host, or a wildcard: listener). What is wrong
/// with the URL is told when the flow is started, with everything else. On success `*source` is to be destroyed with
/// streamlink_source_destroy().
///
/// # Safety
/// `name` and `url` are texts; `source` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_source_create(
    name: *const c_char,
    url: *const c_char,
    source: *mut *mut StreamlinkSource,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(source, "source")?;
        // SAFETY: texts, as the contract says.
        let made = unsafe { Source::from_url(text(name, "name")?, text(url, "url")?) };
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(source, StreamlinkSource { source: Mutex::new(made) }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Sets one setting by its name in the query of the URL, as in "latency", "200"; also "description" and "allow", as in
/// "203.3.3.3/28;198.51.100.7". A setting that is wrong is told when the flow is started.
///
/// # Safety
/// `source` is a source that was not destroyed; `key` and `value` are texts; `error` is NULL or points to memory for a
/// pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_source_set(
    source: *mut StreamlinkSource,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `source` alive during the call; `key` and `value` are texts that end with NUL.
        let (source, key, value) = unsafe { (object(source, "source")?, text(key, "key")?, text(value, "value")?) };
        let mut place = lock(&source.source);
        *place = place.clone().set(key, value);
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys a source under construction; flows that it was added to keep what it was. NULL is allowed.
///
/// # Safety
/// `source` is NULL or a source that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_source_destroy(source: *mut StreamlinkSource) {
    // SAFETY: the caller hands over `source`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(source) }));
}

/// Creates an output from its name (1 to 128 bytes) and its URL:
///
///   rtp://192.0.2.1:5004                   rtp://239.1.1.1:5004?iface=eth1&ttl=8
///   udp://192.0.2.1:1234                   udp://239.1.1.1:1234?ttl=8&pace=pcr   (MPEG-TS without RTP)
///   rist://example.com:5000                RIST, simple profile
///   srt://:9001?max_players=4              srt://example.com:7000?passphrase=SECRET
///   rtmp://example.com/live?key=KEY        RTMP_PUSH, to one destination
///   rtmp://example.com/live?key=KEY&relay=true    RTMP, the relay to one destination or two
///   rtmp://0.0.0.0:1935/live/KEY           RTMP_PULL: players fetch from us
///   rtsp://0.0.0.0:8554/cam                rtsp://user:password@example.com/path
///   tap:                                   this process takes the packets; see streamlink_flow_tap()
///
/// On success `*output` is to be destroyed with streamlink_output_destroy().
///
/// # Safety
/// `name` and `url` are texts; `output` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_output_create(
    name: *const c_char,
    url: *const c_char,
    output: *mut *mut StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(output, "output")?;
        // SAFETY: texts, as the contract says.
        let made = unsafe { Output::from_url(text(name, "name")?, text(url, "url")?) };
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(output, StreamlinkOutput { output: Mutex::new(made) }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Sets one setting by its name in the query of the URL, as in "ttl", "8"; also "description", "region", and "allow".
/// A setting that is wrong is told when the flow is started, or the output is added to it.
///
/// # Safety
/// `output` is an output that was not destroyed; `key` and `value` are texts; `error` is NULL or points to memory for a
/// pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_output_set(
    output: *mut StreamlinkOutput,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `output` alive during the call; `key` and `value` are texts that end with NUL.
        let (output, key, value) = unsafe { (object(output, "output")?, text(key, "key")?, text(value, "value")?) };
        let mut place = lock(&output.output);
        *place = place.clone().set(key, value);
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys an output under construction; flows that it was added to keep what it was. NULL is allowed.
///
/// # Safety
/// `output` is NULL or an output that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_output_destroy(output: *mut StreamlinkOutput) {
    // SAFETY: the caller hands over `output`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(output) }));
}

/// A flow under construction.
pub struct StreamlinkFlowBuilder {
    draft: Mutex<Draft>,
}

struct Draft {
    name: String,
    max_bandwidth: Bitrate,
    policy: BandwidthPolicy,
    coalesce: Duration,
    entry_wait: Duration,
    failover: Failover,
    sources: Vec<Source>,
    outputs: Vec<Output>,
}

/// Treatment of media above the maximum bandwidth of a flow.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkBandwidthPolicy {
    /// Whole packets are dropped, of RTMP whole frames; of RTMP and RTSP all pictures up to the next key frame.
    Drop = 0,
    /// The source is disconnected.
    Disconnect = 1,
    /// Everything passes; an event and the counters tell.
    Warn = 2,
}

/// The policy that a number stands for: C may pass any.
pub(crate) fn policy(number: i32) -> Result<BandwidthPolicy, Failure> {
    match number {
        0 => Ok(BandwidthPolicy::Drop),
        1 => Ok(BandwidthPolicy::Disconnect),
        2 => Ok(BandwidthPolicy::Warn),
        other => Err(Failure::argument(format!("{other} is no bandwidth policy"))),
    }
}

impl StreamlinkFlowBuilder {
    /// The flow, if it is valid.
    pub(crate) fn build(&self) -> Result<Flow, Failure> {
        let draft = lock(&self.draft);
        let mut sources = draft.sources.iter().cloned();
        let Some(first) = sources.next() else { return Err(without_source(&draft)) };
        Self::assemble(&draft, first, sources).map_err(Failure::from)
    }

    fn assemble(
        draft: &Draft,
        first: Source,
        backups: impl Iterator<Item = Source>,
    ) -> Result<Flow, streamlink_core::ConfigErrors> {
        let mut flow = Flow::builder(draft.name.as_str(), draft.max_bandwidth)
            .source(first)
            .bandwidth_policy(draft.policy)
            .coalesce(draft.coalesce)
            .entry_wait(draft.entry_wait)
            .failover(draft.failover);
        for backup in backups {
            flow = flow.backup(backup);
        }
        for output in draft.outputs.iter().cloned() {
            flow = flow.output(output);
        }
        flow.build()
    }

    fn change(&self, change: impl FnOnce(&mut Draft)) {
        change(&mut lock(&self.draft));
    }
}

/// The errors of a flow that has no source: that, and all others.
fn without_source(draft: &Draft) -> Failure {
    // The library checks a flow with a source only. This one is wrong itself, so that it takes no name from an output.
    let stand_in = Source::from_url("", "app://rtp");
    let found = StreamlinkFlowBuilder::assemble(draft, stand_in, std::iter::empty()).err();
    let others = found.iter().flatten().filter(|error| {
        let is_about_it =
            error.path().starts_with("sources") || matches!(error.kind(), ConfigErrorKind::Pairing { .. });
        !is_about_it
    });
    let missing = FieldError::new("sources", &ConfigErrorKind::Missing);
    Failure::fields(Status::InvalidConfig, std::iter::once(missing).chain(others.map(FieldError::from)).collect())
}

/// Begins a flow with its name (1 to 128 bytes) and its maximum bandwidth in bits per second (above 0). On success
/// `*builder` is to be destroyed with streamlink_flow_builder_destroy(), also after the flow was started from it.
///
/// # Safety
/// `name` is a text; `builder` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_create(
    name: *const c_char,
    max_bandwidth: u64,
    builder: *mut *mut StreamlinkFlowBuilder,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(builder, "builder")?;
        let draft = Draft {
            // SAFETY: a text, as the contract says.
            name: unsafe { text(name, "name") }?.to_owned(),
            max_bandwidth: Bitrate::bps(max_bandwidth),
            policy: BandwidthPolicy::default(),
            coalesce: Flow::DEFAULT_COALESCE,
            entry_wait: Flow::DEFAULT_ENTRY_WAIT,
            failover: Failover::default(),
            sources: Vec::new(),
            outputs: Vec::new(),
        };
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(builder, StreamlinkFlowBuilder { draft: Mutex::new(draft) }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Adds a source, as it is now; the second and all further ones are backups.
///
/// # Safety
/// Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_add_source(
    builder: *mut StreamlinkFlowBuilder,
    source: *const StreamlinkSource,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` and `source` alive during the call.
        let (builder, source) = unsafe { (object(builder, "builder")?, object(source, "source")?) };
        let source = source.get();
        builder.change(|draft| draft.sources.push(source));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Adds an output, as it is now.
///
/// # Safety
/// Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_add_output(
    builder: *mut StreamlinkFlowBuilder,
    output: *const StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` and `output` alive during the call.
        let (builder, output) = unsafe { (object(builder, "builder")?, object(output, "output")?) };
        let output = output.get();
        builder.change(|draft| draft.outputs.push(output));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Treatment of media above the maximum bandwidth: a streamlink_bandwidth_policy (STREAMLINK_BANDWIDTH_POLICY_DROP).
///
/// # Safety
/// `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_set_bandwidth_policy(
    builder: *mut StreamlinkFlowBuilder,
    policy: i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` alive during the call.
        let builder = unsafe { object(builder, "builder") }?;
        let policy = self::policy(policy)?;
        builder.change(|draft| draft.policy = policy);
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Maximum time for which packets of RTP and RTSP sources wait for more, so that they leave together, in milliseconds (5;
/// 0 to 20). Flows with fewer than 8 outputs let them wait for no more than 1 ms.
///
/// # Safety
/// `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_set_coalesce(
    builder: *mut StreamlinkFlowBuilder,
    milliseconds: u32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` alive during the call.
        let builder = unsafe { object(builder, "builder") }?;
        builder.change(|draft| draft.coalesce = Duration::from_millis(milliseconds.into()));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Sets the time for which RTMP and RTSP players that join, and a backup that takes over, wait for a picture that
/// decoding can start with, in milliseconds (3000; 0 to 60000). Past it they start anyway.
///
/// # Safety
/// `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_set_entry_wait(
    builder: *mut StreamlinkFlowBuilder,
    milliseconds: u32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` alive during the call.
        let builder = unsafe { object(builder, "builder") }?;
        builder.change(|draft| draft.entry_wait = Duration::from_millis(milliseconds.into()));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Way in which the sources of a flow back each other.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkFailoverPolicy {
    /// The source that delivers first is active; after a loss the flow stays with the backup.
    Stay = 0,
    /// Back to the first source when it has delivered for a time.
    Prefer = 1,
    /// All sources are merged packet by packet (SMPTE ST 2022-7); RTP, and SRT that carries RTP.
    Merge = 2,
}

/// The rules that numbers stand for: C may pass any.
pub(crate) fn failover(policy: i32, time_ms: u32, loss_threshold_ms: u32, cold: i32) -> Result<Failover, Failure> {
    let time = Duration::from_millis(time_ms.into());
    let mut failover = Failover::new(match policy {
        0 => FailoverPolicy::Stay,
        1 => FailoverPolicy::Prefer(time),
        2 => FailoverPolicy::Merge(time),
        other => return Err(Failure::argument(format!("{other} is no failover policy"))),
    });
    if loss_threshold_ms > 0 {
        failover = failover.loss_threshold(Duration::from_millis(loss_threshold_ms.into()));
    }
    if cold != 0 {
        failover = failover.cold();
    }
    Ok(failover)
}

/// Way in which the sources back each other: a streamlink_failover_policy (STREAMLINK_FAILOVER_POLICY_STAY);
/// `time_ms`: of PREFER the hold time, of MERGE the recovery window (100 to 500), of STAY 0; `loss_threshold_ms`: how
/// long the active source may bring nothing (50 to 60000), 0: 500; `cold`: not 0: backups, which must be
/// callers, are connected only when they are needed.
///
/// # Safety
/// `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_set_failover(
    builder: *mut StreamlinkFlowBuilder,
    policy: i32,
    time_ms: u32,
    loss_threshold_ms: u32,
    cold: i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` alive during the call.
        let builder = unsafe { object(builder, "builder") }?;
        let failover = failover(policy, time_ms, loss_threshold_ms, cold)?;
        builder.change(|draft| draft.failover = failover);
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Writes the flow as JSON, in the form that streamlink_flow_start_json() reads. It holds the secrets. On success
/// `*json` is to be freed with streamlink_text_free(). A flow that is not valid is STREAMLINK_STATUS_INVALID_CONFIG: so
/// this checks it, too.
///
/// # Safety
/// `builder` is a builder that was not destroyed; `json` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_to_json(
    builder: *const StreamlinkFlowBuilder,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `builder` alive during the call.
        let builder = unsafe { object(builder, "builder") }?;
        place(json, "json")?;
        let written = builder.build()?.to_json();
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(json, StreamlinkText::new(written)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys a builder; flows that were started from it go on. NULL is allowed.
///
/// # Safety
/// `builder` is NULL or a builder that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_builder_destroy(builder: *mut StreamlinkFlowBuilder) {
    // SAFETY: the caller hands over `builder`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(builder) }));
}

/// Protocol of a source.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkInput {
    /// RTMP, pushed to us by a publisher.
    Rtmp = 1,
    /// RTMP, fetched by us from a server.
    RtmpPull = 2,
    /// SRT, listener or caller.
    Srt = 3,
    /// RTP over UDP.
    Rtp = 4,
    /// RTSP, recorded to us or fetched by us.
    Rtsp = 5,
    /// Datagrams pushed by this process.
    AppDatagrams = 6,
    /// RTP packets pushed by this process.
    AppRtp = 7,
    /// FLV messages pushed by this process.
    AppRtmp = 8,
    /// The RTP packets of RTSP tracks, pushed by this process.
    AppRtsp = 9,
    /// MPEG-TS over UDP, without RTP.
    Udp = 10,
    /// RIST, simple profile.
    Rist = 11,
}

const INPUTS: [(StreamlinkInput, InputProtocol); 11] = [
    (StreamlinkInput::Rtmp, InputProtocol::Rtmp),
    (StreamlinkInput::RtmpPull, InputProtocol::RtmpPull),
    (StreamlinkInput::Srt, InputProtocol::Srt),
    (StreamlinkInput::Rtp, InputProtocol::Rtp),
    (StreamlinkInput::Rtsp, InputProtocol::Rtsp),
    (StreamlinkInput::AppDatagrams, InputProtocol::App(MediaFamily::Datagrams)),
    (StreamlinkInput::AppRtp, InputProtocol::App(MediaFamily::Rtp)),
    (StreamlinkInput::AppRtmp, InputProtocol::App(MediaFamily::Rtmp)),
    (StreamlinkInput::AppRtsp, InputProtocol::App(MediaFamily::Rtsp)),
    (StreamlinkInput::Udp, InputProtocol::Udp),
    (StreamlinkInput::Rist, InputProtocol::Rist),
];

/// The names of the outputs that a source can feed, in the order that a drop-down list would show them: "RTMP",
/// "RTMP_PUSH", "RTMP_PULL", "SRT", "RTP", "UDP", "RIST", "RTSP", "tap". `index` counts from 0; NULL: there are no more, or `input`
/// is no streamlink_input. The text lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn streamlink_allowed_output(input: i32, index: usize) -> *const c_char {
    let found = INPUTS.iter().find(|(number, _)| *number as i32 == input);
    let output = found.and_then(|(_, protocol)| protocol.allowed_outputs().get(index));
    let name = match output {
        Some(OutputProtocol::Rtmp) => c"RTMP",
        Some(OutputProtocol::RtmpPush) => c"RTMP_PUSH",
        Some(OutputProtocol::RtmpPull) => c"RTMP_PULL",
        Some(OutputProtocol::Srt) => c"SRT",
        Some(OutputProtocol::Rtp) => c"RTP",
        Some(OutputProtocol::Udp) => c"UDP",
        Some(OutputProtocol::Rist) => c"RIST",
        Some(OutputProtocol::Rtsp) => c"RTSP",
        Some(OutputProtocol::Tap) => c"tap",
        _ => return std::ptr::null(),
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn output_names_are_those_of_the_library() {
        for (number, protocol) in INPUTS {
            for (index, output) in protocol.allowed_outputs().iter().enumerate() {
                let name = streamlink_allowed_output(number as i32, index);
                assert!(!name.is_null());
                // SAFETY: a text of the program.
                assert_eq!(unsafe { CStr::from_ptr(name) }.to_string_lossy(), output.to_string());
            }
            assert!(streamlink_allowed_output(number as i32, protocol.allowed_outputs().len()).is_null());
        }
        assert!(streamlink_allowed_output(0, 0).is_null() && streamlink_allowed_output(-1, 7).is_null());
    }
}
