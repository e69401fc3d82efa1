//! Running flows.

use crate::{
    access::User,
    config::StreamlinkFlowBuilder,
    engine::StreamlinkEngine,
    error::StreamlinkError,
    event::{Next, Queue, StreamlinkEvent, StreamlinkEventCallback},
    guard::{Failure, c_string, give, guard, object, place, quiet, text},
    handle::{give_handle, live, take_handle},
    run,
    stats::StreamlinkStats,
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{CString, c_char, c_void},
    sync::Arc,
};
use streamlink_core::{Engine, Event, Events, Flow, FlowHandle, PeerUrl};
use tokio::task::JoinHandle;

/// A running flow.
pub struct StreamlinkFlow {
    pub(crate) engine: Arc<Engine>,
    pub(crate) handle: Arc<FlowHandle>,
    name: CString,
    queue: Arc<Queue>,
    pump: JoinHandle<()>,
    /// Set if the flow stops with this handle.
    stops: bool,
}

impl StreamlinkFlow {
    pub(crate) fn start(engine: &StreamlinkEngine, flow: Flow) -> Result<Self, Failure> {
        let engine = engine.engine.clone();
        let handle = Arc::new(run::wait(&engine, engine.start(flow))?);
        let queue = Arc::new(Queue::new(handle.name()));
        let events = handle.clone();
        let to = queue.clone();
        // The task keeps the flow: it ends with the flow's last event.
        let pump = run::spawn(&engine, pump(events, to));
        let name = c_string(handle.name());
        Ok(Self { engine, handle, name, queue, pump, stops: true })
    }

    /// Another handle of a flow that runs.
    fn find(engine: &StreamlinkEngine, name: &str) -> Result<Self, Failure> {
        let engine = engine.engine.clone();
        let missing = || Failure::new(Status::NotFound, format!("there is no flow named `{name}`"));
        let handle = Arc::new(engine.flow(name).ok_or_else(missing)?);
        let queue = Arc::new(Queue::new(name));
        let pump = run::spawn(&engine, pump_more(handle.events(), queue.clone()));
        Ok(Self { engine, handle, name: c_string(name), queue, pump, stops: false })
    }
}

/// Brings a flow's events to the queue of another handle until the flow has stopped. It does not keep the flow.
async fn pump_more(mut events: Events, queue: Arc<Queue>) {
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    queue.push_now(event);
                    queue.drain();
                }
                None => break,
            },
            () = queue.wake.notified() => queue.drain(),
        }
    }
    queue.end();
}

/// Brings a flow's events to their queue until it has stopped.
async fn pump(flow: Arc<FlowHandle>, queue: Arc<Queue>) {
    loop {
        tokio::select! {
            event = flow.next_event() => match event {
                Some(event) => {
                    let last = event == Event::FlowStopped;
                    queue.push_now(event);
                    queue.drain();
                    if last {
                        break;
                    }
                }
                None => break,
            },
            () = queue.wake.notified() => queue.drain(),
        }
    }
    queue.end();
}

