//! Memory for decrypted payloads, one behind the other, so that each needs no allocation of its own.

use bytes::BytesMut;

/// Size in bytes by which the memory grows.
const ARENA: usize = 24 * 1456;

/// Memory of decrypted payloads. It is reused when the payloads in it have been dropped.
#[derive(Debug, Default)]
pub(super) struct Arena(BytesMut);

impl Arena {
    /// Copies a payload into the arena.
    pub(super) fn stage(&mut self, payload: &[u8]) -> BytesMut {
        if self.0.capacity() < payload.len() {
            self.0.reserve(ARENA);
        }
        self.0.extend_from_slice(payload);
        self.0.split()
    }

    /// Returns the last staged payload to the arena, so that useless data takes no memory from data that is kept.
    pub(super) fn unstage(&mut self, mut staged: BytesMut) {
        staged.unsplit(std::mem::take(&mut self.0));
        staged.clear();
        self.0 = staged;
    }
}
