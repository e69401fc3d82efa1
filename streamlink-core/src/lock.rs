//! Mutex guards that survive a panic, a queue that defers host code until the current thread holds no lock, and a mark
//! for the tasks within which host code may run.
//!
//! Host code must not run while the library holds a lock: it may call back into the library, which would then deadlock.
//! Host code runs in places that are easy to overlook. Dropping the last handle to borrowed bytes calls the release
//! function of the host, a waker belongs to the executor of the host, and a log line goes to the logger of the host.
//! All three go through this module: if the current thread holds a lock, the call is deferred until it holds none. A
//! packet does this by itself when it is dropped.
//!
//! Host code often runs within a task of the library. If it calls the library there, the call must not wait for the end
//! of a task, because it could be this one. So all tasks are marked by [`task`], and calls that wait for tasks look at
//! [`is_on_task`].

use bytes::Bytes;
use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Maximum capacity of the queue that a thread retains between two locks, in entries.
const MAX_KEPT: usize = 1024;

/// Maximum nesting of host code that calls the library, which runs host code again. Deeper calls are deferred to the
/// level above, so that a release function that pushes the next packet cannot exhaust the stack.
const MAX_LEVELS: u32 = 4;

/// Locks a mutex and ignores poisoning. No code panics while it holds such a lock; if it did, the guarded data would
/// still be consistent.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> Guard<'_, T> {
    Guard { guard: mutex.lock().unwrap_or_else(PoisonError::into_inner), _held: Held::new() }
}

/// Guard of a locked mutex.
#[derive(Debug)]
pub(crate) struct Guard<'a, T: ?Sized> {
    // Fields are dropped in this order: the mutex must be unlocked before the deferred host code runs.
    guard: MutexGuard<'a, T>,
    _held: Held,
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Deferred host code.
enum HostCode {
    /// Bytes of a packet. Their release function may be host code.
    Release(Bytes),
    Wake(Waker),
    DropWaker(Waker),
    /// A log line.
    Call(Box<dyn FnOnce() + Send>),
}

impl HostCode {
    fn run(self) {
        match self {
            Self::Release(bytes) => drop(bytes),
            Self::Wake(waker) => waker.wake(),
            Self::DropWaker(waker) => drop(waker),
            Self::Call(call) => call(),
        }
    }
}

struct Thread {
    /// Number of locks that this thread holds.
    held: Cell<usize>,
    /// True if host code is deferred until the locks are released.
    has_waiting: Cell<bool>,
    /// Current nesting of host code within library calls.
    level: Cell<u32>,
    /// Number of marked tasks within which this thread is.
    tasks: Cell<u32>,
}

thread_local! {
    static THREAD: Thread =
        const {
            Thread {
                held: Cell::new(0),
                has_waiting: Cell::new(false),
                level: Cell::new(0),
                tasks: Cell::new(0),
            }
        };
    static WAITING: RefCell<Vec<HostCode>> = const { RefCell::new(Vec::new()) };
}

/// Counts one held lock of this thread during its lifetime.
#[derive(Debug)]
struct Held;

impl Held {
    fn new() -> Self {
        THREAD.with(|thread| thread.held.set(thread.held.get() + 1));
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let is_last = THREAD.with(|thread| {
            thread.held.set(thread.held.get() - 1);
            thread.held.get() == 0 && thread.has_waiting.get()
        });
        if is_last {
            run_waiting();
        }
    }
}

/// Returns true if this thread holds a lock.
pub(crate) fn is_held() -> bool {
    THREAD.with(|thread| thread.held.get() > 0)
}

/// Asserts in debug builds that this thread holds no lock, before host code is called.
pub(crate) fn assert_unlocked() {
    debug_assert!(!is_held(), "code of the host is about to run under a lock");
}

/// Wakes a task, now or as soon as this thread holds no lock.
pub(crate) fn wake(waker: Waker) {
    if is_held() {
        push(HostCode::Wake(waker));
    } else {
        waker.wake();
    }
}

/// Drops a waker, now or as soon as this thread holds no lock.
pub(crate) fn drop_waker(waker: Option<Waker>) {
    if let Some(waker) = waker.filter(|_| is_held()) {
        push(HostCode::DropWaker(waker));
    }
}

/// Drops the bytes of a packet as soon as this thread holds no lock. Must be called while it holds one.
pub(crate) fn release(bytes: Bytes) {
    push(HostCode::Release(bytes));
}

/// Writes a log line, now or as soon as this thread holds no lock.
pub(crate) fn log_unlocked(line: impl FnOnce() + Send + 'static) {
    if is_held() {
        push(HostCode::Call(Box::new(line)));
    } else {
        line();
    }
}

