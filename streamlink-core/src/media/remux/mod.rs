//! Remux of MPEG-TS to FLV messages: the one place where media changes its container. Nothing is transcoded.
//!
//! Of one program, one video and one audio stream pass: H.264, HEVC; AAC (ADTS, LATM), MP3, AC-3, E-AC-3, Opus; those
//! that legacy RTMP lacks as Enhanced RTMP. The streams may change at any time, and so may the clock: times go on
//! evenly, and never go back. The picture begins where it can be decoded, or after a bounded wait without that; sound
//! does not wait for it.

mod aac;
mod audio;
mod decoding;
mod headers;
mod metadata;
mod order;
mod pes;
mod picture;
mod programs;
mod selection;
mod sound;
mod timeline;
mod units;
mod video;

use crate::media::{
    Packet, ProgramChoice,
    ts::{PacketSync, codec::TsCodec, transport::TransportPacket},
};
pub(crate) use headers::{describe_aac, describe_video, describe_video_record};
use metadata::Metadata;
use pes::Piece;
use picture::{PictureTiming, VideoTrack};
use programs::{Choice, Programs};
use selection::Reported;
use sound::{AudioTrack, SoundTiming, UnfitStream};
use std::{collections::BTreeMap, time::Instant};
use timeline::{ProgramClock, Timeline};

/// Turns a transport stream into FLV messages. Holds at most a picture, a NAL unit, and a second of sound.
#[derive(Debug)]
pub(crate) struct Remuxer {
    sync: PacketSync,
    core: Core,
}

/// The parts that take packets, whatever their size was.
#[derive(Debug)]
struct Core {
    programs: Programs,
    wanted: ProgramChoice,
    choice: Choice,
    /// Streams of the chosen program that have turned out to be no use.
    unfit: BTreeMap<u16, UnfitStream>,
    clock: ProgramClock,
    timeline: Timeline,
    video: Option<VideoTrack>,
    picture_timing: PictureTiming,
    /// The decoder configuration record of the video that was sent last, and whether it has ever changed.
    record: Option<Vec<u8>>,
    record_changed: bool,
    audio: Option<AudioTrack>,
    sound_timing: SoundTiming,
    /// The metadata sent last.
    metadata: Option<Metadata>,
    reported: Reported,
}

impl Remuxer {
    pub(crate) fn new() -> Self {
        Self {
            sync: PacketSync::default(),
            core: Core {
                programs: Programs::new(),
                wanted: ProgramChoice::Best,
                choice: Choice::default(),
                unfit: BTreeMap::new(),
                clock: ProgramClock::default(),
                timeline: Timeline::default(),
                video: None,
                picture_timing: PictureTiming::default(),
                record: None,
                record_changed: false,
                audio: None,
                sound_timing: SoundTiming::default(),
                metadata: None,
                reported: Reported::default(),
            },
        }
    }

    /// Sets the program to take.
    pub(crate) fn want(&mut self, wanted: &ProgramChoice, arrival: Instant, out: &mut Vec<Packet>) {
        if self.core.wanted != *wanted {
            self.core.wanted = wanted.clone();
            self.core.choose(arrival, out);
        }
    }

    /// Takes the payload of a datagram; the messages that it completes are appended to `out`.
    pub(crate) fn push(&mut self, payload: &[u8], arrival: Instant, out: &mut Vec<Packet>) {
        let Self { sync, core } = self;
        sync.feed(payload, |packet, _| {
            if let Some(packet) = TransportPacket::parse(packet) {
                core.packet(&packet, arrival, out);
            }
        });
        if core.choice.program.is_none() && !core.programs.entries().is_empty() {
            core.choose(arrival, out);
        }
        core.reported.observe(payload.len(), arrival);
    }

    /// Appends pending media to `out`, as far as it seems to be complete, after the source has been silent for a moment.
    pub(crate) fn pause(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        self.core.flush(false, arrival, out);
    }

    /// Begins the stream of another source, or of the same one after a new start. Half a picture of the old one is
    /// dropped, and the picture begins again where it can be decoded.
    pub(crate) fn cut(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        self.core.cut(arrival, out);
    }