/// Starts the flow of a builder: opens all its sockets, then runs it; nothing is started if anything is wrong. On success
/// `*flow` is to be destroyed with streamlink_flow_destroy().
///
/// # Safety
/// `engine` and `builder` are objects that were not destroyed; `flow` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_start(
    engine: *const StreamlinkEngine,
    builder: *const StreamlinkFlowBuilder,
    flow: *mut *mut StreamlinkFlow,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` and `builder` alive during the call.
        let (engine, builder) = unsafe { (live(engine, "engine")?, object(builder, "builder")?) };
        place(flow, "flow")?;
        let started = StreamlinkFlow::start(engine, builder.build()?)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, started) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Starts a flow from JSON, as in
///
///   { "name": "match-day", "max_bandwidth": "20M",
///     "sources": [ { "name": "venue", "url": "srt://:9000", "latency": 200 } ],
///     "outputs": [ { "name": "partner", "url": "srt://:9001", "max_players": 4, "allow": "203.3.3.3/28" } ] }
///
/// Settings stand in the query of the URL, or beside it under the same names. Otherwise as streamlink_flow_start().
///
/// # Safety
/// `engine` is an object that was not destroyed; `json` is a text; `flow` points to memory for a pointer; `error` is NULL
/// or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_start_json(
    engine: *const StreamlinkEngine,
    json: *const c_char,
    flow: *mut *mut StreamlinkFlow,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call; `json` is a text that ends with NUL.
        let (engine, json) = unsafe { (live(engine, "engine")?, text(json, "json")?) };
        place(flow, "flow")?;
        let started = StreamlinkFlow::start(engine, Flow::from_json(json)?)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, started) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Another handle of a flow that runs, by its name, whoever has started it. It has events of its own, from now on. The
/// flow does not stop when this handle is destroyed, and the handle outlives the flow. On success `*flow` is to be
/// destroyed with streamlink_flow_destroy().
///
/// # Safety
/// `engine` is an engine that was not destroyed; `name` is a text; `flow` points to memory for a pointer; `error` is NULL
/// or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_flow(
    engine: *const StreamlinkEngine,
    name: *const c_char,
    flow: *mut *mut StreamlinkFlow,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call; `name` is a text that ends with NUL.
        let (engine, name) = unsafe { (live(engine, "engine")?, text(name, "name")?) };
        place(flow, "flow")?;
        let found = StreamlinkFlow::find(engine, name)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, found) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The name of a flow; lives as long as the handle. NULL: "".
///
/// # Safety
/// `flow` is NULL or a flow that was not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_name(flow: *const StreamlinkFlow) -> *const c_char {
    // SAFETY: the caller keeps `flow` alive during the call.
    unsafe { live(flow, "flow") }.map_or(c"".as_ptr(), |flow| flow.name.as_ptr())
}

/// Stops a flow: what the sources have brought is handed on, then all sockets close. Its last event is
/// STREAMLINK_EVENT_KIND_FLOW_STOPPED. Stopping it again does nothing. Not to be called from within a callback, which it
/// would wait for: STREAMLINK_STATUS_INVALID_ARGUMENT; streamlink_flow_destroy() is allowed there.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_stop(flow: *const StreamlinkFlow, error: *mut *mut StreamlinkError) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        if run::is_in_callback() {
            return Err(Failure::argument("a flow cannot be stopped from within a callback; it can be destroyed"));
        }
        run::wait(&flow.engine, flow.handle.stop());
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Stops a flow, waits until its callbacks have returned, and destroys it. A handle of streamlink_engine_flow() is
/// destroyed alone: the flow goes on. From within a callback it does not wait: the
/// callback of its events may then still get some, up to STREAMLINK_EVENT_KIND_FLOW_STOPPED. NULL is allowed.
///
/// # Safety
/// `flow` is NULL or a flow that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_destroy(flow: *mut StreamlinkFlow) {
    let body = || {
        // SAFETY: the caller hands over `flow`, which is NULL or was not freed before.
        let Some(flow) = (unsafe { take_handle(flow) }) else { return };
        if !flow.stops {
            flow.queue.end_calls();
            flow.pump.abort();
            return;
        }
        run::finish(move || {
            let StreamlinkFlow { engine, handle, queue, pump, .. } = flow;
            run::wait(&engine, handle.stop());
            // A pump that failed has ended, too.
            let _ = run::wait(&engine, pump);
            drop((handle, queue));
        });
    };
    quiet((), body);
}

/// The URL that encoders send to, of a source that listens. On success `*url` is to be freed with streamlink_text_free().
/// STREAMLINK_STATUS_NOT_FOUND: there is no such source, or it does not listen.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `source` is a text; `url` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_input_address(
    flow: *const StreamlinkFlow,
    source: *const c_char,
    url: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `source` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(source, "source")?) };
        place(url, "url")?;
        let found = flow.handle.stats().sources.into_iter().find(|s| s.name == name).and_then(|s| s.url);
        let found = found.ok_or_else(|| Failure::new(Status::NotFound, format!("no source `{name}` listens")))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(url, StreamlinkText::new(found.as_str())) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The SDP (RFC 8866) that players of RTSP are offered: what the tracks are that a tap of the flow gets. On success `*sdp` is
/// to be freed with streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: no source has described its media yet, or media of
/// this family has no such description.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `sdp` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_sdp(
    flow: *const StreamlinkFlow,
    sdp: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        place(sdp, "sdp")?;
        let found = flow.handle.sdp();
        let found = found.ok_or_else(|| Failure::new(Status::NotFound, "the media has no SDP, or none yet"))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(sdp, StreamlinkText::new(found)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The server and the stream key of an RTMP source that listens, apart, as OBS and many encoders want them. On success
/// `*server` and `*key` are to be freed with streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: there is no such source,
/// or it does not listen with RTMP.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `source` is a text; `server` and `key` point to memory for a pointer; `error`
/// is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_input_server_and_key(
    flow: *const StreamlinkFlow,
    source: *const c_char,
    server: *mut *mut StreamlinkText,
    key: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `source` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(source, "source")?) };
        place(server, "server")?;
        place(key, "key")?;
        let url = flow.handle.stats().sources.into_iter().find(|s| s.name == name).and_then(|s| s.url);
        let parts = url.as_ref().and_then(PeerUrl::server_and_key);
        let missing = || Failure::new(Status::NotFound, format!("no source `{name}` listens with RTMP"));
        let (found_server, found_key) = parts.ok_or_else(missing)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe {
            give(server, StreamlinkText::new(found_server));
            give(key, StreamlinkText::new(found_key));
        }
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The URL that players fetch from, of an output that listens. On success `*url` is to be freed with
/// streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: there is no such output, or it does not listen.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `output` is a text; `url` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_playback_url(
    flow: *const StreamlinkFlow,
    output: *const c_char,
    url: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `output` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(output, "output")?) };
        place(url, "url")?;
        let found = flow.handle.playback_urls().into_iter().find(|(output, _)| output == name).map(|(_, url)| url);
        let found = found.ok_or_else(|| Failure::new(Status::NotFound, format!("no output `{name}` listens")))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(url, StreamlinkText::new(found)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The counters of this moment; the data path does not stop for it. On success `*stats` is to be freed with
/// streamlink_stats_free(). Works after the flow was stopped, too.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `stats` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_stats(
    flow: *const StreamlinkFlow,
    stats: *mut *mut StreamlinkStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        place(stats, "stats")?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(stats, StreamlinkStats::new(flow.handle.stats())) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Takes the next event since the flow was started; waits for it up to `timeout_ms` milliseconds (0: does not wait;
/// negative: as long as it takes). On success `*event` is to be freed with streamlink_event_free(). Up to 1024 events
/// wait; then the oldest go, and an event tells how many. STREAMLINK_STATUS_TIMED_OUT: none came;
/// STREAMLINK_STATUS_STOPPED: the flow has stopped, and all events were taken. A flow with a callback has none here.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `event` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_next_event(
    flow: *const StreamlinkFlow,
    timeout_ms: i64,
    event: *mut *mut StreamlinkEvent,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        place(event, "event")?;
        match flow.queue.next(run::limit(timeout_ms)) {
            Next::Event(found) => {
                // SAFETY: not NULL, and the caller's, as the contract says.
                unsafe { give(event, StreamlinkEvent::new(found)) };
                Ok(())
            }
            Next::TimedOut => Err(Failure::new(Status::TimedOut, "no event has come")),
            Next::Ended => Err(Failure::new(Status::Stopped, "the flow has stopped")),
        }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// A file descriptor that is readable while streamlink_flow_next_event() has something to return at once, for poll() and
/// its kin. It belongs to the flow: not to be read or closed. -1: the system gives none.
///
/// # Safety
/// `flow` is NULL or a flow that was not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_event_fd(flow: *const StreamlinkFlow) -> i32 {
    // SAFETY: the caller keeps `flow` alive during the call.
    let flow = unsafe { live(flow, "flow") }.ok();
    quiet(-1, || flow.and_then(|flow| flow.queue.descriptor()).unwrap_or(-1))
}

/// From now on events go to this function, first those that wait; NULL: to streamlink_flow_next_event() again. When it
/// returns, the function that was set before is not called any more, unless this is called from within it.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `callback` is NULL or may be called with `user` from any thread until the
/// flow is destroyed or another one is set; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_event_callback(
    flow: *const StreamlinkFlow,
    callback: StreamlinkEventCallback,
    user: *mut c_void,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        flow.queue.set_callback(callback.map(|callback| (callback, User(user))));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}
