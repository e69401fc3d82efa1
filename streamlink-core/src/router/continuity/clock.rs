//! MPEG-TS: after a switch, the program clock and the timestamps of pictures and sound go on from where they were.
//!
//! A source whose own timestamps go on already (encoders that are locked to each other, or one stream over two paths)
//! is not touched. Of any other, the same is added to all timestamps from the switch on, modulo 2^33 (ISO/IEC 13818-1
//! section 2.4.3.7): to the PCR, to the PTS and DTS of PES packets, and to the adjustment in messages of SCTE 35
//! (section 9.6.1 there). A scrambled stream keeps its timestamps, as those of its PES packets cannot be reached.

use bytes::{Bytes, BytesMut};
use mpeg2ts_reader::mpegts_crc::sum32;
use std::time::{Duration, Instant};

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
/// Timestamps have 33 bits.
const MASK: u64 = (1 << 33) - 1;
const SECOND: u64 = 90_000;
/// Minimum time between the last picture before a switch and the first one after it: a frame at 25 a second.
const FRAME: u64 = SECOND / 25;
/// A greater step is one of the source's own: its clock begins anew.
const MAX_STEP: u64 = 10 * SECOND;
/// The table id of SCTE 35, and the length of its fixed part with the CRC.
const SPLICE_TABLE: u8 = 0xfc;
const MIN_SPLICE: usize = 20;

/// The clock of the stream as it is passed on. All times are in 1/90 000 s, modulo 2^33.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Added to the timestamps of the source.
    shift: u64,
    /// Another source has taken over, and none of its timestamps is known yet.
    joined: bool,
    /// The latest decoding time passed on, and its time of arrival.
    reach: Option<(u64, Instant)>,
    /// The latest presentation time.
    shown: u64,
    /// Maximum delay of one elementary stream's timestamps behind those of another.
    lag: u64,
    /// The last PCR, and the lead of decoding times over it.
    reference: Option<u64>,
    ahead: u64,
}

impl Clock {
    /// Begins another source.
    pub(super) fn join(&mut self) {
        self.joined = true;
    }

    /// Takes what follows for the same stream as before, unaltered.
    pub(super) fn settle(&mut self) {
        self.shift = 0;
        self.joined = false;
    }

    /// Follows a payload; returns its replacement if timestamps are altered.
    pub(super) fn pass(&mut self, payload: &[u8], now: Instant) -> Option<Bytes> {
        if self.joined {
            self.decide(payload, now);
        }
        let mut altered = None;
        for (number, packet) in payload.chunks_exact(PACKET).enumerate() {
            let found = Found::of(packet);
            self.observe(&found, now);
            if self.shift == 0 || !found.has_times() {
                continue;
            }
            let all = altered.get_or_insert_with(|| BytesMut::from(payload));
            if let Some(packet) = all.get_mut(number * PACKET..(number + 1) * PACKET) {
                found.move_by(packet, self.shift);
            }
        }
        altered.map(BytesMut::freeze)
    }

    /// Follows the timestamps of a payload that passes unaltered. Only packets that begin a payload unit are looked at,
    /// which is enough to continue from them, and cheap.
    pub(super) fn watch(&mut self, payload: &[u8], now: Instant) {
        let starts = |packet: &&[u8]| packet.get(1).is_some_and(|flags| flags & 0x40 != 0);
        for packet in payload.chunks_exact(PACKET).filter(starts) {
            self.observe(&Found::of(packet), now);
        }
    }

    /// Decides the shift from the first timestamp in a payload.
    fn decide(&mut self, payload: &[u8], now: Instant) {
        let found = || payload.chunks_exact(PACKET).map(Found::of);
        if found().any(|found| found.is_scrambled) {
            return self.settle();
        }
        let decoded = found().find_map(|found| found.pes.map(|pes| pes.decoded));
        let reference = || found().find_map(|found| found.reference).map(|(_, time)| add(time, self.ahead));
        let Some(first) = decoded.or_else(reference) else { return };
        self.joined = false;
        self.shift = self.place(first, now);
        self.reference = None;
    }

    /// Returns the shift that puts `first` after all earlier timestamps, by the time that it has arrived later.
    fn place(&self, first: u64, now: Instant) -> u64 {
        let Some((reach, at)) = self.reach else { return 0 };
        let passed = ticks(now.saturating_duration_since(at));
        let earliest = add(latest(self.shown, reach), self.lag.max(FRAME));
        let wanted = latest(add(reach, passed), earliest);
        let goes_on = !is_before(first, earliest) && is_before(first, add(wanted, SECOND));
        if goes_on { 0 } else { minus(wanted, first) }
    }

