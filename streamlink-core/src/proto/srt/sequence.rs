//! Sequence numbers of 31 bits, which wrap (draft-sharabayko-srt-01, section 3).

/// Packet sequence number: 31 bits, compared modulo 2^31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sequence(u32);

const MASK: u32 = 0x7fff_ffff;

impl Sequence {
    /// Creates a number from the lower 31 bits.
    pub(crate) const fn new(number: u32) -> Self {
        Self(number & MASK)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Returns the number `steps` later.
    pub(crate) const fn after(self, steps: u32) -> Self {
        Self(self.0.wrapping_add(steps) & MASK)
    }

    /// Returns the number `steps` earlier.
    pub(crate) const fn before(self, steps: u32) -> Self {
        Self(self.0.wrapping_sub(steps) & MASK)
    }

    /// Returns the distance from this number to `later`, negative if that lies behind.
    pub(crate) const fn distance(self, later: Self) -> i32 {
        // The difference modulo 2^31 is shifted up so that its bit 30 becomes the sign.
        ((later.0.wrapping_sub(self.0) << 1) as i32) >> 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srt_sequence_numbers_wrap() {
        let last = Sequence::new(MASK);
        assert_eq!(last.after(1), Sequence::new(0));
        assert_eq!(last.distance(Sequence::new(4)), 5);
        assert_eq!(Sequence::new(4).distance(last), -5);
        assert_eq!(Sequence::new(7).distance(Sequence::new(7)), 0);
    }
}
