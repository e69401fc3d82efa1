//! Events: a queue with a descriptor for event loops, or a callback.

use crate::{
    access::User,
    error::StreamlinkError,
    event_fd::EventFd,
    guard::{Versioned, c_string, give, guard, lock, object, place, plain_name, quiet, take},
    run,
    status::Status,
    text::StreamlinkText,
};
use serde::Serializer;
use std::{
    collections::VecDeque,
    ffi::{CString, c_char, c_void},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use streamlink_core::Event;

/// Events that wait at most; then the oldest go, and the next one that is read tells how many.
const CAPACITY: usize = 1024;

/// Something that happened in a flow.
pub struct StreamlinkEvent {
    item: Item,
    texts: OnceLock<Texts>,
}

/// An event with the name of its flow and its time. In JSON it has the form of [`streamlink_core::FlowEvent`].
#[derive(Clone, serde::Serialize)]
pub(crate) struct Item {
    #[serde(serialize_with = "text")]
    pub(crate) flow: Arc<str>,
    #[serde(rename = "at_ms", serialize_with = "unix_ms")]
    pub(crate) at: SystemTime,
    #[serde(flatten)]
    pub(crate) event: Event,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn unix_ms<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(since_1970(*time))
}

/// Milliseconds since 1970-01-01 UTC.
fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The texts of an event, made when they are first asked for.
struct Texts {
    flow: CString,
    sentence: CString,
    endpoint: CString,
    other: CString,
    peer: CString,
    detail: CString,
    reason: CString,
}

/// Kind of an event. A number is given once; a program must expect numbers that it does not know.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkEventKind {
    /// An event that is newer than this header: only its sentence is filled in.
    Other = 0,
    /// The flow runs.
    FlowStarted = 1,
    /// The flow has stopped; no more events follow.
    FlowStopped = 2,
    /// A source brings media. `peer`: who sends, if it is known.
    SourceConnected = 3,
    /// A source brings no more media. `detail`: why.
    SourceLost = 4,
    /// A source that calls will try again. `count`: attempts that have failed; `time_ms`: delay before the next one;
    /// `detail`: reason of the failure. Attempts that fail for the same reason as the one before are not reported again.
    SourceRetrying = 5,
    /// The flow has switched from the source `other` to the source `endpoint`. `time_ms`: the gap in the media.
    Switched = 6,
    /// An output is connected, or a player of it. `peer`: the destination or the player.
    OutputConnected = 7,
    /// An output, or a player of it, is lost. `peer`, `detail`: who and why.
    OutputLost = 8,
    /// An output will try again. `count`, `time_ms`, `detail`: as for a source.
    OutputRetrying = 9,
    /// A peer was turned away. `peer`, `detail`: its address and the reason; `other`: the application, path or stream id
    /// that it asked for; `count`: number of refusals since the last such event.
    PeerRefused = 10,
    /// The source brings more than the flow's maximum bandwidth. `count`: packets above it.
    BandwidthExceeded = 11,
    /// An output does not keep up. `count`: packets that it has lost in all.
    OutputLagging = 12,
    /// Composition of the media of a source, once known: `detail`.
    MediaDescribed = 13,
    /// MPEG-TS is turned into RTMP messages. `detail`: what passes; `other`: what is left out.
    Remuxed = 14,
    /// The reader was too slow. `count`: events before this one that are gone.
    Missed = 15,
    /// The MPEG-TS of a source has failed a check of ETSI TR 101 290. `detail`: which; `count`: how often since the last
    /// such event.
    TransportError = 16,
    /// Packets of an SRT source carry a time far ahead of its clock, and were timed by their arrival. `count`: how many.
    TimestampsAhead = 17,
    /// Packets are larger than the payload size of an SRT output, and were not sent. `count`: how many; `detail`: the
    /// largest payload that it sends.
    OutputOversized = 18,
    /// Two senders use the same SSRC on the port of an RTP source. The packets of the one that was there first pass.
    /// `peer`: the sender that was heard last.
    SendersCollide = 19,
    /// A source or output calls out to an address of this machine, and its URL does not say `mode=caller`: it may have
    /// been meant to listen there. `peer`: the address.
    CallsOwnAddress = 20,
    /// The payload at a UDP source or output is not whole transport packets of 188 bytes. `detail`: the problem; `count`:
    /// packets since the last such event.
    UnexpectedPayload = 21,
    /// A group of connections that an SRT source receives from has one more member. `peer`: its address.
    MemberConnected = 22,
    /// A group of connections that an SRT source receives from has lost a member; the others go on. `peer`, `detail`: its
    /// address and why.
    MemberLost = 23,
    /// Outputs in a region on other machines do not run, or nothing is heard of them. `endpoint`: the region, here and
    /// below; `count`: outputs that wait; `detail`: why.
    RegionWaiting = 24,
    /// The link to a region has failed, and will be tried again. `count`, `time_ms`, `detail`: as for a source.
    RegionRetrying = 25,
    /// The link to a region does not keep up. `count`: packets that it has lost in all.
    RegionLagging = 26,
    /// A leg of the link to a region is connected. `other`: its address.
    RegionLegConnected = 27,
    /// A leg of the link to a region is lost. `other`, `detail`: its address and why.
    RegionLegLost = 28,
    /// A remark of the link to a region: `detail`.
    RegionNotice = 29,
    /// A source has given up missing packets early, because it may hold no more of those behind them. `count`: packets since
    /// the last such event.
    GapGivenUp = 30,
    /// A leg of the link to a region loses more than QUIC makes up for, so that its media is better carried over SRT.
    /// `other`: its address; `count`: loss of the last seconds in hundredths of a percent; `time_ms`: its round trip.
    RegionLegLossy = 31,
    /// A member was added to the group of connections that a caller is, and is called now. `other`: its address as
    /// configured.
    MemberAdded = 32,
    /// A removed member has left the group of connections that a caller is; the others go on. `other`: its address as
    /// configured.
    MemberRemoved = 33,
    /// Packets of a source in a merge came after the merge window, and repair nothing. `count`: packets since the last such
    /// event; `time_ms`: the window.
    MergeWindowMissed = 34,
}

