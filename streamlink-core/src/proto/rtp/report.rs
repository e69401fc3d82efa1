//! RTCP receiver reports (RFC 3550 section 6.4): parsed for streams that we send, and made for streams that we receive.

use crate::media::rtp::Header;
use std::time::{Duration, Instant};

/// Maximum number of streams of one session whose reports are kept.
const MAX_STREAMS: usize = 32;
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
/// Our CNAME in reports (section 6.5.1).
const NAME: &[u8] = b"streamlink";

/// Returns the packets of a compound (section 6.1): type, count and body. Ends at the first truncated one.
pub(in crate::proto) fn packets(mut compound: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let &[first, kind, high, low] = compound.first_chunk()?;
        let length = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
        if first >> 6 != 2 || compound.len() < length {
            return None;
        }
        let (packet, rest) = compound.split_at(length);
        compound = rest;
        Some((kind, first & 0x1f, &packet[4..]))
    })
}

/// The reports of the receivers of one session.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// The SSRC of a stream, and the number of its packets that were lost.
    lost: Vec<(u32, u64)>,
}

impl Reports {
    /// Takes a compound RTCP packet; packets other than reports are skipped.
    pub(crate) fn take(&mut self, compound: &[u8]) {
        for (kind, count, body) in packets(compound) {
            let blocks = match kind {
                SENDER_REPORT => body.get(24..),
                RECEIVER_REPORT => body.get(4..),
                _ => None,
            };
            for block in blocks.unwrap_or_default().chunks_exact(24).take(count.into()) {
                let &[a, b, c, d, _, high, middle, low, ..] = block else { continue };
                let ssrc = u32::from_be_bytes([a, b, c, d]);
                // 24 bits with a sign: duplicates make the number go down.
                let lost = (i32::from_be_bytes([high, middle, low, 0]) >> 8).max(0).unsigned_abs().into();
                match self.lost.iter().position(|(known, _)| *known == ssrc) {
                    Some(at) => self.lost[at].1 = lost,
                    None if self.lost.len() < MAX_STREAMS => self.lost.push((ssrc, lost)),
                    None => {}
                }
            }
        }
    }

    /// Returns the number of packets that the receivers have lost in all.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.iter().map(|(_, lost)| lost).sum()
    }
}

/// A stream that we receive, for the reports to its sender.
#[derive(Debug)]
pub(crate) struct Reception {
    clock_rate: u32,
    stream: Option<Stream>,
    /// The middle 32 bits of the NTP time in the last sender report, and its time of arrival.
    last_report: Option<(u32, Instant)>,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    /// The first and the highest sequence number, extended by the number of wraps.
    first: u32,
    highest: u32,
    received: u32,
    /// Packets expected and received up to the last report.
    before: (u32, u32),
    latest: (Instant, u32),
    /// In units of the timestamp.
    jitter: f64,
}

impl Reception {
    /// `clock_rate`: of the timestamps, in Hz.
    pub(crate) fn new(clock_rate: u32) -> Self {
        Self { clock_rate, stream: None, last_report: None }
    }

