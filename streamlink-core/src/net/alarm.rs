//! A timer for waits below a millisecond, which the runtime's own timers round up to two or three.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel (`timerfd`), one descriptor.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// Must be called within the runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and owned by no one else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the descriptor is owned, and stays the same for as long as it is registered.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?))
    }

    /// Waits for so long, to a fraction of a millisecond. A failing timer ends the wait at once.
    pub(crate) async fn wait(&self, duration: Duration) {
        if self.set(duration).is_ok() {
            poll_fn(|cx| self.poll_rung(cx)).await;
        }
    }

    /// Sets the alarm, or sets it anew.
    ///
    /// # Errors
    /// When the system refuses: it will not ring.
    #[allow(unsafe_code)]
    pub(crate) fn set(&self, duration: Duration) -> io::Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(duration.subsec_nanos().max(1)), // all zeroes would disarm it
        };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the pointer is to `setting`, which outlives the call; the old setting is not asked for.
        match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ready when the alarm that was set has rung, or fails; once for each time that it was set.
    #[allow(unsafe_code)]
    pub(crate) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.0.poll_read_ready(cx)) else { return Poll::Ready(()) };
            let mut expirations = 0u64;
            // SAFETY: the pointer and the length describe `expirations`, which outlives the call.
            let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut expirations).cast(), size_of::<u64>()) };
            guard.clear_ready();
            let again = read < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
            if !again {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn it_waits_again_and_again_and_never_too_short() {
        let alarm = Alarm::new().unwrap();
        for micros in [0, 1, 300, 1000] {
            let start = Instant::now();
            alarm.wait(Duration::from_micros(micros)).await;
            assert!(start.elapsed() >= Duration::from_micros(micros));
        }
        // A wait that was given up does not shorten the next one.
        let _ = tokio::time::timeout(Duration::from_millis(1), alarm.wait(Duration::from_millis(20))).await;
        let start = Instant::now();
        alarm.wait(Duration::from_millis(30)).await;
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
}