    /// Ends the stream, after the source has ended: appends pending media to `out`, but for half a picture.
    pub(crate) fn finish(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        self.core.flush(true, arrival, out);
    }
}

impl Core {
    fn packet(&mut self, packet: &TransportPacket<'_>, arrival: Instant, out: &mut Vec<Packet>) {
        if self.programs.packet(packet, arrival) {
            self.choose(arrival, out);
        }
        if let Some(clock) = packet.clock
            && self.choice.clock_pid == Some(packet.pid)
            && self.clock.observe(clock, packet.discontinuity, arrival)
        {
            self.picture_timing.time.suspect();
            self.sound_timing.time.suspect();
        }
        if packet.payload.is_empty() {
            return;
        }
        if let Some(track) = &mut self.video
            && track.pid == packet.pid
        {
            let VideoTrack { pes, units, .. } = track;
            pes.packet(packet, &mut |piece| match piece {
                Piece::Start(Some(stamp)) => units.stamp(stamp),
                Piece::Data(data) => units.push(data),
                Piece::Lost { within } => units.lost(within),
                Piece::Unended => units.unended(),
                Piece::Start(None) | Piece::End => {}
            });
            self.pictures(arrival, out);
        } else if let Some(track) = &mut self.audio
            && track.pid == packet.pid
        {
            track.packet(packet, arrival);
            self.sounds(false, arrival, out);
        } else if !self.unfit.is_empty() {
            self.probe(packet, arrival, out);
        }
    }

    /// Chooses program and streams anew, after something has changed.
    fn choose(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        let streams: Vec<_> = self.programs.all().flat_map(|program| program.streams.iter().cloned()).collect();
        self.unfit.retain(|pid, unfit| streams.iter().any(|s| s.pid == *pid && s.kind == Ok(unfit.kind)));
        let choice = self.programs.choose(&self.wanted, &self.choice, arrival, |pid| self.unfit.contains_key(&pid));
        let before = std::mem::replace(&mut self.choice, choice);
        if before.clock_pid != choice.clock_pid || before.program != choice.program {
            self.clock.forget();
        }
        if before.video != choice.video {
            // Half a picture, as of an encoder that was replaced, is of no use.
            if self.video.as_ref().is_some_and(VideoTrack::seems_whole) {
                self.finish_pictures(arrival, out);
            }
            self.video = choice.video.and_then(|(pid, kind)| VideoTrack::new(pid, kind));
            if before.video.is_some() {
                self.picture_timing.time.suspect();
            }
        }
        if before.audio != choice.audio {
            self.finish_sounds(arrival, out);
            self.audio = choice.audio.and_then(|(pid, kind)| AudioTrack::new(pid, kind));
            if before.audio.is_some() && choice.audio.is_some() {
                self.sound_timing.time.suspect();
            }
        }
        self.reported.change(arrival);
    }

    fn cut(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        self.clock.forget();
        if self.video.as_ref().is_some_and(VideoTrack::seems_whole) {
            self.finish_pictures(arrival, out);
        }
        if let Some(old) = self.video.take() {
            self.video = self.choice.video.and_then(|(pid, kind)| VideoTrack::new(pid, kind));
            if let Some(fresh) = &mut self.video {
                fresh.picture = old.picture; // announced until another is known
            }
            self.picture_timing.time.suspect();
            self.reported.change(arrival);
        }
        self.finish_sounds(arrival, out);
        if self.audio.is_some() {
            self.audio = self.choice.audio.and_then(|(pid, kind)| AudioTrack::new(pid, kind));
            self.sound_timing.time.suspect();
        }
    }

    fn flush(&mut self, ends: bool, arrival: Instant, out: &mut Vec<Packet>) {
        if self.video.as_ref().is_some_and(|video| video.seems_whole() || ends && !video.seems_cut()) {
            self.finish_pictures(arrival, out);
        }
        self.finish_sounds(arrival, out);
        self.reported.settle();
    }
}

/// Converts units of 90 kHz to RTMP milliseconds, which wrap.
fn millis(ticks: i64) -> u32 {
    (ticks.max(0) / 90) as u32
}

#[cfg(test)]
mod tests;
