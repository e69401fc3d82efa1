//! Running flows.

use crate::{
    access::User,
    config::{self, StreamlinkFlowBuilder, StreamlinkOutput},
    engine::StreamlinkEngine,
    error::StreamlinkError,
    event::{Next, Queue, StreamlinkEvent, StreamlinkEventCallback},
    guard::{Failure, give, guard, object, place, quiet, text},
    handle::{give_handle, live, take_handle},
    run,
    stats::StreamlinkStats,
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};
use streamlink_core::{Bitrate, Engine, Event, Flow, FlowHandle, OutputEdit, SourceEdit};
use tokio::task::JoinHandle;

/// A running flow.
pub struct StreamlinkFlow {
    pub(crate) engine: Arc<Engine>,
    pub(crate) handle: Arc<FlowHandle>,
    queue: Arc<Queue>,
    pump: JoinHandle<()>,
}

impl StreamlinkFlow {
    fn start(engine: &StreamlinkEngine, flow: Flow) -> Result<Self, Failure> {
        let engine = engine.engine.clone();
        let handle = Arc::new(run::wait(&engine, engine.start(flow))?);
        let queue = Arc::new(Queue::new());
        let (events, to) = (handle.clone(), queue.clone());
        // The task keeps the flow: it ends with the flow's last event.
        let pump = run::spawn(&engine, pump(events, to));
        Ok(Self { engine, handle, queue, pump })
    }
}