/// Writes a debug line about what a peer is asked, or has asked, and the answer; now or as soon as this thread holds no
/// lock. The text is only made if debug lines are wanted. It must hold no secret.
pub(crate) fn log_handshake(text: impl FnOnce() -> String) {
    const TARGET: &str = "streamlink_core::handshake";
    if log::max_level() >= log::Level::Debug && log::log_enabled!(target: TARGET, log::Level::Debug) {
        let text = text();
        log_unlocked(move || log::debug!(target: TARGET, "{text}"));
    }
}

fn push(code: HostCode) {
    // Thread-local storage is gone while the thread exits. The code is then dropped here: no caller further up the
    // stack needs the lock again.
    let _ = WAITING.try_with(|waiting| {
        waiting.borrow_mut().push(code);
        THREAD.with(|thread| thread.has_waiting.set(true));
    });
}

fn take_waiting() -> Vec<HostCode> {
    THREAD.with(|thread| thread.has_waiting.set(false));
    WAITING.try_with(|waiting| std::mem::take(&mut *waiting.borrow_mut())).unwrap_or_default()
}

/// Retains the memory of a drained queue for later use.
fn keep_memory(memory: Vec<HostCode>) {
    if memory.capacity() <= MAX_KEPT {
        let _ = WAITING.try_with(|waiting| {
            let mut waiting = waiting.borrow_mut();
            if waiting.capacity() == 0 {
                *waiting = memory;
            }
        });
    }
}

/// Counts one level of nested host code during its lifetime.
struct Level;

impl Level {
    /// Returns `None` if the maximum nesting is reached.
    fn enter() -> Option<Self> {
        THREAD.with(|thread| {
            let level = thread.level.get();
            (level < MAX_LEVELS).then(|| {
                thread.level.set(level + 1);
                Self
            })
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.level.set(thread.level.get() - 1));
    }
}

/// Runs deferred host code until none is left, including code that is deferred meanwhile.
fn run_waiting() {
    let Some(_level) = Level::enter() else { return };
    while THREAD.with(|thread| thread.has_waiting.get()) {
        let mut waiting = take_waiting();
        for code in waiting.drain(..) {
            code.run();
        }
        keep_memory(waiting);
    }
}

/// Runs a future and defers releases and log lines until it ends, because other tasks wait for it. Tasks are woken as
/// soon as no lock is held, because the future may wait for them.
pub(crate) async fn hold_back<F: Future>(future: F) -> F::Output {
    let mut held_back = HeldBack(Vec::new());
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| held_back.poll(future.as_mut(), cx)).await
}

/// Host code that is deferred until a future ends.
struct HeldBack(Vec<HostCode>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        for code in self.0.drain(..) {
            code.run();
        }
    }
}

impl HeldBack {
    fn poll<F: Future>(&mut self, future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = take_waiting(); // deferred before this poll, not by this future
        let held = Held::new();
        let result = future.poll(cx);
        let mut wakers = Vec::new();
        for code in take_waiting() {
            match code {
                code @ (HostCode::Wake(_) | HostCode::DropWaker(_)) => wakers.push(code),
                code => self.0.push(code),
            }
        }
        for code in before.into_iter().chain(wakers) {
            push(code);
        }
        drop(held);
        result
    }
}

/// Counts one marked task of this thread during its lifetime.
struct OnTask;

impl OnTask {
    fn enter() -> Self {
        THREAD.with(|thread| thread.tasks.set(thread.tasks.get() + 1));
        Self
    }
}

impl Drop for OnTask {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.tasks.set(thread.tasks.get() - 1));
    }
}

/// Marks a future as a task of the library. Every task that is spawned must be marked.
pub(crate) fn task<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    let mut future = Box::pin(Some(future)); // boxed once, instead of a second copy within the caller's future
    std::future::poll_fn(move |cx| {
        let _mark = OnTask::enter();
        let Some(running) = future.as_mut().as_pin_mut() else {
            return Poll::Pending; // unreachable: no future is polled after its end
        };
        let result = running.poll(cx);
        if result.is_ready() {
            future.set(None); // what it held may run host code, which must find the mark
        }
        result
    })
}

/// Runs a function as a task of the library, see [`task`].
pub(crate) fn on_task<T>(function: impl FnOnce() -> T) -> T {
    let _mark = OnTask::enter();
    function()
}

/// Returns true if this thread is within a task of the library. A call of the host must then not wait for any task.
pub(crate) fn is_on_task() -> bool {
    THREAD.with(|thread| thread.tasks.get() > 0)
}

/// Runs a future of a call that host code makes within a task of the library. Other tasks go on meanwhile, on another
/// thread, unless the runtime has only this one.
pub(crate) async fn within_task<F: Future>(future: F) -> F::Output {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| runtime.block_on(future))
        }
        _ => future.await,
    }
}

#[cfg(test)]
mod tests;
