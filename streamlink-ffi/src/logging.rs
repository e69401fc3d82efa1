//! The log, handed to the host.

use crate::{
    access::User,
    error::StreamlinkError,
    guard::{Failure, c_string, guard, lock},
    run,
    status::Status,
};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::{
    ffi::{c_char, c_void},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// Importance of a line of the log.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkLogLevel {
    /// Nothing.
    Off = 0,
    /// Something has failed.
    Error = 1,
    /// Something is not as it should be.
    Warning = 2,
    /// An event of the flow.
    Info = 3,
    /// Details.
    Debug = 4,
}

/// Gets the lines of the log, from any thread. `level` is a streamlink_log_level; the texts live until it returns. It
/// should return soon. It may call this library; what it calls may write to the log in turn.
pub type StreamlinkLog =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, target: *const c_char, message: *const c_char)>;

/// The function that the host has set. Whoever calls it holds a reference, and no lock.
struct Sink {
    function: unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char),
    user: User,
}

static SINK: Mutex<Option<Arc<Sink>>> = Mutex::new(None);

/// A call of a function that is not set any more has ended.
static ENDED: Condvar = Condvar::new();

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => StreamlinkLogLevel::Error,
            Level::Warn => StreamlinkLogLevel::Warning,
            Level::Info => StreamlinkLogLevel::Info,
            Level::Debug | Level::Trace => StreamlinkLogLevel::Debug,
        };
        let target = c_string(record.target());
        let message = c_string(record.args().to_string());
        let sink = lock(&SINK).clone();
        let Some(sink) = sink else { return };
        let call = || {
            // SAFETY: the texts live until the call returns, and the host promised a function of this type.
            unsafe { (sink.function)(sink.user.get(), level as i32, target.as_ptr(), message.as_ptr()) }
        };
        run::callback(call);
        let current = lock(&SINK);
        let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &sink));
        drop(sink); // under the lock, so that who waits for it does not miss it
        drop(current);
        if !is_current {
            ENDED.notify_all();
        }
    }

    fn flush(&self) {}
}

/// Hands the log of this process's streamlink to the host: lines up to a streamlink_log_level. It never holds a
/// passphrase or a stream key. NULL, or STREAMLINK_LOG_LEVEL_OFF: no more lines. When it returns, the function that was
/// set before is not called any more; from within a callback of any kind it does not wait for that.
/// STREAMLINK_STATUS_ALREADY_EXISTS: Rust code in this process has set a logger.
///
/// # Safety
/// `sink` is NULL or a function that may be called with `user` from any thread; `error` is NULL or points to memory for
/// a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_log_set(
    sink: StreamlinkLog,
    user: *mut c_void,
    level: i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        let filter = match level {
            0 => LevelFilter::Off,
            1 => LevelFilter::Error,
            2 => LevelFilter::Warn,
            3 => LevelFilter::Info,
            4 => LevelFilter::Debug,
            other => return Err(Failure::argument(format!("{other} is no log level"))),
        };
        static OURS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        if !*OURS.get_or_init(|| log::set_logger(&Logger).is_ok()) {
            return Err(Failure::new(Status::AlreadyExists, "this process has another logger"));
        }
        let new = sink.map(|function| Arc::new(Sink { function, user: User(user) }));
        log::set_max_level(if new.is_some() { filter } else { LevelFilter::Off });
        let mut current = lock(&SINK);
        let old = std::mem::replace(&mut *current, new);
        if run::is_in_callback() {
            return Ok(()); // it could wait for itself, or for another one that waits for this one
        }
        // No one takes another reference: it is not in its place any more.
        while old.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
            current = ENDED.wait(current).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}
