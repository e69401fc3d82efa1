//! Rewriting of the tracks of an RTSP presentation, which stay in step.

use super::rewriter::RtpRewriter;
use crate::{
    media::{
        Packet,
        rtp::Header,
        rtsp::{Presentation, is_rtcp},
    },
    router::{MediaBatch, Preamble},
};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// Rewrites the tracks of an RTSP presentation.
#[derive(Debug, Default)]
pub(in crate::router::continuity) struct TrackRewriters {
    tracks: Vec<RtpRewriter>,
    /// Delay of the stream that has taken over; `None` until some of it has arrived.
    shift: Option<Duration>,
    /// Added to the NTP times of sender reports; `None` until the first one.
    clock: Option<u64>,
    /// Parameter sets that the stream before did not have, and their track: they go before the next key frame.
    parameter_sets: Vec<(u8, Bytes)>,
}

impl TrackRewriters {
    /// Begins another connection: of a presentation that is compatible with the one before, or of another one.
    pub(in crate::router::continuity) fn join(
        &mut self,
        known: Option<&Presentation>,
        presentation: Option<&Presentation>,
        switched: bool,
    ) {
        self.shift = None;
        self.parameter_sets.clear();
        self.clock = None;
        let Some(presentation) = presentation else { return self.begin_tracks() };
        match known.filter(|known| presentation.is_compatible_with(known)) {
            Some(known) => {
                self.begin_tracks();
                let sets = presentation.tracks().iter().zip(known.tracks()).enumerate();
                let changed = sets.filter(|(_, (new, old))| switched && new.parameter_sets != old.parameter_sets);
                self.parameter_sets = changed
                    .filter_map(|(number, (new, _))| Some((u8::try_from(number).ok()?, new)))
                    .flat_map(|(number, new)| new.parameter_sets.iter().map(move |set| (number, set.clone())))
                    .collect();
            }
            None => {
                self.tracks = presentation.tracks().iter().map(|track| RtpRewriter::new(track.clock_rate)).collect()
            }
        }
        for (rewriter, track) in self.tracks.iter_mut().zip(presentation.tracks()) {
            rewriter.payload_type = track.payload_type;
            rewriter.is_audio = track.media == "audio";
            rewriter.is_hevc = track.encoding == "H265";
            rewriter.alters |= track.is_renumbered;
        }
        if self.tracks.iter().all(|track| track.report.is_none()) {
            self.clock = Some(0);
        }
    }

    fn begin_tracks(&mut self) {
        for track in &mut self.tracks {
            track.begin();
        }
    }

    pub(in crate::router::continuity) fn apply(&mut self, delivery: &mut MediaBatch) {
        self.insert_parameter_sets(delivery);
        let Self { tracks, shift, clock, .. } = self;
        let mut stale = Vec::new();
        for (at, packet) in delivery.packets.iter_mut().enumerate() {
            if is_rtcp(packet.data()) {
                match placed_report(tracks, clock, packet) {
                    Some(report) => *packet = report,
                    None => stale.push(at),
                }
                continue;
            }
            let Ok(header) = Header::parse(packet.data()) else { continue };
            let shift = *shift.get_or_insert_with(|| {
                // The same delay for all tracks, so that none goes back and they stay in step.
                let ends = tracks.iter().filter_map(|track| track.last).map(|(.., at)| at);
                let behind = ends.map(|end| end.saturating_duration_since(packet.arrival())).max().unwrap_or_default();
                // No other track begins before this one.
                let waits = tracks.iter().map(|track| track.wait(packet.arrival() + behind));
                behind + waits.max().unwrap_or_default()
            });
            if let Some(track) = packet.rtsp_track().and_then(|track| tracks.get_mut(usize::from(track))) {
                track.follow_steps(&header, packet.arrival());
                *packet = track.packet(packet.clone(), &header, shift);
            }
        }
        for at in stale.into_iter().rev() {
            delivery.remove(at);
        }
        for (_, preamble) in &mut delivery.starts {
            self.preamble(preamble);
        }
    }

    /// Rewrites the sender reports that a player gets first; keeps the allocation where nothing is altered.
    fn preamble(&mut self, preamble: &mut Preamble) {
        let Self { tracks, clock, .. } = self;
        if *clock != Some(0) || tracks.iter().any(|track| track.alters) {
            // The latest report of a track is valid whenever it is sent.
            *preamble = preamble.iter().filter_map(|packet| placed_report(tracks, clock, packet)).collect();
        }
    }

    /// Inserts parameter sets as single NAL unit packets (RFC 6184 section 5.6, RFC 7798 section 4.4.1) with the
    /// timestamp of the key frame.
    fn insert_parameter_sets(&mut self, delivery: &mut MediaBatch) {
        if self.parameter_sets.is_empty() {
            return;
        }
        let Some(at) = delivery.starts.first().map(|(at, _)| *at) else { return };
        let Some(key) = delivery.packets.get(at).cloned() else { return };
        let Ok(header) = Header::parse(key.data()) else { return };
        let sets: Vec<_> = std::mem::take(&mut self.parameter_sets);
        let sets: Vec<_> = sets.into_iter().filter(|(track, _)| Some(*track) == key.rtsp_track()).collect();
        let count = sets.len() as u16; // a presentation has few
        let packets: Vec<Packet> = (0..count)
            .zip(sets)
            .map(|(i, (_, set))| {
                let sequence = header.sequence.wrapping_sub(count).wrapping_add(i);
                let mut data = BytesMut::with_capacity(12 + set.len());
                data.extend_from_slice(&[0x80, header.payload_type]);
                data.extend_from_slice(&sequence.to_be_bytes());
                data.extend_from_slice(&header.timestamp.to_be_bytes());
                data.extend_from_slice(&header.ssrc.to_be_bytes());
                data.extend_from_slice(&set);
                key.with_data(data.freeze())
            })
            .collect();
        delivery.insert(at, packets);
    }
}

/// Rewrites a report with the rewriter of its track.
fn placed_report(tracks: &mut [RtpRewriter], clock: &mut Option<u64>, packet: &Packet) -> Option<Packet> {
    match packet.rtsp_track().and_then(|track| tracks.get_mut(usize::from(track))) {
        Some(track) => track.report(packet.data(), clock, packet.arrival()).map(|data| packet.with_data(data)),
        None => Some(packet.clone()),
    }
}
