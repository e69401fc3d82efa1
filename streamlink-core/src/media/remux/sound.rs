//! Frames of the audio track, as FLV messages.

use super::{
    Core, TsCodec,
    audio::{AudioCodec, AudioParser, Frame, Sound, Unfit},
    millis,
    pes::{PesReader, Piece, Stamp},
    timeline::{SECOND, Tolerance, TrackTime},
};
use crate::media::{Packet, RtmpKind, ts::transport::TransportPacket};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum time that sound waits for the first picture, in units of 90 kHz.
const WAIT_FOR_PICTURE: i64 = SECOND / 2;
/// Maximum time that sound of another timeline waits for the first picture of it.
const WAIT_FOR_BREAK: i64 = SECOND;
/// Maximum distance of sound from the picture that is decoded, in units of 90 kHz, on one timeline.
const BESIDE: i64 = 2 * SECOND;
/// Maximum number of frames that wait.
const MAX_WAITING: usize = 512;
/// Number of bytes of a PES packet after which its frames are taken without waiting for its end.
const MAX_PES: usize = 64 << 10;
/// Time without pictures after which the video counts as gone.
const PICTURE_GONE: Duration = Duration::from_secs(1);
/// Maximum number of streams of no use that are still read, and number of frames with which one is of use again.
const MAX_PROBES: usize = 8;
const PROBE_FRAMES: usize = 5;

/// The audio stream that passes.
#[derive(Debug)]
pub(super) struct AudioTrack {
    pub(super) pid: u16,
    pub(super) kind: TsCodec,
    pub(super) codec: AudioCodec,
    pub(super) parser: AudioParser,
    pes: PesReader,
    /// The PES packet in progress.
    data: Vec<u8>,
    stamp: Option<Stamp>,
    /// Frames in order, with their arrivals.
    waiting: VecDeque<(Frame, Instant)>,
    pub(super) sound: Option<Sound>,
}

/// An audio stream that has turned out to be no use, and is still read: its encoder may change the codec back.
#[derive(Debug)]
pub(super) struct UnfitStream {
    pub(super) kind: TsCodec,
    pub(super) reason: Unfit,
    probe: Option<AudioTrack>,
}

/// The place of the sound on the timeline, whichever stream it is of.
#[derive(Debug, Default)]
pub(super) struct SoundTiming {
    pub(super) time: TrackTime,
    /// The end of the last frame, sent or not.
    next: Option<i64>,
    /// The end of the last frame that was sent, after which the frames of another timeline begin.
    sent: i64,
    duration: i64,
    joins: bool,
}

impl AudioTrack {
    /// Begins a stream; `None` if it is no audio.
    pub(super) fn new(pid: u16, kind: TsCodec) -> Option<Self> {
        let codec = match kind {
            TsCodec::Aac => AudioCodec::Aac,
            TsCodec::AacLatm => AudioCodec::AacLatm,
            TsCodec::MpegAudio => AudioCodec::Mp3,
            TsCodec::Ac3 => AudioCodec::Ac3,
            TsCodec::Eac3 => AudioCodec::Eac3,
            TsCodec::Opus { channels } => AudioCodec::Opus { channels },
            TsCodec::H264 | TsCodec::Hevc => return None,
        };
        Some(Self {
            pid,
            kind,
            codec,
            parser: AudioParser::new(codec),
            pes: PesReader::default(),
            data: Vec::new(),
            stamp: None,
            waiting: VecDeque::new(),
            sound: None,
        })
    }

    /// Returns whether frames wait for a picture.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the first timestamp of the frames that wait.
    pub(super) fn first_stamp(&self) -> Option<u64> {
        self.waiting.iter().find_map(|(frame, _)| frame.stamp)
    }

    /// Takes a packet.
    pub(super) fn packet(&mut self, packet: &TransportPacket<'_>, arrival: Instant) {
        let mut pes = std::mem::take(&mut self.pes);
        pes.packet(packet, &mut |piece| self.piece(piece, arrival));
        self.pes = pes;
    }

    fn piece(&mut self, piece: Piece<'_>, arrival: Instant) {
        match piece {
            Piece::Start(stamp) => self.stamp = stamp,
            Piece::Data(data) => {
                self.data.extend_from_slice(data);
                if self.data.len() > MAX_PES {
                    self.parse(arrival);
                }
            }
            Piece::End | Piece::Unended => self.parse(arrival),
            Piece::Lost { .. } => {
                self.parse(arrival);
                self.parser.lost();
            }
        }
    }

    fn parse(&mut self, arrival: Instant) {
        let data = std::mem::take(&mut self.data);
        let stamp = self.stamp.take().map(|stamp| stamp.pts);
        for frame in self.parser.parse(&data, stamp) {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back((frame, arrival));
            }
        }
    }

    /// Returns for how long the frames have waited: by their duration, or by their arrival.
    fn waited(&self, arrival: Instant) -> i64 {
        let sum = self.waiting.iter().map(|(frame, _)| frame.duration).sum::<i64>();
        let first = self.waiting.front().map_or(Duration::ZERO, |(_, first)| arrival.saturating_duration_since(*first));
        if self.waiting.len() >= MAX_WAITING {
            return i64::MAX;
        }
        sum.max(first.as_millis().min(60_000) as i64 * 90)
    }
}