    fn observe(&mut self, found: &Found, now: Instant) {
        if let Some((_, time)) = found.reference {
            self.reference = Some(add(time, self.shift));
        }
        let Some(pes) = &found.pes else { return };
        let decoded = add(pes.decoded, self.shift);
        let shown = add(pes.shown.1, self.shift);
        if let Some(ahead) = self.reference.map(|reference| minus(decoded, reference)).filter(|ahead| *ahead < MAX_STEP)
        {
            self.ahead = ahead;
        }
        let Some((reach, _)) = self.reach else {
            self.reach = Some((decoded, now));
            self.shown = shown;
            return;
        };
        let forth = minus(decoded, reach);
        let back = minus(reach, decoded);
        if forth.min(back) > MAX_STEP {
            self.reach = Some((decoded, now));
            self.shown = shown;
            return;
        }
        if is_before(decoded, reach) {
            self.lag = self.lag.max(back.min(SECOND));
        } else {
            self.reach = Some((decoded, now));
        }
        // No picture is shown that long after it was decoded.
        if is_before(self.shown, shown) && minus(shown, decoded) < MAX_STEP {
            self.shown = shown;
        }
    }
}

fn add(a: u64, b: u64) -> u64 {
    a.wrapping_add(b) & MASK
}

fn minus(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b) & MASK
}

fn is_before(a: u64, b: u64) -> bool {
    a != b && minus(b, a) < 1 << 32
}

fn latest(a: u64, b: u64) -> u64 {
    if is_before(a, b) { b } else { a }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_micros() * u128::from(SECOND) / 1_000_000).unwrap_or(MASK) & MASK
}

/// The timestamps in the header of a PES packet.
#[derive(Clone, Copy, Debug)]
struct Pes {
    decoded: u64,
    /// Position and value of the PTS.
    shown: (usize, u64),
    /// Position of the DTS, if there is one.
    decoded_at: Option<usize>,
}

/// The timestamps in a transport packet.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Position and base of the PCR.
    reference: Option<(usize, u64)>,
    pes: Option<Pes>,
    /// Position and length of a section of SCTE 35.
    splice: Option<(usize, usize)>,
    is_scrambled: bool,
}

impl Found {
    fn of(packet: &[u8]) -> Self {
        let mut found = Self::default();
        let Some(head) = packet.first_chunk::<4>().filter(|head| head[0] == SYNC && head[1] & 0x80 == 0) else {
            return found;
        };
        let mut at = 4;
        if head[3] & 0x20 != 0 {
            let Some(length) = packet.get(4) else { return found };
            at = 5 + usize::from(*length);
            if *length >= 7
                && packet.get(5).is_some_and(|flags| flags & 0x10 != 0)
                && let Some(&[a, b, c, d, e]) = packet.get(6..11).and_then(<[u8]>::first_chunk)
            {
                let base = u64::from(u32::from_be_bytes([a, b, c, d])) << 1 | u64::from(e >> 7);
                found.reference = Some((6, base));
            }
        }
        if head[1] & 0x40 == 0 || head[3] & 0x10 == 0 {
            return found;
        }
        found.is_scrambled = head[3] & 0xc0 != 0;
        let Some(payload) = packet.get(at..).filter(|_| !found.is_scrambled) else { return found };
        found.pes = pes(payload, at);
        if found.pes.is_none() {
            found.splice = splice(payload, at);
        }
        found
    }

    fn has_times(&self) -> bool {
        self.reference.is_some() || self.pes.is_some() || self.splice.is_some()
    }

    /// Adds `shift` to all timestamps of the packet.
    fn move_by(&self, packet: &mut [u8], shift: u64) {
        if let Some((at, base)) = self.reference
            && let Some(field) = packet.get_mut(at..at + 5)
        {
            let base = add(base, shift);
            field[..4].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
            field[4] = (base as u8) << 7 | field[4] & 0x7f;
        }
        if let Some(pes) = self.pes {
            write_time(packet, pes.shown.0, add(pes.shown.1, shift));
            if let Some(at) = pes.decoded_at {
                write_time(packet, at, add(pes.decoded, shift));
            }
        }
        if let Some((at, length)) = self.splice
            && let Some(section) = packet.get_mut(at..at + length)
        {
            let adjustment = add(u64::from(section[4] & 1) << 32 | be32(&section[5..]), shift);
            section[4] = section[4] & !1 | (adjustment >> 32) as u8;
            section[5..9].copy_from_slice(&(adjustment as u32).to_be_bytes());
            let crc = sum32(&section[..length - 4]);
            section[length - 4..].copy_from_slice(&crc.to_be_bytes());
        }
    }
}

fn be32(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from(u32::from_be_bytes(*first)))
}

