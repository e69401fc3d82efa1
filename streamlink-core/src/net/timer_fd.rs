//! A timer for waits below a millisecond, which the runtime's own timers round up to two or three milliseconds.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::io::unix::AsyncFd;

/// A kernel timer (`timerfd`); holds one descriptor.
///
/// Its expirations are not read, which would be one more system call for each: setting it clears them, and the clock tells
/// one of an earlier setting.
#[derive(Debug)]
pub(crate) struct TimerFd {
    timer: AsyncFd<OwnedFd>,
    /// Time to which it was set last.
    due: Option<Instant>,
}

impl TimerFd {
    /// Creates a timer that is not set. Must be called within the runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
        let timer = unsafe { AsyncFd::register_with_interest(timer()?, tokio::io::Interest::READABLE) }?;
        Ok(Self { timer, due: None })
    }

    /// Waits for `duration`, to a fraction of a millisecond. A failing timer ends the wait at once.
    pub(crate) async fn wait(&mut self, duration: Duration) {
        if self.set(duration).is_ok() {
            self.expired().await;
        }
    }

    /// Sets the timer, in place of an earlier setting.
    ///
    /// # Errors
    /// When the system refuses: the timer does not expire.
    pub(crate) fn set(&mut self, duration: Duration) -> io::Result<()> {
        self.due = Instant::now().checked_add(duration);
        set(self.timer.get_ref(), duration, Duration::ZERO)
    }

    /// Waits until the timer expires, as it was set. A failing timer ends the wait at once.
    pub(crate) async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }

    /// Ready when the timer has expired, or fails; once for each time that it was set.
    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.timer.poll_read_ready(cx)) else { return Poll::Ready(()) };
            guard.clear_ready();
            if self.due.is_none_or(|due| Instant::now() >= due) {
                return Poll::Ready(());
            }
        }
    }
}

/// Creates a timer that is not set.
#[allow(unsafe_code)]
pub(super) fn timer() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and owned by no one else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a timer to expire after `first`, then every `then` if that is not zero.
#[allow(unsafe_code)]
pub(super) fn set(timer: &OwnedFd, first: Duration, then: Duration) -> io::Result<()> {
    let spec = |duration: Duration, least| libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos().max(least)),
    };
    // A value of zero would disarm the timer.
    let setting = libc::itimerspec { it_interval: spec(then, 0), it_value: spec(first, 1) };
    // SAFETY: the pointer is to `setting`, which outlives the call; the old setting is not asked for.
    match unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Clears the expiration of a timer; `WouldBlock` if it has not expired.
#[allow(unsafe_code)]
pub(super) fn read(timer: &OwnedFd) -> io::Result<()> {
    let mut expirations = 0u64;
    // SAFETY: the pointer and the length describe `expirations`, which outlives the call.
    let read = unsafe { libc::read(timer.as_raw_fd(), (&raw mut expirations).cast(), size_of::<u64>()) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn timer_fd_never_expires_early() {
        let mut alarm = TimerFd::new().unwrap();
        for micros in [0, 1, 300, 1000] {
            let start = Instant::now();
            alarm.wait(Duration::from_micros(micros)).await;
            assert!(start.elapsed() >= Duration::from_micros(micros));
        }
        // A wait that was dropped does not shorten the next one.
        let _ = tokio::time::timeout(Duration::from_millis(1), alarm.wait(Duration::from_millis(20))).await;
        let start = Instant::now();
        alarm.wait(Duration::from_millis(30)).await;
        assert!(start.elapsed() >= Duration::from_millis(30));
        // Nor does one that has expired, but was not waited for.
        alarm.set(Duration::ZERO).unwrap();
        drop(alarm.timer.readable().await.unwrap()); // it has expired
        let start = Instant::now();
        alarm.wait(Duration::from_millis(20)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