impl Core {
    /// Sends the frames that are complete; `ends`: none of them waits for a picture.
    pub(super) fn sounds(&mut self, ends: bool, arrival: Instant, out: &mut Vec<Packet>) {
        while let Some(track) = &mut self.audio {
            let Some((frame, _)) = track.waiting.front() else { break };
            let raw = frame.stamp;
            let duration = frame.duration;
            let Some(at) = self.place_sound(raw, duration, ends, arrival) else { return };
            let Some((frame, _)) = self.audio.as_mut().and_then(|track| track.waiting.pop_front()) else { return };
            if let Some(at) = at {
                self.sound(frame, at, raw, arrival, out);
            }
        }
        if let Some(track) = &self.audio
            && let Some(reason) = track.parser.unfit()
        {
            let &AudioTrack { pid, kind, .. } = track;
            let probes = self.unfit.values().filter(|stream| stream.probe.is_some()).count();
            let probe = if probes < MAX_PROBES { AudioTrack::new(pid, kind) } else { None };
            self.unfit.insert(pid, UnfitStream { kind, reason, probe });
            self.choose(arrival, out);
        }
    }

    /// Reads a stream that was no use, and chooses anew when it is again.
    pub(super) fn probe(&mut self, packet: &TransportPacket<'_>, arrival: Instant, out: &mut Vec<Packet>) {
        let Some(probe) = self.unfit.get_mut(&packet.pid).and_then(|stream| stream.probe.as_mut()) else { return };
        probe.packet(packet, arrival);
        if probe.parser.unfit().is_some() {
            probe.parser = AudioParser::new(probe.codec);
            probe.waiting.clear();
        }
        if probe.waiting.len() < PROBE_FRAMES {
            return;
        }
        let found = self.unfit.remove(&packet.pid).and_then(|stream| stream.probe);
        self.choose(arrival, out);
        if self.audio.as_ref().is_some_and(|track| track.pid == packet.pid) {
            self.audio = found;
            self.sounds(false, arrival, out);
        }
    }

    /// Sends the frames of the PES packet in progress.
    pub(super) fn finish_sounds(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        if let Some(track) = &mut self.audio {
            track.parse(arrival);
            self.sounds(true, arrival, out);
        }
    }

    /// Returns the time of the first frame that waits, `Some(None)` if it is of no use, and `None` if it has to wait.
    #[allow(clippy::option_option)]
    fn place_sound(&mut self, raw: Option<u64>, duration: i64, ends: bool, arrival: Instant) -> Option<Option<i64>> {
        let track = self.audio.as_ref()?;
        let timing = &mut self.sound_timing;
        let Some(raw) = raw else { return Some(timing.next) };
        let waited = track.waited(arrival);
        if !self.timeline.has_begun() {
            if self.video.is_some() && !ends && waited < WAIT_FOR_PICTURE {
                return None;
            }
            self.timeline.begin(raw);
        }
        let step = timing.duration.max(duration / 2).max(1);
        let tolerance = Tolerance { step, back: SECOND / 10, suspect_back: step };
        let picture = self.picture_timing.time.last();
        if let Some(picture) = picture
            && let Some(at) = self.timeline.follow(&mut timing.time, raw, picture, step)
        {
            timing.joins = true;
            return Some(Some(at));
        }
        let epoch = timing.time.epoch();
        let found = self.timeline.locate(&mut timing.time, raw, arrival, tolerance);
        timing.joins |= timing.time.epoch() != epoch;
        if found.is_some() {
            return Some(found);
        }
        let last = self.picture_timing.time.arrived();
        let has_pictures =
            self.video.is_some() && last.is_some_and(|last| arrival.saturating_duration_since(last) < PICTURE_GONE);
        let expected = timing.next.unwrap_or_else(|| self.timeline.front());
        let own = timing.time.place(raw);
        // Where the pictures are as well, the sound is right, whatever was before.
        let picture = picture.filter(|_| has_pictures);
        let beside = own.filter(|own| picture.is_some_and(|picture| (own - picture).abs() <= BESIDE));
        if has_pictures && !ends && waited < WAIT_FOR_BREAK {
            return None; // the picture tells how the other timeline follows
        }
        timing.joins = true;
        if beside.is_some() {
            return Some(beside);
        }
        if has_pictures {
            timing.time.move_alone(raw, expected);
        } else {
            self.timeline.break_at(&mut timing.time, raw, expected);
        }
        Some(Some(expected))
    }

    fn sound(&mut self, frame: Frame, at: i64, raw: Option<u64>, arrival: Instant, out: &mut Vec<Packet>) {
        let timing = &mut self.sound_timing;
        timing.next = Some(at + frame.duration);
        timing.duration = frame.duration;
        let overlap = timing.sent - at;
        if at < 0 || timing.joins && overlap > frame.duration / 2 {
            return; // from before the first picture, or while the last frame still sounds
        }
        timing.joins = false;
        let placed = timing.time.last().map_or(at, |last| at.max(last));
        timing.sent = placed + frame.duration;
        self.timeline.record(&mut timing.time, placed, raw.map(|raw| (raw, at)), arrival);
        let time = millis(placed);
        let Some(track) = &mut self.audio else { return };
        let mut header = None;
        if track.sound.as_ref() != Some(&frame.sound) {
            header = track.codec.header(&frame.sound);
            track.sound = Some(frame.sound.clone());
        }
        let mut body = track.codec.tag(&frame.sound);
        body.extend(frame.data);
        self.describe(time, arrival, out);
        out.extend(header.map(|header| Packet::rtmp(RtmpKind::Audio, time, header, arrival)));
        out.push(Packet::rtmp(RtmpKind::Audio, time, body, arrival));
    }
}