/// An event, for reading. All texts end with NUL, are "" where there is nothing to say, and live as long as the event.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkEventInfo {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// A streamlink_event_kind.
    pub kind: i32,
    /// See streamlink_event_kind.
    pub time_ms: u32,
    /// See streamlink_event_kind.
    pub count: u64,
    /// The source or output that it is about.
    pub endpoint: *const c_char,
    /// See streamlink_event_kind.
    pub other: *const c_char,
    /// The address of a peer, as in "192.0.2.1:9000".
    pub peer: *const c_char,
    /// See streamlink_event_kind.
    pub detail: *const c_char,
    /// The event as a sentence, for a log.
    pub sentence: *const c_char,
    /// The name of the flow; "" for STREAMLINK_EVENT_KIND_MISSED of streamlink_event_reader_next(), which is about all flows.
    pub flow: *const c_char,
    /// The stable name of the class of the reason, as in "timed_out" or "refused_not_allowed", the same as in metrics; of
    /// a transport error the name of the check, as in "continuity".
    pub reason: *const c_char,
    /// The time of the event, in milliseconds since 1970-01-01 UTC, by the system's clock.
    pub at_ms: i64,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkEventInfo {}

/// Gets the events of a flow, or of all flows of an engine, one at a time, from any thread. The event lives until it returns. It may call this library,
/// and destroy its flow.
pub type StreamlinkEventCallback = Option<unsafe extern "C" fn(user: *mut c_void, event: *const StreamlinkEvent)>;

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl StreamlinkEvent {
    pub(crate) fn new(item: Item) -> Self {
        Self { item, texts: OnceLock::new() }
    }

    /// The kind, `time_ms` and `count`.
    fn numbers(&self) -> (StreamlinkEventKind, u32, u64) {
        use StreamlinkEventKind as K;
        match &self.item.event {
            Event::FlowStarted => (K::FlowStarted, 0, 0),
            Event::FlowStopped => (K::FlowStopped, 0, 0),
            Event::SourceConnected { .. } => (K::SourceConnected, 0, 0),
            Event::SourceLost { .. } => (K::SourceLost, 0, 0),
            Event::SourceRetrying { attempt, delay, .. } => (K::SourceRetrying, millis(*delay), u64::from(*attempt)),
            Event::Switched { gap, .. } => (K::Switched, millis(*gap), 0),
            Event::OutputConnected { .. } => (K::OutputConnected, 0, 0),
            Event::OutputLost { .. } => (K::OutputLost, 0, 0),
            Event::OutputRetrying { attempt, delay, .. } => (K::OutputRetrying, millis(*delay), u64::from(*attempt)),
            Event::PeerRefused { count, .. } => (K::PeerRefused, 0, *count),
            Event::BandwidthExceeded { packets, .. } => (K::BandwidthExceeded, 0, *packets),
            Event::OutputLagging { dropped, .. } => (K::OutputLagging, 0, *dropped),
            Event::MediaDescribed { .. } => (K::MediaDescribed, 0, 0),
            Event::Remuxed { .. } => (K::Remuxed, 0, 0),
            Event::Missed { count } => (K::Missed, 0, *count),
            Event::TransportError { count, .. } => (K::TransportError, 0, *count),
            Event::TimestampsAhead { packets, .. } => (K::TimestampsAhead, 0, *packets),
            Event::OutputOversized { packets, .. } => (K::OutputOversized, 0, *packets),
            Event::SendersCollide { .. } => (K::SendersCollide, 0, 0),
            Event::CallsOwnAddress { .. } => (K::CallsOwnAddress, 0, 0),
            Event::UnexpectedPayload { packets, .. } => (K::UnexpectedPayload, 0, *packets),
            Event::MemberConnected { .. } => (K::MemberConnected, 0, 0),
            Event::MemberLost { .. } => (K::MemberLost, 0, 0),
            Event::MemberAdded { .. } => (K::MemberAdded, 0, 0),
            Event::MemberRemoved { .. } => (K::MemberRemoved, 0, 0),
            Event::RegionWaiting { outputs, .. } => (K::RegionWaiting, 0, u64::from(*outputs)),
            Event::RegionRetrying { attempt, delay, .. } => (K::RegionRetrying, millis(*delay), u64::from(*attempt)),
            Event::RegionLagging { dropped, .. } => (K::RegionLagging, 0, *dropped),
            Event::RegionLegConnected { .. } => (K::RegionLegConnected, 0, 0),
            Event::RegionLegLost { .. } => (K::RegionLegLost, 0, 0),
            Event::RegionNotice { .. } => (K::RegionNotice, 0, 0),
            Event::RegionLegLossy { basis_points, round_trip, .. } => {
                (K::RegionLegLossy, millis(*round_trip), u64::from(*basis_points))
            }
            Event::GapGivenUp { packets, .. } => (K::GapGivenUp, 0, *packets),
            Event::MergeWindowMissed { packets, window, .. } => (K::MergeWindowMissed, millis(*window), *packets),
            _ => (K::Other, 0, 0),
        }
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| {
            let nothing = String::new;
            let at = |peer: &Option<std::net::SocketAddr>| peer.map(|peer| peer.to_string()).unwrap_or_default();
            let (endpoint, other, peer, detail) = match &self.item.event {
                Event::SourceConnected { source, peer } => (source.clone(), nothing(), at(peer), nothing()),
                Event::SourceLost { source, peer, reason } => (source.clone(), nothing(), at(peer), reason.to_string()),
                Event::SourceRetrying { source, reason, .. } => {
                    (source.clone(), nothing(), nothing(), reason.to_string())
                }
                Event::BandwidthExceeded { source, .. } | Event::TimestampsAhead { source, .. } => {
                    (source.clone(), nothing(), nothing(), nothing())
                }
                Event::Switched { from, to, .. } => (to.clone(), from.clone(), nothing(), nothing()),
                Event::OutputConnected { output, peer } => (output.clone(), nothing(), at(peer), nothing()),
                Event::OutputLost { output, peer, reason } => (output.clone(), nothing(), at(peer), reason.to_string()),
                Event::OutputRetrying { output, reason, .. } => {
                    (output.clone(), nothing(), nothing(), reason.to_string())
                }
                Event::OutputLagging { output, .. } => (output.clone(), nothing(), nothing(), nothing()),
                Event::PeerRefused { endpoint, peer, reason, detail, .. } => {
                    let detail = if detail.is_empty() { reason.to_string() } else { format!("{reason}, {detail}") };
                    (endpoint.clone(), nothing(), peer.to_string(), detail)
                }
                Event::MediaDescribed { source, description } => {
                    (source.clone(), nothing(), nothing(), description.to_string())
                }
                Event::TransportError { source, check, .. } => {
                    (source.clone(), nothing(), nothing(), check.to_string())
                }
                Event::OutputOversized { output, limit, .. } => {
                    (output.clone(), nothing(), nothing(), format!("{limit} bytes"))
                }
                Event::SendersCollide { source, peer } => (source.clone(), nothing(), at(peer), nothing()),
                Event::CallsOwnAddress { endpoint, address } => {
                    (endpoint.clone(), nothing(), address.to_string(), nothing())
                }
                Event::UnexpectedPayload { endpoint, problem, .. } => {
                    (endpoint.clone(), nothing(), nothing(), problem.to_string())
                }
                Event::GapGivenUp { source, .. } | Event::MergeWindowMissed { source, .. } => {
                    (source.clone(), nothing(), nothing(), nothing())
                }
                Event::MemberConnected { source, peer } => (source.clone(), nothing(), peer.to_string(), nothing()),
                Event::MemberLost { source, peer, reason } => {
                    (source.clone(), nothing(), peer.to_string(), reason.to_string())
                }
                Event::MemberAdded { endpoint, address } | Event::MemberRemoved { endpoint, address } => {
                    (endpoint.clone(), address.clone(), nothing(), nothing())
                }
                Event::Remuxed { carried, left_out } => {
                    (nothing(), left_out.to_string(), nothing(), carried.to_string())
                }
                Event::RegionWaiting { region, reason, .. } | Event::RegionRetrying { region, reason, .. } => {
                    (region.clone(), nothing(), nothing(), reason.to_string())
                }
                Event::RegionLagging { region, .. } => (region.clone(), nothing(), nothing(), nothing()),
                Event::RegionLegConnected { region, leg } => (region.clone(), leg.to_string(), nothing(), nothing()),
                Event::RegionLegLost { region, leg, reason } => {
                    (region.clone(), leg.to_string(), nothing(), reason.to_string())
                }
                Event::RegionLegLossy { region, leg, .. } => (region.clone(), leg.to_string(), nothing(), nothing()),
                Event::RegionNotice { region, text } => (region.clone(), nothing(), nothing(), text.to_string()),
                _ => (nothing(), nothing(), nothing(), nothing()),
            };
            Texts {
                flow: c_string(&*self.item.flow),
                reason: c_string(reason(&self.item.event)),
                sentence: c_string(self.item.event.to_string()),
                endpoint: c_string(endpoint),
                other: c_string(other),
                peer: c_string(peer),
                detail: c_string(detail),
            }
        })
    }
}