/// Brings a flow's events to their queue until it has stopped.
async fn pump(flow: Arc<FlowHandle>, queue: Arc<Queue>) {
    loop {
        tokio::select! {
            event = flow.next_event() => match event {
                Some(event) => {
                    let last = event == Event::FlowStopped;
                    queue.push(event);
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
        // SAFETY: as the contract says.
        let (engine, builder) = unsafe { (live(engine, "engine")?, object(builder, "builder")?) };
        place(flow, "flow")?;
        let started = StreamlinkFlow::start(engine, builder.build()?)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, started) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
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
        // SAFETY: as the contract says.
        let (engine, json) = unsafe { (live(engine, "engine")?, text(json, "json")?) };
        place(flow, "flow")?;
        let started = StreamlinkFlow::start(engine, Flow::from_json(json)?)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, started) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
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
        // SAFETY: as the contract says.
        let flow = unsafe { live(flow, "flow") }?;
        if run::is_in_callback() {
            return Err(Failure::argument("a flow cannot be stopped from within a callback; it can be destroyed"));
        }
        run::wait(&flow.engine, flow.handle.stop());
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Stops a flow, waits until its callbacks have returned, and destroys it. From within a callback it does not wait: the
/// callback of its events may then still get some, up to STREAMLINK_EVENT_KIND_FLOW_STOPPED. NULL is allowed.
///
/// # Safety
/// `flow` is NULL or a flow that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_destroy(flow: *mut StreamlinkFlow) {
    let body = || {
        // SAFETY: as the contract says.
        let Some(flow) = (unsafe { take_handle(flow) }) else { return };
        run::finish(move || {
            let StreamlinkFlow { engine, handle, queue, pump } = flow;
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
        // SAFETY: as the contract says.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(source, "source")?) };
        place(url, "url")?;
        let found = flow.handle.stats().sources.into_iter().find(|s| s.name == name).and_then(|s| s.url);
        let found = found.ok_or_else(|| Failure::new(Status::NotFound, format!("no source `{name}` listens")))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(url, StreamlinkText::new(found.as_str())) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
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
        // SAFETY: as the contract says.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(output, "output")?) };
        place(url, "url")?;
        let found = flow.handle.playback_urls().into_iter().find(|(output, _)| output == name).map(|(_, url)| url);
        let found = found.ok_or_else(|| Failure::new(Status::NotFound, format!("no output `{name}` listens")))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(url, StreamlinkText::new(found)) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Adds an output, as it is now. It gets what comes from now on; no other output notices.
///
/// # Safety
/// Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_add_output(
    flow: *const StreamlinkFlow,
    output: *const StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, output) = unsafe { (live(flow, "flow")?, object(output, "output")?) };
        Ok(run::wait(&flow.engine, flow.handle.add_output(output.get()))?)
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Puts another output in the place of one. It is checked and opened first: when that fails, the old one stays. From
/// within a callback it does not wait until the sockets of the old one are closed.
///
/// # Safety
/// Both are objects that were not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_replace_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    output: *const StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name, output) = unsafe { (live(flow, "flow")?, text(name, "name")?, object(output, "output")?) };
        Ok(run::wait(&flow.engine, flow.handle.replace_output(name, output.get()))?)
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Removes an output, and waits until its sockets are closed; from within a callback, which may run on a thread of that
/// output, it does not wait. No other output notices.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_remove_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        Ok(run::wait(&flow.engine, flow.handle.remove_output(name))?)
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Changes one setting of an output in place: "name", "description", "allow" (players that it does not admit are cut
/// off) or "max_players" (1 to 1000000).
///
/// # Safety
/// `flow` is a flow that was not destroyed; the others are texts; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_edit_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name, key, value) =
            unsafe { (live(flow, "flow")?, text(name, "name")?, text(key, "key")?, text(value, "value")?) };
        let wrong = |message: String| Failure {
            status: Status::InvalidConfig,
            field: Some(key.to_owned()),
            message: format!("{key}: {message}"),
        };
        let edit = match key {
            "name" => OutputEdit::new().rename(value),
            "description" => OutputEdit::new().description(value),
            "allow" => OutputEdit::new().allow(value.parse().map_err(|e| wrong(format!("{e}")))?),
            "max_players" => {
                let number = value.parse().map_err(|_| wrong(format!("`{value}` is no number of players")))?;
                OutputEdit::new().max_players(number)
            }
            _ => return Err(wrong("cannot be changed in place".to_owned())),
        };
        flow.handle.edit_output(name, edit)?;
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Cuts off a player of an output that listens, by its address as streamlink_player_stats has it. It may come again: an
/// allowlist keeps it out. STREAMLINK_STATUS_NOT_FOUND: there is no such output, or no such player of it.
///
/// # Safety
/// `flow` is a flow that was not destroyed; the others are texts; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_kick_player(
    flow: *const StreamlinkFlow,
    output: *const c_char,
    peer: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, output, peer) = unsafe { (live(flow, "flow")?, text(output, "output")?, text(peer, "peer")?) };
        let peer = peer.parse().map_err(|_| Failure::argument(format!("`{peer}` is no address")))?;
        Ok(run::wait(&flow.engine, flow.handle.kick_player(output, peer))?)
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Changes one setting of a source in place: "name", "description" or "allow" (a sender that it does not admit is cut
/// off).
///
/// # Safety
/// As streamlink_flow_edit_output().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_edit_source(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name, key, value) =
            unsafe { (live(flow, "flow")?, text(name, "name")?, text(key, "key")?, text(value, "value")?) };
        let wrong = |message: String| Failure {
            status: Status::InvalidConfig,
            field: Some(key.to_owned()),
            message: format!("{key}: {message}"),
        };
        let edit = match key {
            "name" => SourceEdit::new().rename(value),
            "description" => SourceEdit::new().description(value),
            "allow" => SourceEdit::new().allow(value.parse().map_err(|e| wrong(format!("{e}")))?),
            _ => return Err(wrong("cannot be changed in place".to_owned())),
        };
        flow.handle.edit_source(name, edit)?;
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Changes the maximum bandwidth, in bits per second, from the next packet on.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_max_bandwidth(
    flow: *const StreamlinkFlow,
    bits_per_second: u64,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let flow = unsafe { live(flow, "flow") }?;
        Ok(flow.handle.set_max_bandwidth(Bitrate::bps(bits_per_second))?)
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Changes what happens above the maximum bandwidth: a streamlink_bandwidth_policy.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_bandwidth_policy(
    flow: *const StreamlinkFlow,
    policy: i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let flow = unsafe { live(flow, "flow") }?;
        Ok(flow.handle.set_bandwidth_policy(config::policy(policy)?)?)
    };
    // SAFETY: `error` is as the contract says.
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
        // SAFETY: as the contract says.
        let flow = unsafe { live(flow, "flow") }?;
        place(stats, "stats")?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(stats, StreamlinkStats::new(flow.handle.stats())) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
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
        // SAFETY: as the contract says.
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
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// A file descriptor that is readable while streamlink_flow_next_event() has something to return at once, for poll() and
/// its kin. It belongs to the flow: not to be read or closed. -1: the system gives none.
///
/// # Safety
/// `flow` is NULL or a flow that was not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_event_fd(flow: *const StreamlinkFlow) -> i32 {
    // SAFETY: as the contract says.
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
        // SAFETY: as the contract says.
        let flow = unsafe { live(flow, "flow") }?;
        flow.queue.set_callback(callback.map(|callback| (callback, User(user))));
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}