/// Finds the timestamps of a PES packet that begins at `at` (ISO/IEC 13818-1 section 2.4.3.6).
fn pes(payload: &[u8], at: usize) -> Option<Pes> {
    let head = payload.first_chunk::<9>().filter(|head| head[..3] == [0, 0, 1])?;
    // These stream ids have no such header; the others may have a PTS, with or without a DTS.
    let is_plain = matches!(head[3], 0xbc | 0xbe | 0xbf | 0xf0 | 0xf1 | 0xf2 | 0xf8 | 0xff);
    if is_plain || head[6] & 0xc0 != 0x80 || head[7] & 0x80 == 0 {
        return None;
    }
    let shown = read_time(payload.get(9..14)?);
    let has_decoded = head[7] & 0x40 != 0 && head[8] >= 10;
    let decoded = if has_decoded { Some(read_time(payload.get(14..19)?)) } else { None };
    Some(Pes { decoded: decoded.unwrap_or(shown), shown: (at + 9, shown), decoded_at: decoded.map(|_| at + 14) })
}

/// Finds a whole section of SCTE 35; returns its position and length.
fn splice(payload: &[u8], at: usize) -> Option<(usize, usize)> {
    let pointer = 1 + usize::from(*payload.first()?);
    let section = payload.get(pointer..)?;
    let head = section.first_chunk::<3>().filter(|head| head[0] == SPLICE_TABLE)?;
    let length = 3 + usize::from(u16::from_be_bytes([head[1] & 0x0f, head[2]]));
    let section = section.get(..length).filter(|_| length >= MIN_SPLICE)?;
    (sum32(section) == 0).then_some((at + pointer, length))
}

fn read_time(field: &[u8]) -> u64 {
    let &[a, b, c, d, e] = field else { return 0 };
    let wide = [a >> 1 & 7, b, c >> 1, d, e >> 1].map(u64::from);
    wide[0] << 30 | wide[1] << 22 | wide[2] << 15 | wide[3] << 7 | wide[4]
}