/// The stable name of the class of an event's reason.
fn reason(event: &Event) -> String {
    match event {
        Event::SourceLost { reason, .. }
        | Event::SourceRetrying { reason, .. }
        | Event::OutputLost { reason, .. }
        | Event::MemberLost { reason, .. }
        | Event::OutputRetrying { reason, .. }
        | Event::RegionWaiting { reason, .. }
        | Event::RegionRetrying { reason, .. }
        | Event::RegionLegLost { reason, .. } => reason.kind().to_owned(),
        Event::PeerRefused { reason, .. } => reason.kind().to_owned(),
        Event::TransportError { check, .. } => plain_name(check),
        _ => String::new(),
    }
}

/// Writes an event as a JSON object, as in
/// {"flow":"match-day","at_ms":1767225600000,"event":"source_lost","source":"venue","peer":"192.0.2.1:5000",
/// "reason":{"kind":"idle"}}. On success `*json` is to be freed with streamlink_text_free().
///
/// # Safety
/// `event` is an event that was not freed; `json` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_to_json(
    event: *const StreamlinkEvent,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `event` alive during the call.
        let event = unsafe { object(event, "event") }?;
        place(json, "json")?;
        let written = crate::guard::json(&event.item)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(json, written) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in what an event says; `info->size` must be set. See STREAMLINK_INIT(). NULL, or a size that is none: nothing is
