//! Randomness: the operating system is asked once for an engine, which is built only when it answers; whatever is drawn
//! later comes from a generator that cannot fail.

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

/// Fills a buffer with randomness of the operating system.
///
/// # Errors
/// When the operating system has none to give; the buffer is of no use then.
pub(crate) fn system(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

/// A source of randomness, shared by its clones.
#[derive(Clone)]
pub(crate) struct Random(Arc<dyn Fn(&mut [u8]) + Send + Sync>);

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

impl Random {
    /// A cryptographically secure generator (ChaCha20), with a seed from `entropy`, which is [`system`] outside tests.
    ///
    /// A fork of the process repeats what its parent draws: an engine must not be used in both.
    ///
    /// # Errors
    /// When `entropy` fails.
    pub(crate) fn seeded_by(entropy: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        entropy(&mut *seed)?;
        let generator = Mutex::new(ChaCha20Rng::from_seed(*seed));
        Ok(Self(Arc::new(move |bytes| lock(&generator).fill_bytes(bytes))))
    }

    /// A generator of a test's own.
    #[cfg(test)]
    pub(crate) fn of(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// Fills a buffer.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }

    /// Draws so many bytes.
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
        let (other, clone) = (Random::seeded_by(system).unwrap(), one.clone());
        let drawn = (0..300).map(|i| [&one, &other, &clone][i % 3].bytes::<16>());
        let distinct: HashSet<_> = drawn.collect();
        assert_eq!(distinct.len(), 300);
        assert!(!distinct.contains(&[0; 16]));
    }
}
