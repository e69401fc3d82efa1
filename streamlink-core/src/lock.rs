//! Locks that outlive a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing panics while such a lock is held; if it did, what it guards would still be whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
