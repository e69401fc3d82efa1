//! A descriptor that event loops wait on.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    task::Wake,
};

/// A descriptor that is readable from [`EventFd::raise`] to [`EventFd::clear`].
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// `None` when the system gives none.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: no memory is involved.
        let number = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        // SAFETY: a descriptor that was just opened, and that nobody else has.
        (number >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub(crate) fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live. It fails only when it is readable already.
        let _ = unsafe { libc::write(self.number(), one.as_ptr().cast(), one.len()) };
    }

    pub(crate) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes that live. It fails only when there is nothing to clear.
        let _ = unsafe { libc::read(self.number(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Wake for EventFd {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}
