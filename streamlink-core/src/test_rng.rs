//! Random numbers for tests and fuzz targets.

/// Pseudo-random numbers (xorshift), the same for the same seed, which is not 0.
#[derive(Clone)]
pub(crate) struct TestRng(pub(crate) u64);

impl TestRng {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number below `end`, or 0 if there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next_u64() % end as u64) as usize }
    }

    /// Returns `true` with a chance in percent.
    #[cfg(test)]
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next_u64() % 10_000 < chance * 100
    }
}
