//! Waiting for the engine, from any thread: the host's own, and those that run its callbacks.

use std::{cell::Cell, sync::Arc, task::Poll, time::Duration};
use streamlink_core::Engine;
use tokio::{runtime::Handle, task::JoinHandle};

thread_local! {
    /// Number of callbacks of the host that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Calls back into the host.
pub(crate) fn callback<T>(call: impl FnOnce() -> T) -> T {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let result = call(); // a C function does not unwind
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    result
}

/// Returns whether this thread is in a callback of the host.
pub(crate) fn is_in_callback() -> bool {
    DEPTH.with(Cell::get) > 0
}

/// Runs a future to its end. In a callback, other work of this thread goes to another one meanwhile.
pub(crate) fn wait<T>(engine: &Engine, future: impl Future<Output = T>) -> T {
    match Handle::try_current() {
        Ok(_) => tokio::task::block_in_place(|| engine.block_on(future)),
        Err(_) => engine.block_on(future),
    }
}

/// Starts a task on the engine's runtime.
pub(crate) fn spawn(engine: &Engine, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let mut task = Some(task);
    let start = std::future::poll_fn(|_| match task.take() {
        Some(task) => Poll::Ready(tokio::spawn(task)),
        None => Poll::Pending, // never: it is ready the first time
    });
    wait(engine, start)
}

/// Runs what waits for callbacks to end: at once, or, in a callback, when that has returned.
pub(crate) fn finish(work: impl FnOnce() + Send + 'static) {
    if is_in_callback() {
        // If there is no thread to be had, the work is dropped, which ends everything without waiting.
        let _ = std::thread::Builder::new().name("streamlink-end".into()).spawn(work);
    } else {
        work();
    }
}

/// A time limit as the caller gives it: milliseconds; negative: none.
pub(crate) fn limit(timeout_ms: i64) -> Option<Duration> {
    u64::try_from(timeout_ms).ok().map(Duration::from_millis)
}

/// Waits for a future, but not longer than the limit.
pub(crate) fn wait_up_to<T>(engine: &Arc<Engine>, timeout_ms: i64, future: impl Future<Output = T>) -> Option<T> {
    match limit(timeout_ms) {
        None => Some(wait(engine, future)),
        Some(limit) => wait(engine, async { tokio::time::timeout(limit, future).await.ok() }),
    }
}
