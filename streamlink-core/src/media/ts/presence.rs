//! Presence of media: an encoder that has lost its camera goes on with tables and null packets, which are no media.

#[cfg(test)]
use super::framing::Framing;
use super::{NULL_PID, PACKET};

/// First PID that can carry an elementary stream; those below are reserved for tables (ISO/IEC 13818-1 table 2-3, ETSI
/// EN 300 468 table 1).
const FIRST_MEDIA_PID: u16 = 0x20;

/// Tells the payload of elementary streams from tables, null packets and clock references. Takes one look-up a packet,
/// and 2 KiB.
#[derive(Clone, Debug)]
pub(crate) struct MediaPresence {
    /// One bit for each PID whose last payload start was that of a PES packet.
    streams: Box<[u64; 128]>,
    /// One bit for each PID whose payload has started.
    started: Box<[u64; 128]>,
    /// Number of packets of PIDs whose payload has never started.
    startless: u8,
}

/// Number of packets without a start of a payload after which they cannot be the rest of a table, which has 4096 bytes at
/// most.
const MAX_STARTLESS: u8 = 32;

impl Default for MediaPresence {
    fn default() -> Self {
        Self { streams: Box::new([0; 128]), started: Box::new([0; 128]), startless: 0 }
    }
}

impl MediaPresence {
    /// Observes the payload of a datagram. Returns whether it holds media: a part of a PES packet or something
    /// scrambled, or anything that is not MPEG-TS.
    #[cfg(test)]
    pub(crate) fn observe(&mut self, payload: &[u8]) -> bool {
        let Some(framing) = Framing::detect(payload) else { return !payload.is_empty() };
        let mut found = false;
        for packet in framing.packets(payload) {
            found |= self.packet(packet);
        }
        found
    }

    /// Observes one transport packet, perhaps truncated. Returns whether it holds media.
    pub(crate) fn packet(&mut self, packet: &[u8]) -> bool {
        let &[_, high, low, flags, ..] = packet else { return false };
        let pid = u16::from_be_bytes([high & 0x1f, low]);
        if !(FIRST_MEDIA_PID..NULL_PID).contains(&pid) || flags & 0x10 == 0 {
            return false;
        }
        let start = if flags & 0x20 == 0 { 4 } else { 5 + packet.get(4).map_or(PACKET, |length| usize::from(*length)) };
        if start >= PACKET {
            return false;
        }
        if flags & 0xc0 != 0 {
            return true; // tables are never scrambled
        }
        let bit = 1u64 << (pid % 64);
        let place = usize::from(pid / 64);
        let (Some(word), Some(started)) = (self.streams.get_mut(place), self.started.get_mut(place)) else {
            return false;
        };
        if high & 0x40 != 0 {
            *started |= bit;
        } else if *started & bit == 0 {
            self.startless = self.startless.saturating_add(1);
            return self.startless > MAX_STARTLESS;
        }
        if high & 0x40 != 0
            && let Some(payload) = packet.get(start..)
        {
            if begins_media(payload) {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
        *word & bit != 0
    }
}

/// Returns whether a payload begins with a PES packet of an elementary stream: not padding, a stream map or directory,
/// or messages of conditional access (ISO/IEC 13818-1 table 2-22).
fn begins_media(payload: &[u8]) -> bool {
    matches!(payload, [0, 0, 1, stream, ..] if !matches!(stream, 0xbc | 0xbe | 0xf0 | 0xf1 | 0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut bytes = vec![0x47, high | flags & 0x40, low, 0x10 | flags & 0x80];
        bytes.extend_from_slice(payload);
        bytes.resize(PACKET, 0xff);
        bytes
    }

    #[test]
    fn media_presence_ignores_tables_nulls_and_clock_references() {
        let mut presence = MediaPresence::default();
        let pes: &[u8] = &[0, 0, 1, 0xe0, 0, 0, 0x80];
        assert!(!presence.observe(&packet(0x100, 0, &[1, 2, 3])), "no start seen yet");
        assert!(presence.observe(&packet(0x100, 0x40, pes)));
        assert!(presence.observe(&packet(0x100, 0, &[1, 2, 3])));
        assert!(!presence.observe(&packet(0, 0x40, &[0, 0, 0xb0, 13])), "PAT");
        assert!(!presence.observe(&packet(0x1000, 0x40, &[0, 2, 0xb0, 13])), "PMT");
        assert!(!presence.observe(&packet(0x1000, 0, &[0, 0, 1, 0xe0])), "the rest of a PMT");
        assert!(!presence.observe(&packet(0x11, 0x40, pes)), "SDT");
        assert!(!presence.observe(&packet(0x1fff, 0, pes)), "nulls");
        assert!(!presence.observe(&packet(0x101, 0x40, &[0, 0, 1, 0xbe, 0, 9])), "padding");
        assert!(presence.observe(&packet(0x200, 0x80, &[1, 2, 3])), "scrambled");
        // A packet with a clock reference and nothing else.
        let mut clock = packet(0x100, 0, &[]);
        clock[3] = 0x20;
        clock[4] = 183;
        assert!(!presence.observe(&clock));
        // A PID that has become one of tables.
        assert!(!presence.observe(&packet(0x100, 0x40, &[0, 0x42, 0xf0, 13])));
        assert!(!presence.observe(&packet(0x100, 0, &[1, 2, 3])));
        assert!(presence.observe(&[0x80, 0x60, 0, 1]), "no MPEG-TS");
        assert!(!presence.observe(&[]));
    }

    #[test]
    fn media_presence_takes_streams_without_tables_and_starts() {
        let mut presence = MediaPresence::default();
        let found: Vec<bool> = (0..40).map(|_| presence.observe(&packet(0x100, 0, &[1, 2, 3]))).collect();
        assert!(!found[0] && found[39]);
        assert!(!presence.observe(&packet(0x1fff, 0, &[])));
        assert!(!presence.observe(&packet(0x1000, 0x40, &[0, 2, 0xb0, 13])));
        assert!(!presence.observe(&packet(0x1000, 0, &[1, 2, 3])), "the rest of a table");
    }

    #[test]
    fn media_presence_reads_packets_with_parity_and_cut_packets() {
        let mut presence = MediaPresence::default();
        let with_parity = |packet: Vec<u8>| [&packet[..], &[0xaa; 16]].concat();
        let null = || packet(0x1fff, 0, &[]);
        let media = packet(0x100, 0x40, &[0, 0, 1, 0xe0, 0, 0, 0x80]);
        assert!(!presence.observe(&[with_parity(null()), with_parity(null())].concat()));
        assert!(presence.observe(&[with_parity(null()), with_parity(media.clone())].concat()));
        let run = [null(), null(), null(), media].concat();
        assert!(presence.observe(&run[100..700]));
        assert!(!presence.observe(&run[100..500]));
    }

    proptest::proptest! {
        #[test]
        fn media_presence_survives_any_bytes(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..800)) {
            let mut presence = MediaPresence::default();
            for at in (0..bytes.len()).step_by(PACKET) {
                bytes[at] = 0x47;
            }
            presence.observe(&bytes);
        }
    }
}
