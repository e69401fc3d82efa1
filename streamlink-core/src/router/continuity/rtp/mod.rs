//! RTP: sequence numbers, timestamps and the synchronisation source continue (RFC 3550 section 5.1).

mod rewriter;
mod tracks;

pub(super) use tracks::TrackRewriters;

use super::ts::TsContinuity;
use crate::{media::rtp::Header, router::MediaBatch};
use bytes::BytesMut;
use rewriter::RtpRewriter;
use std::time::Duration;

/// Maximum distance in packets between two sources of the same stream for them to be recognised as such.
const MAX_BEHIND: i16 = 4000;
/// Clock rate of MPEG-TS and video, in Hz.
const VIDEO_CLOCK: u32 = 90_000;

/// The one stream of a flow of RTP.
#[derive(Debug)]
pub(super) struct RtpContinuity {
    rewriter: RtpRewriter,
    ts: TsContinuity,
}

impl Default for RtpContinuity {
    fn default() -> Self {
        Self { rewriter: RtpRewriter::new(VIDEO_CLOCK), ts: TsContinuity::default() }
    }
}

impl RtpContinuity {
    pub(super) fn join(&mut self) {
        self.rewriter.begin();
        self.ts.join();
    }

    /// Follows packets that pass unaltered: the numbers of the last one, and the clock of MPEG-TS.
    pub(super) fn watch(&mut self, delivery: &MediaBatch) {
        let Some(last) = delivery.packets.last() else { return };
        let Ok(header) = Header::parse(last.data()) else { return };
        if self.rewriter.ssrc != Some(header.ssrc) {
            self.rewriter = RtpRewriter::new(header.clock_rate());
        }
        self.rewriter.clock_rate = header.clock_rate();
        self.rewriter.packet(last.clone(), &header, Duration::ZERO);
        if header.is_mpeg_ts() {
            for packet in &delivery.packets {
                self.ts.watch(packet.data().get(header.payload_start..).unwrap_or_default(), packet.arrival());
            }
        }
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        let mut out = Vec::with_capacity(delivery.packets.len() + 1);
        for packet in delivery.packets.drain(..) {
            let Ok(header) = Header::parse(packet.data()) else {
                out.push(packet); // never: it was read before
                continue;
            };
            if self.rewriter.fresh
                && let Some(distance) = self.distance_from_last(&header)
            {
                if distance <= 0 {
                    continue; // the other source has sent it
                }
                // The next packet of the other source's own stream: nothing is altered.
                self.rewriter.sequence = 0;
                self.rewriter.timestamp = 0;
                self.rewriter.fresh = false;
                self.rewriter.alters = false;
                self.ts.forget();
            }
            self.rewriter.clock_rate = header.clock_rate();
            let range = header.payload_start..header.payload_end;
            let payload = packet.data().get(range.clone()).filter(|_| header.is_mpeg_ts());
            if let Some(marks) = payload.and_then(|payload| self.ts.marks(payload, packet.arrival())) {
                // A packet of its own before this one; all that follow are renumbered.
                let mut data = BytesMut::with_capacity(12 + marks.len());
                data.extend_from_slice(&[0x80, header.payload_type]);
                data.extend_from_slice(&header.sequence.wrapping_sub(1).to_be_bytes());
                data.extend_from_slice(&header.timestamp.to_be_bytes());
                data.extend_from_slice(&header.ssrc.to_be_bytes());
                data.extend_from_slice(&marks);
                if !self.rewriter.fresh {
                    self.rewriter.sequence = self.rewriter.sequence.wrapping_add(1);
                    self.rewriter.alters = true;
                }
                let before = Header { sequence: header.sequence.wrapping_sub(1), ..header };
                out.push(self.rewriter.packet(packet.with_data(data.freeze()), &before, Duration::ZERO));
            }
            let altered = payload.and_then(|payload| self.ts.retime(payload, packet.arrival()));
            let packet = match altered {
                Some(payload) => {
                    let mut data = BytesMut::from(&packet.data()[..]);
                    data[range].copy_from_slice(&payload); // the length is unchanged
                    packet.with_data(data.freeze())
                }
                None => packet,
            };
            out.push(self.rewriter.packet(packet, &header, Duration::ZERO));
        }
        delivery.packets = out;
    }

    /// Returns the distance from the last packet passed on to this one in the same stream; `None` if it is another
    /// stream.
    fn distance_from_last(&self, header: &Header) -> Option<i16> {
        let (sequence, timestamp, _) = self.rewriter.last?;
        let distance = header.sequence.wrapping_sub(sequence) as i16; // modulo 2^16
        let time = i64::from(header.timestamp.wrapping_sub(timestamp) as i32).abs(); // modulo 2^32
        let near = (-MAX_BEHIND..=MAX_BEHIND).contains(&distance) && time <= 10 * i64::from(self.rewriter.clock_rate);
        (self.rewriter.ssrc == Some(header.ssrc) && near).then_some(distance)
    }
}

#[cfg(test)]
mod tests;
