//! Engines.

use crate::{
    error::StreamlinkError,
    guard::{Failure, guard},
    status::Status,
};
use streamlink_core::Engine;

/// Owns the threads on which flows run.
pub struct StreamlinkEngine {
    engine: Engine,
}

/// Creates an engine with `threads` threads; 0: one a processor core. On success `*engine` is the new engine, which
/// is to be destroyed with streamlink_engine_destroy().
///
/// # Safety
/// `engine` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_create(
    threads: u32,
    engine: *mut *mut StreamlinkEngine,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        if engine.is_null() {
            return Err(Failure::null("engine"));
        }
        let mut builder = Engine::builder();
        if threads > 0 {
            builder = builder.workers(threads.try_into().unwrap_or(usize::MAX));
        }
        let made = Box::into_raw(Box::new(StreamlinkEngine { engine: builder.build()? }));
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { engine.write(made) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// Stops the flows of an engine, waits until their sockets are closed, and destroys it. NULL is allowed.
///
/// # Safety
/// `engine` is NULL or an engine that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_destroy(engine: *mut StreamlinkEngine) {
    let body = || {
        if !engine.is_null() {
            // SAFETY: made by Box::into_raw, and not destroyed before, as the contract says.
            let engine = unsafe { Box::from_raw(engine) };
            engine.engine.block_on(engine.engine.shutdown());
        }
        Ok(())
    };
    // SAFETY: NULL is allowed for the error.
    let _ = unsafe { guard(std::ptr::null_mut(), body) };
}
