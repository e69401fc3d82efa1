//! Events of all flows of an engine.

use crate::{
    access::User,
    engine::StreamlinkEngine,
    error::StreamlinkError,
    event::{Item, Next, Queue, StreamlinkEvent, StreamlinkEventCallback},
    guard::{Failure, give, guard, place, quiet},
    handle::{give_handle, live, take_handle},
    run,
    status::Status,
};
use std::{ffi::c_void, sync::Arc};
use streamlink_core::{Engine, EngineEvents};
use tokio::task::JoinHandle;

/// A reader of the events of all flows of an engine.
pub struct StreamlinkEventReader {
    /// Keeps the threads that bring the events.
    _engine: Arc<Engine>,
    queue: Arc<Queue>,
    pump: JoinHandle<()>,
}

/// Brings the events to their queue until the engine has ended. It does not keep the engine.
async fn pump(mut events: EngineEvents, queue: Arc<Queue>) {
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    queue.push(Item { flow: event.flow.into(), at: event.at, event: event.event });
                    queue.drain();
                }
                None => break,
            },
            () = queue.wake.notified() => queue.drain(),
        }
    }
    queue.end();
}

/// Creates a reader of the events of all flows of an engine from now on, those that are started later among them; each
/// with its flow and its time. There may be several. On success `*reader` is to be destroyed with
/// streamlink_event_reader_destroy(), before or after the engine.
///
/// # Safety
/// `engine` is an engine that was not destroyed; `reader` points to memory for a pointer; `error` is NULL or does so
/// too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_reader_create(
    engine: *const StreamlinkEngine,
    reader: *mut *mut StreamlinkEventReader,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call.
        let engine = unsafe { live(engine, "engine") }?.engine.clone();
        place(reader, "reader")?;
        let queue = Arc::new(Queue::new(""));
        let pump = run::spawn(&engine, pump(engine.events(), queue.clone()));
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(reader, StreamlinkEventReader { _engine: engine, queue, pump }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Takes the next event, as streamlink_flow_next_event(). STREAMLINK_STATUS_STOPPED: the engine was destroyed, and all
/// events were taken.
///
/// # Safety
/// `reader` is a reader that was not destroyed; `event` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_reader_next(
    reader: *const StreamlinkEventReader,
    timeout_ms: i64,
    event: *mut *mut StreamlinkEvent,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `reader` alive during the call.
        let reader = unsafe { live(reader, "reader") }?;
        place(event, "event")?;
        match reader.queue.next(run::limit(timeout_ms)) {
            Next::Event(found) => {
                // SAFETY: not NULL, and the caller's, as the contract says.
                unsafe { give(event, StreamlinkEvent::new(found)) };
                Ok(())
            }
            Next::TimedOut => Err(Failure::new(Status::TimedOut, "no event has come")),
            Next::Ended => Err(Failure::new(Status::Stopped, "the engine has stopped")),
        }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// A file descriptor that is readable while streamlink_event_reader_next() has something to return at once. It belongs to
/// the reader: not to be read or closed. -1: the system gives none.
///
/// # Safety
/// `reader` is NULL or a reader that was not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_reader_fd(reader: *const StreamlinkEventReader) -> i32 {
    // SAFETY: the caller keeps `reader` alive during the call.
    let reader = unsafe { live(reader, "reader") }.ok();
    quiet(-1, || reader.and_then(|reader| reader.queue.descriptor()).unwrap_or(-1))
}

/// From now on events go to this function, as streamlink_flow_set_event_callback().
///
/// # Safety
/// `reader` is a reader that was not destroyed; `callback` is NULL or may be called with `user` from any thread until the
/// reader is destroyed or another one is set; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_reader_set_callback(
    reader: *const StreamlinkEventReader,
    callback: StreamlinkEventCallback,
    user: *mut c_void,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `reader` alive during the call.
        let reader = unsafe { live(reader, "reader") }?;
        reader.queue.set_callback(callback.map(|callback| (callback, User(user))));
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys a reader, and waits until its callback has returned; from within a callback it does not wait. The flows go on.
/// NULL is allowed.
///
/// # Safety
/// `reader` is NULL or a reader that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_event_reader_destroy(reader: *mut StreamlinkEventReader) {
    let body = || {
        // SAFETY: the caller hands over `reader`, which is NULL or was not freed before.
        let Some(reader) = (unsafe { take_handle(reader) }) else { return };
        reader.queue.end_calls();
        reader.pump.abort();
    };
    quiet((), body);
}