    /// Takes a packet into account (appendices A.1 and A.8).
    pub(crate) fn packet(&mut self, header: &Header, arrival: Instant) {
        let number = u32::from(header.sequence);
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.ssrc == header.ssrc) else {
            self.stream = Some(Stream {
                ssrc: header.ssrc,
                first: number,
                highest: number,
                received: 1,
                before: (0, 0),
                latest: (arrival, header.timestamp),
                jitter: 0.0,
            });
            return;
        };
        stream.received = stream.received.wrapping_add(1);
        let step = header.sequence.wrapping_sub(stream.highest as u16);
        if step < 1 << 15 {
            stream.highest = stream.highest.wrapping_add(step.into());
        }
        let (before, stamp) = std::mem::replace(&mut stream.latest, (arrival, header.timestamp));
        let elapsed = match arrival.checked_duration_since(before) {
            Some(later) => later.as_secs_f64(),
            None => -before.saturating_duration_since(arrival).as_secs_f64(),
        };
        let meant = f64::from(header.timestamp.wrapping_sub(stamp) as i32); // modulo 2^32
        let deviation = (elapsed * f64::from(self.clock_rate) - meant).abs();
        stream.jitter += (deviation - stream.jitter) / 16.0;
    }

    /// Takes RTCP from the sender.
    pub(crate) fn heard(&mut self, compound: &[u8], now: Instant) {
        for (kind, _, body) in packets(compound) {
            if let (SENDER_REPORT, Some(&[_, _, _, _, _, _, a, b, c, d])) = (kind, body.first_chunk::<10>()) {
                self.last_report = Some((u32::from_be_bytes([a, b, c, d]), now));
            }
        }
    }

    /// Makes a receiver report with our CNAME (section 6.4.2, appendix A.3). Without a report block before the first
    /// packet.
    pub(crate) fn report(&mut self, own: u32, now: Instant) -> Vec<u8> {
        let words = if self.stream.is_some() { 7u16 } else { 1 };
        let mut out = vec![0x80 | u8::from(self.stream.is_some()), RECEIVER_REPORT];
        out.extend(words.to_be_bytes());
        out.extend(own.to_be_bytes());
        if let Some(stream) = &mut self.stream {
            let expected = stream.highest.wrapping_sub(stream.first).wrapping_add(1);
            let lost = i64::from(expected) - i64::from(stream.received);
            let (expected_before, received_before) = std::mem::replace(&mut stream.before, (expected, stream.received));
            let due = expected.wrapping_sub(expected_before);
            let missing = due.saturating_sub(stream.received.wrapping_sub(received_before));
            let fraction = (u64::from(missing) * 256).checked_div(due.into()).unwrap_or(0).min(255) as u8;
            let [_, high, middle, low] = (lost.clamp(-0x80_0000, 0x7f_ffff) as i32).to_be_bytes();
            let (last, delay) = self.last_report.map_or((0, Duration::ZERO), |(last, at)| {
                (last, now.saturating_duration_since(at)) // in units of 1/65536 seconds below
            });
            out.extend(stream.ssrc.to_be_bytes());
            out.extend([fraction, high, middle, low]);
            out.extend(stream.highest.to_be_bytes());
            out.extend((stream.jitter as u32).to_be_bytes());
            out.extend(last.to_be_bytes());
            let delay = delay.as_micros().saturating_mul(65_536) / 1_000_000;
            out.extend(u32::try_from(delay).unwrap_or(u32::MAX).to_be_bytes());
        }
        // SSRC, the item of type 1, and its end, in whole words.
        let length = (4 + 2 + NAME.len() + 1).next_multiple_of(4);
        out.extend([0x81, SOURCE_DESCRIPTION]);
        out.extend(((length / 4) as u16).to_be_bytes());
        let end = out.len() + length;
        out.extend(own.to_be_bytes());
        out.extend([1, NAME.len() as u8]);
        out.extend(NAME);
        out.resize(end, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u16, timestamp: u32) -> Header {
        let mut bytes = vec![0x80, 96];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend([0, 0, 0, 7]);
        Header::parse(&bytes).unwrap()
    }

    #[test]
    fn rtcp_reports_round_trip() {
        let mut reception = Reception::new(90_000);
        let start = Instant::now();
        let empty = reception.report(9, start);
        assert_eq!(empty[..8], [0x80, 201, 0, 1, 0, 0, 0, 9]);
        let mut reports = Reports::default();
        reports.take(&empty);
        assert_eq!(reports.lost(), 0);
        // Ten packets over the wrap, of which three are missing.
        for i in (0..10u16).filter(|i| ![3, 4, 8].contains(i)) {
            let at = start + Duration::from_millis(10 * u64::from(i));
            reception.packet(&header(65_531u16.wrapping_add(i), u32::from(i) * 900), at);
        }
        let sender_report = [&[0x80, 200, 0, 6, 0, 0, 0, 7][..], &[1, 2, 3, 4, 5, 6, 7, 8], &[0; 12]].concat();
        reception.heard(&sender_report, start);
        let report = reception.report(9, start + Duration::from_secs(2));
        assert_eq!(report.len() % 4, 0);
        assert_eq!(report[8..12], [0, 0, 0, 7]);
        assert_eq!(report[12..16], [(3 * 256 / 10) as u8, 0, 0, 3]);
        assert_eq!(u32::from_be_bytes(report[16..20].try_into().unwrap()), 65_536 + 4);
        assert_eq!(report[20..24], [0; 4], "all came at their time");
        assert_eq!((&report[24..28], &report[28..32]), (&[3, 4, 5, 6][..], &(2 * 65_536u32).to_be_bytes()[..]));
        reports.take(&report);
        assert_eq!(reports.lost(), 3);
        assert_eq!(reception.report(9, start)[12], 0, "none since the last report");
    }

    proptest::proptest! {
        #[test]
        fn rtcp_parser_survives_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut reports = Reports::default();
            let mut reception = Reception::new(1);
            reports.take(&bytes);
            reception.heard(&bytes, Instant::now());
            if let Ok(header) = Header::parse(&bytes) {
                reception.packet(&header, Instant::now());
                reception.packet(&header, Instant::now());
            }
            proptest::prop_assert!(reception.report(1, Instant::now()).len() <= 60);
        }
    }
}