fn write_time(packet: &mut [u8], at: usize, time: u64) {
    let Some(field) = packet.get_mut(at..at + 5) else { return };
    field[0] = field[0] & 0xf1 | (time >> 29) as u8 & 0x0e;
    field[1] = (time >> 22) as u8;
    field[2] = (time >> 14) as u8 | 1;
    field[3] = (time >> 7) as u8;
    field[4] = (time << 1) as u8 | 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a transport packet with a PCR and the header of a PES packet.
    fn packet(pid: u16, reference: Option<u64>, shown: u64, decoded: Option<u64>) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut bytes = vec![SYNC, 0x40 | high, low, 0x30, 7, if reference.is_some() { 0x10 } else { 0 }];
        let base = reference.unwrap_or(0);
        bytes.extend(((base >> 1) as u32).to_be_bytes());
        bytes.extend([(base as u8) << 7 | 0x7e, 0x21]);
        let length = if decoded.is_some() { 10 } else { 5 };
        let flags = if decoded.is_some() { 0xc0 } else { 0x80 };
        bytes.extend([0, 0, 1, 0xe0, 0, 0, 0x80, flags, length]);
        let at = bytes.len();
        bytes.resize(PACKET, 0xff);
        bytes[at] = if decoded.is_some() { 0x31 } else { 0x21 };
        write_time(&mut bytes, at, shown);
        if let Some(decoded) = decoded {
            bytes[at + 5] = 0x11;
            write_time(&mut bytes, at + 5, decoded);
        }
        bytes
    }

    fn times(packet: &[u8]) -> (Option<u64>, u64, u64) {
        let found = Found::of(packet);
        let pes = found.pes.unwrap();
        (found.reference.map(|(_, base)| base), pes.shown.1, pes.decoded)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn ts_timestamps_round_trip() {
        for time in [0, 1, 0x1234_5678, MASK, 1 << 32, 0x1_5555_5555] {
            let bytes = packet(256, Some(time), time, Some(minus(time, 3600)));
            assert_eq!(times(&bytes), (Some(time), time, minus(time, 3600)));
            let mut moved = bytes.clone();
            Found::of(&bytes).move_by(&mut moved, 90_000);
            assert_eq!(times(&moved), (Some(add(time, 90_000)), add(time, 90_000), add(time, 86_400)));
            Found::of(&moved).move_by(&mut moved, minus(0, 90_000));
            assert_eq!(moved, bytes, "and nothing else is touched");
        }
    }

    #[test]
    fn ts_continuity_continues_times_over_switch_and_wrap() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let base = MASK - SECOND; // a second before the wrap
        for frame in 0..10 {
            let time = add(base, frame * FRAME);
            let bytes = packet(256, Some(minus(time, 63_000)), add(time, 2 * FRAME), Some(time));
            assert_eq!(clock.pass(&bytes, start + ms(40 * frame)), None, "the first source is not touched");
        }
        // Another source, 600 ms later, with a clock of its own.
        clock.join();
        let last = add(base, 9 * FRAME);
        for frame in 0..30 {
            let time = 5_000_000 + frame * FRAME;
            let bytes = packet(256, Some(time - 90_000), time + 2 * FRAME, Some(time));
            let out = clock.pass(&bytes, start + ms(9 * 40 + 600 + 40 * frame)).unwrap();
            let expected = add(last, 600 * 90 + frame * FRAME);
            assert_eq!(times(&out), (Some(minus(expected, 90_000)), add(expected, 2 * FRAME), expected));
        }
    }

    #[test]
    fn ts_continuity_alters_only_sources_that_go_back() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let video = |time: u64| packet(256, None, time + 3 * FRAME, Some(time));
        for frame in 0..10 {
            clock.pass(&video(frame * FRAME), start + ms(40 * frame));
        }
        clock.join();
        assert_eq!(clock.pass(&video(13 * FRAME), start + ms(13 * 40)), None);
        // 300 ms behind: it would go back.
        clock.join();
        let out = clock.pass(&video(9 * FRAME), start + ms(14 * 40)).unwrap();
        let (_, shown, decoded) = times(&out);
        assert!(decoded > 13 * FRAME && shown > 16 * FRAME, "{decoded} {shown}");
        // The first source returns, with unaltered timestamps.
        clock.join();
        assert_eq!(clock.pass(&video(40 * FRAME), start + ms(40 * 40)), None);
    }

    #[test]
    fn ts_continuity_covers_late_audio() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let video = |time| packet(256, None, time, None);
        let audio = |time| packet(257, None, time, None);
        let mut last = 0;
        for frame in 5..15 {
            clock.pass(&video(frame * FRAME), start + ms(40 * frame));
            last = (frame - 4) * FRAME;
            clock.pass(&audio(last), start + ms(40 * frame));
        }
        clock.join();
        clock.pass(&video(1000 * FRAME), start + ms(40 * 15)).unwrap();
        let out = clock.pass(&audio(996 * FRAME), start + ms(40 * 15)).unwrap();
        assert!(times(&out).1 > last, "{:?}", times(&out));
    }

    #[test]
    fn ts_continuity_starts_at_pcr_and_skips_scrambled() {
        let mut clock = Clock::default();
        let start = Instant::now();
        clock.pass(&packet(256, Some(1_000_000), 1_063_000, None), start);
        clock.join();
        let mut only_reference = packet(256, Some(77_000_000), 0, None);
        only_reference[1] &= !0x40;
        let out = clock.pass(&only_reference, start + ms(1000)).unwrap();
        assert_eq!(Found::of(&out).reference, Some((6, 1_090_000)));
        clock.join();
        let mut scrambled = packet(256, Some(5), 6, None);
        scrambled[3] |= 0x80;
        assert_eq!(clock.pass(&scrambled, start + ms(1100)), None);
    }

    #[test]
    fn ts_continuity_adjusts_scte_35() {
        let mut section = vec![SPLICE_TABLE, 0x30, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xf0, 5, 6];
        section.extend([0xfe, 0x12, 0x34, 0x56, 0x78, 0, 0]);
        section[2] = (section.len() + 4 - 3) as u8;
        section.extend(sum32(&section).to_be_bytes());
        let mut bytes = vec![SYNC, 0x41, 0xf4, 0x10, 0];
        bytes.extend(&section);
        bytes.resize(PACKET, 0xff);
        let mut moved = bytes.clone();
        Found::of(&bytes).move_by(&mut moved, 1 << 32 | 2);
        assert_eq!(moved[5 + 4..5 + 9], [1 ^ 1, 0, 0, 0, 1].map(|byte: u8| byte), "{:?}", &moved[..20]);
        assert_eq!(sum32(&moved[5..5 + section.len()]), 0);
        bytes[10] ^= 1; // the checksum is wrong: not a valid message
        assert!(!Found::of(&bytes).has_times());
    }

    proptest::proptest! {
            #[test]
            fn ts_continuity_survives_any_bytes(
                payloads in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..600), 1..8),
            ) {
                let mut clock = Clock::default();
                let now = Instant::now();
                for (number, mut payload) in payloads.into_iter().enumerate() {
                    for packet in payload.chunks_exact_mut(PACKET) {
     packet[0] = SYNC;
    }
                    if number % 2 == 1 {
                        clock.join();
                    }
                    let out = clock.pass(&payload, now);
                    assert!(out.is_none_or(|out| out.len() == payload.len()));
                }
            }
        }
}
