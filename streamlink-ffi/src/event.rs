//! Events: a queue with a descriptor for event loops, or a callback.

use crate::{
    access::User,
    guard::{Versioned, c_string, lock, quiet, take},
    run,
};
use std::{
    collections::VecDeque,
    ffi::{CString, c_char, c_void},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::Event;

/// Events that wait at most; then the oldest go, and the next one that is read tells how many.
const CAPACITY: usize = 1024;

/// Something that happened in a flow.
pub struct StreamlinkEvent {
    event: Event,
    texts: OnceLock<Texts>,
}

/// The texts of an event, made when they are first asked for.
struct Texts {
    sentence: CString,
    endpoint: CString,
    other: CString,
    peer: CString,
    detail: CString,
}

/// What has happened. A number is given once; a program must expect numbers that it does not know.
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
    /// What the media of a source consists of: `detail`.
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
    /// The payload at a UDP source or output is not whole transport packets of 188 bytes. `detail`: the problem; `count`:
    /// packets since the last such event.
    UnexpectedPayload = 18,
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
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkEventInfo {}

/// Gets the events of a flow, one at a time, from any thread. The event lives until it returns. It may call this library,
/// and destroy its flow.
pub type StreamlinkEventCallback = Option<unsafe extern "C" fn(user: *mut c_void, event: *const StreamlinkEvent)>;

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl StreamlinkEvent {
    pub(crate) fn new(event: Event) -> Self {
        Self { event, texts: OnceLock::new() }
    }

    /// The kind, `time_ms` and `count`.
    fn numbers(&self) -> (StreamlinkEventKind, u32, u64) {
        use StreamlinkEventKind as K;
        match &self.event {
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
            Event::UnexpectedPayload { packets, .. } => (K::UnexpectedPayload, 0, *packets),
            _ => (K::Other, 0, 0),
        }
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| {
            let nothing = String::new;
            let at = |peer: &Option<std::net::SocketAddr>| peer.map(|peer| peer.to_string()).unwrap_or_default();
            let (endpoint, other, peer, detail) = match &self.event {
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
                Event::UnexpectedPayload { endpoint, problem, .. } => {
                    (endpoint.clone(), nothing(), nothing(), problem.to_string())
                }
                Event::Remuxed { carried, left_out } => {
                    (nothing(), left_out.to_string(), nothing(), carried.to_string())
                }
                _ => (nothing(), nothing(), nothing(), nothing()),
            };
            Texts {
                sentence: c_string(self.event.to_string()),
                endpoint: c_string(endpoint),
                other: c_string(other),
                peer: c_string(peer),
                detail: c_string(detail),
            }
        })
    }
}

/// Fills in what an event says; `info->size` must be set. See STREAMLINK_INIT(). NULL, or a size that is none: nothing is
/// done.
///
/// # Safety
/// `event` is NULL or an event that was not freed; `info` is NULL or points to a struct of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_get(event: *const StreamlinkEvent, info: *mut StreamlinkEventInfo) {
    quiet((), || {
        // SAFETY: as the contract says.
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
        };
        // SAFETY: as the contract says. What is wrong with the size changes nothing.
        let _ = unsafe { crate::guard::write_sized(info, &filled, "info") };
    });
}

/// Frees an event that streamlink_flow_next_event() has given. NULL is allowed.
///
/// # Safety
/// `event` is NULL or such an event that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_free(event: *mut StreamlinkEvent) {
    // SAFETY: as the contract says.
    quiet((), || drop(unsafe { take(event) }));
}

type Callback = (unsafe extern "C" fn(*mut c_void, *const StreamlinkEvent), User);

/// The events of one flow, on their way to the host.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Tells the pump that there is a callback for what waits.
    pub(crate) wake: tokio::sync::Notify,
    /// Readable while there is something to read.
    descriptor: OnceLock<Option<OwnedFd>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    missed: u64,
    /// No more will come.
    ended: bool,
    callback: Option<Callback>,
    /// The thread that is in the callback.
    running: Option<std::thread::ThreadId>,
}

/// What a reader of the queue gets.
pub(crate) enum Next {
    Event(Event),
    TimedOut,
    Ended,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: tokio::sync::Notify::new(),
            descriptor: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Something has happened.
    pub(crate) fn push(&self, event: Event) {
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
            let Some(event) = state.take() else {
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

    /// The next event, for a host without a callback.
    pub(crate) fn next(&self, timeout: Option<Duration>) -> Next {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.lock();
        loop {
            if let Some(event) = state.take() {
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
        let made = self.descriptor.get_or_init(|| {
            // SAFETY: no memory is involved.
            let number = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            // SAFETY: a descriptor that was just opened, and that nobody else has.
            (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
        });
        let number = made.as_ref()?.as_raw_fd();
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
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight bytes that live. It fails only when it is readable already.
            let _ = unsafe { libc::write(descriptor.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    fn clear(&self) {
        if let Some(Some(descriptor)) = self.descriptor.get() {
            let mut count = [0u8; 8];
            // SAFETY: eight bytes that live. It fails only when there is nothing to clear.
            let _ = unsafe { libc::read(descriptor.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        }
    }
}

impl State {
    fn take(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.missed) {
            0 => self.waiting.pop_front(),
            count => Some(Event::Missed { count }),
        }
    }
}
