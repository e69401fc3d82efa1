//! Key derivations that a test holds back, as if they took very long.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Passphrases whose derivations are held back, each with the number of those that wait.
static HELD: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());
static RELEASED: Condvar = Condvar::new();

fn held() -> MutexGuard<'static, Vec<(String, usize)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while the derivations of this passphrase are held back.
pub(super) fn pass(passphrase: &str) {
    let mut all = held();
    if let Some((_, waiting)) = all.iter_mut().find(|(of, _)| of == passphrase) {
        *waiting += 1;
    }
    while all.iter().any(|(of, _)| of == passphrase) {
        all = RELEASED.wait(all).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Holds back the derivations of one passphrase until it is dropped.
pub(crate) struct HeldDerivations(&'static str);

impl HeldDerivations {
    pub(crate) fn of(passphrase: &'static str) -> Self {
        held().push((passphrase.to_owned(), 0));
        Self(passphrase)
    }

    /// Returns the number of derivations that are held back.
    pub(crate) fn waiting(&self) -> usize {
        held().iter().find(|(of, _)| of == self.0).map_or(0, |(_, waiting)| *waiting)
    }
}

impl Drop for HeldDerivations {
    fn drop(&mut self) {
        held().retain(|(of, _)| of != self.0);
        RELEASED.notify_all();
    }
}
