//! Randomness. The operating system is asked once for each engine, and the engine is built only if it answers. All
//! later draws come from a generator that cannot fail.

use crate::lock::lock;
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use std::{
    fmt, io,
    sync::{Arc, Mutex},
};
use zeroize::Zeroizing;

/// Fills a buffer with random bytes of the operating system.
///
/// # Errors
/// When the operating system gives no randomness. The contents of the buffer are then unusable.
pub(crate) fn system(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

/// Function that fills a buffer with random bytes.
type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// Random number generator, shared by its clones.
#[derive(Clone)]
pub(crate) struct Random(Arc<Fill>);

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

impl Random {
    /// Creates a cryptographically secure generator (ChaCha20), seeded from `entropy`, which is [`system`] outside
    /// tests.
    ///
    /// A forked process repeats the draws of its parent, so an engine must not be used in both.
    ///
    /// # Errors
    /// When `entropy` fails.
    pub(crate) fn seeded_by(entropy: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        entropy(&mut *seed)?;
        let generator = Mutex::new(ChaCha20Rng::from_seed(*seed));
        Ok(Self(Arc::new(move |bytes| lock(&generator).fill_bytes(bytes))))
    }

    /// Creates a generator from a test's function.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// Fills a buffer with random bytes.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }

    /// Returns `N` random bytes.
    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn random_fails_where_its_seed_fails() {
        let error = Random::seeded_by(|_| Err(io::Error::other("nothing there"))).unwrap_err();
        assert_eq!(error.to_string(), "nothing there");
    }

    #[test]
    fn random_draws_are_all_different() {
        let one = Random::seeded_by(system).unwrap();
        let other = Random::seeded_by(system).unwrap();
        let clone = one.clone();
        let drawn = (0..300).map(|i| [&one, &other, &clone][i % 3].bytes::<16>());
        let distinct: HashSet<_> = drawn.collect();
        assert_eq!(distinct.len(), 300);
        assert!(!distinct.contains(&[0; 16]));
    }
}