/// done.
///
/// # Safety
/// `event` is NULL or an event that was not freed; `info` is NULL or points to a struct of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_get(event: *const StreamlinkEvent, info: *mut StreamlinkEventInfo) {
    quiet((), || {
        // SAFETY: the caller passes NULL, or keeps `event` alive during the call.
        let Some(event) = (unsafe { event.as_ref() }) else { return };
        let (kind, time_ms, count) = event.numbers();
        let texts = event.texts();
        let filled = StreamlinkEventInfo {
            size: 0,
            kind: kind as i32,
            time_ms,
            count,
            endpoint: texts.endpoint.as_ptr(),
            other: texts.other.as_ptr(),
            peer: texts.peer.as_ptr(),
            detail: texts.detail.as_ptr(),
            sentence: texts.sentence.as_ptr(),
            flow: texts.flow.as_ptr(),
            reason: texts.reason.as_ptr(),
            at_ms: since_1970(event.item.at),
        };
        // SAFETY: as the contract says. What is wrong with the size changes nothing.
        let _ = unsafe { crate::guard::write_sized(info, &filled, "info") };
    });
}

/// Frees an event that streamlink_flow_next_event() or streamlink_event_reader_next() has given. NULL is allowed.
///
/// # Safety
/// `event` is NULL or such an event that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_free(event: *mut StreamlinkEvent) {
    // SAFETY: the caller hands over `event`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(event) }));
}

