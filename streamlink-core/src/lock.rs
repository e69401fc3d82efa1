//! Locks that outlive a panic, and the code of the host that waits until they are let go.
//!
//! No code of the host may run while a lock of this library is held: it may call the library, which would then wait for
//! itself. Such code runs where one does not look for it. The last handle to bytes that the host has lent calls the
//! host's release function, a waker belongs to the host's executor, and a line of the log goes to the host's logger.
//! All three go through this module: what comes up while this thread holds a lock waits until it holds none.
//! A packet does so by itself when it is dropped.

use bytes::Bytes;
use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Entries for which a thread keeps memory between two locks.
const MAX_KEPT: usize = 1024;

/// Levels of host code that calls the library, which runs host code. Below them it waits for the level above, so that a
/// release function that pushes the next packet cannot exhaust the stack.
const MAX_LEVELS: u32 = 4;

/// Takes a lock. Nothing panics while such a lock is held; if it did, what it guards would still be whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> Guard<'_, T> {
    Guard { guard: mutex.lock().unwrap_or_else(PoisonError::into_inner), _held: Held::new() }
}

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct Guard<'a, T: ?Sized> {
    // Dropped in this order: the lock is free before what waits for that runs.
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

/// Code of the host that waits.
enum HostCode {
    /// The bytes of a packet, whose release may be the host's.
    Release(Bytes),
    Wake(Waker),
    DropWaker(Waker),
    /// A line of the log.
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
    /// Locks that this thread holds.
    held: Cell<usize>,
    /// Whether something waits for them.
    has_waiting: Cell<bool>,
    /// How deep the host's code has called the library.
    level: Cell<u32>,
}

thread_local! {
    static THREAD: Thread =
        const { Thread { held: Cell::new(0), has_waiting: Cell::new(false), level: Cell::new(0) } };
    static WAITING: RefCell<Vec<HostCode>> = const { RefCell::new(Vec::new()) };
}

/// Counts a lock, for as long as it lives.
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

/// Whether this thread holds a lock.
pub(crate) fn is_held() -> bool {
    THREAD.with(|thread| thread.held.get() > 0)
}

/// Checks in debug builds that no lock is held where code of the host is about to run.
pub(crate) fn assert_unlocked() {
    debug_assert!(!is_held(), "code of the host is about to run under a lock");
}

/// Wakes a task when this thread holds no lock, which may be now.
pub(crate) fn wake(waker: Waker) {
    if is_held() {
        push(HostCode::Wake(waker));
    } else {
        waker.wake();
    }
}

/// Drops a waker when this thread holds no lock, which may be now.
pub(crate) fn drop_waker(waker: Option<Waker>) {
    if let Some(waker) = waker.filter(|_| is_held()) {
        push(HostCode::DropWaker(waker));
    }
}

/// Drops the bytes of a packet when this thread holds no lock any more. To be called while it holds one.
pub(crate) fn release(bytes: Bytes) {
    push(HostCode::Release(bytes));
}

/// Writes a line of the log when this thread holds no lock, which may be now.
pub(crate) fn log_unlocked(line: impl FnOnce() + Send + 'static) {
    if is_held() {
        push(HostCode::Call(Box::new(line)));
    } else {
        line();
    }
}

fn push(code: HostCode) {
    // A thread that is about to end has no place for it any more, and no one above it that needs the lock again.
    let _ = WAITING.try_with(|waiting| {
        waiting.borrow_mut().push(code);
        THREAD.with(|thread| thread.has_waiting.set(true));
    });
}

fn take_waiting() -> Vec<HostCode> {
    THREAD.with(|thread| thread.has_waiting.set(false));
    WAITING.try_with(|waiting| std::mem::take(&mut *waiting.borrow_mut())).unwrap_or_default()
}

/// Gives memory back for later use.
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

/// One level of host code, for as long as it lives.
struct Level;

impl Level {
    /// `None`: there are too many already.
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

/// Runs what waits, and what comes up meanwhile.
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

/// Runs a future that keeps others waiting until it ends: releases and lines of the log that come up meanwhile wait
/// until then. Tasks are woken as soon as no lock is held, because the future may wait for them.
pub(crate) async fn hold_back<F: Future>(future: F) -> F::Output {
    let mut held_back = HeldBack(Vec::new());
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| held_back.poll(future.as_mut(), cx)).await
}

/// What waits for a future to end, and runs after it.
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
        let before = take_waiting(); // not of this future
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

#[cfg(test)]
mod tests;
