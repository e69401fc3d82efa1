//! The log, handed to the host.

use crate::{
    access::User,
    error::StreamlinkError,
    guard::{Failure, c_string, guard},
    run,
    status::Status,
};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::{
    ffi::{c_char, c_void},
    sync::{PoisonError, RwLock},
};

/// How important a line of the log is.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkLogLevel {
    /// Nothing.
    Off = 0,
    /// Something has failed.
    Error = 1,
    /// Something is not as it should be.
    Warning = 2,
    /// What happens: all events.
    Info = 3,
    /// Details.
    Debug = 4,
}

/// Gets the lines of the log, from any thread. `level` is a streamlink_log_level; the texts live until it returns. It
/// should return soon, and call nothing of this library.
pub type StreamlinkLog =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, target: *const c_char, message: *const c_char)>;

type Sink = (unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char), User);

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

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
        let (target, message) = (c_string(record.target()), c_string(record.args().to_string()));
        // Held while the host is called: when streamlink_log_set() returns, the old function is not called any more.
        if let Some((sink, user)) = *SINK.read().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: the texts live until the call returns, and the host promised a function of this type.
            run::callback(|| unsafe { sink(user.get(), level as i32, target.as_ptr(), message.as_ptr()) });
        }
    }

    fn flush(&self) {}
}

/// Hands the log of this process's streamlink to the host: lines up to a streamlink_log_level. It never holds a
/// passphrase or a stream key. NULL, or STREAMLINK_LOG_LEVEL_OFF: no more lines. When it returns, the function that was
/// set before is not called any more. STREAMLINK_STATUS_ALREADY_EXISTS: Rust code in this process has set a logger.
///
/// # Safety
/// `sink` is NULL or a function that may be called with `user` from any thread; `error` is NULL or points to memory for
/// a pointer. Not to be called from within `sink`.
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
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink.map(|sink| (sink, User(user)));
        log::set_max_level(if sink.is_some() { filter } else { LevelFilter::Off });
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}