type Callback = (unsafe extern "C" fn(*mut c_void, *const StreamlinkEvent), User);

/// The events of one flow, or of all, on their way to the host.
pub(crate) struct Queue {
    /// The name of the flow; empty for the events of all.
    flow: Arc<str>,
    state: Mutex<State>,
    changed: Condvar,
    /// Tells the pump that there is a callback for what waits.
    pub(crate) wake: tokio::sync::Notify,
    /// Readable while there is something to read.
    descriptor: OnceLock<Option<EventFd>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Item>,
    missed: u64,
    /// No more will come.
    ended: bool,
    callback: Option<Callback>,
    /// The thread that is in the callback.
    running: Option<std::thread::ThreadId>,
}

/// Result of reading the queue.
pub(crate) enum Next {
    Event(Item),
    TimedOut,
    Ended,
}

impl Queue {
    pub(crate) fn new(flow: &str) -> Self {
        Self {
            flow: flow.into(),
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: tokio::sync::Notify::new(),
            descriptor: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Something has happened in the flow of this queue, now.
    pub(crate) fn push_now(&self, event: Event) {
        self.push(Item { flow: self.flow.clone(), at: SystemTime::now(), event });
    }

    /// Something has happened.
    pub(crate) fn push(&self, event: Item) {
        let mut state = self.lock();
        if state.waiting.len() >= CAPACITY {
            state.waiting.pop_front();
            state.missed += 1;
        }
        state.waiting.push_back(event);
        // Under the lock: a reader that takes the event at once clears the descriptor after this, not before.
        self.signal();
    }

    /// No more will happen.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.signal();
    }

    /// Hands what waits to the callback, if there is one.
    pub(crate) fn drain(&self) {
        loop {
            let mut state = self.lock();
            let Some((callback, user)) = state.callback else { return };
            let Some(event) = state.take(&self.flow) else {
                if !state.ended {
                    self.clear();
                }
                return;
            };
            state.running = Some(std::thread::current().id());
            drop(state);
            let event = StreamlinkEvent::new(event);
            // SAFETY: the event lives until the call returns, and the host promised a function of this type.
            run::callback(|| unsafe { callback(user.get(), &raw const event) });
            self.lock().running = None;
            self.changed.notify_all();
        }
    }

    /// From now on events go to this callback; when this returns, the one before is not called any more, unless this is
    /// called from within it.
    pub(crate) fn set_callback(&self, callback: Option<Callback>) {
        let mut state = self.lock();
        state.callback = callback;
        let own = std::thread::current().id();
        while state.running.is_some_and(|thread| thread != own) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the calls, and waits until the last one has returned; in a callback it does not wait, as that may be one that
    /// the other waits for.
    pub(crate) fn end_calls(&self) {
        if run::is_in_callback() {
            self.lock().callback = None;
        } else {
            self.set_callback(None);
        }
    }

    /// The next event, for a host without a callback.
    pub(crate) fn next(&self, timeout: Option<Duration>) -> Next {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.lock();
        loop {
            if let Some(event) = state.take(&self.flow) {
                if state.waiting.is_empty() && !state.ended {
                    self.clear();
                }
                return Next::Event(event);
            }
            if state.ended {
                return Next::Ended;
            }
            state = match end {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Next::TimedOut;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The descriptor that can be polled; `None` when the system gives none.
    pub(crate) fn descriptor(&self) -> Option<i32> {
        let number = self.descriptor.get_or_init(EventFd::new).as_ref()?.number();
        let state = self.lock();
        if !state.waiting.is_empty() || state.ended {
            self.raise();
        }
        Some(number)
    }

    fn signal(&self) {
        self.raise();
        self.changed.notify_all();
    }

    fn raise(&self) {
        if let Some(Some(descriptor)) = self.descriptor.get() {
            descriptor.raise();
        }
    }

    fn clear(&self) {
        if let Some(Some(descriptor)) = self.descriptor.get() {
            descriptor.clear();
        }
    }
}

impl State {
    fn take(&mut self, flow: &Arc<str>) -> Option<Item> {
        match std::mem::take(&mut self.missed) {
            0 => self.waiting.pop_front(),
            count => Some(Item { flow: flow.clone(), at: SystemTime::now(), event: Event::Missed { count } }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: Event) -> (i32, u64, [String; 4], String) {
        let event = StreamlinkEvent::new(Item { flow: "f".into(), at: SystemTime::UNIX_EPOCH, event });
        let (kind, _, count) = event.numbers();
        let texts = event.texts();
        let text = |text: &CString| text.to_string_lossy().into_owned();
        let all = [&texts.endpoint, &texts.peer, &texts.detail, &texts.reason].map(text);
        (kind as i32, count, all, serde_json::to_string(&event.item).unwrap())
    }

    #[test]
    fn events_have_numbers_texts_and_json() {
        let peer: std::net::SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let texts = |all: [&str; 4]| all.map(str::to_owned);
        let (kind, count, all, json) = told(Event::SendersCollide { source: "s".into(), peer: Some(peer) });
        assert_eq!((kind, count, all), (19, 0, texts(["s", "192.0.2.1:5000", "", ""])));
        assert_eq!(json, r#"{"flow":"f","at_ms":0,"event":"senders_collide","source":"s","peer":"192.0.2.1:5000"}"#);
        let (kind, count, all, _) = told(Event::OutputOversized { output: "o".into(), packets: 7, limit: 1316 });
        assert_eq!((kind, count, all), (18, 7, texts(["o", "", "1316 bytes", ""])));
        let (kind, _, all, _) = told(Event::CallsOwnAddress { endpoint: "e".into(), address: peer });
        assert_eq!((kind, all), (20, texts(["e", "192.0.2.1:5000", "", ""])));
        let lost = Event::SourceLost { source: "s".into(), peer: None, reason: streamlink_core::LossReason::TakenOver };
        let (kind, _, all, _) = told(lost);
        assert_eq!((kind, all), (4, texts(["s", "", "another publisher has taken over", "taken_over"])));
        let reason = streamlink_core::LossReason::TimedOut;
        let (kind, count, all, _) = told(Event::RegionWaiting { region: "eu".into(), outputs: 2, reason });
        assert_eq!((kind, count, all), (24, 2, texts(["eu", "", "no answer from the peer in time", "timed_out"])));
        let check = streamlink_core::TransportCheck::PcrRepetition;
        let (kind, count, all, _) = told(Event::TransportError { source: "s".into(), check, count: 3 });
        assert_eq!((kind, count, all[3].as_str()), (16, 3, "pcr_repetition"));
    }
}
