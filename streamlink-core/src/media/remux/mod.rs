//! Remux of MPEG-TS to FLV messages: the one place where media changes its container. Nothing is transcoded.
//!
//! Of the first program with a stream that RTMP can carry, one video and one audio stream pass: H.264, HEVC; AAC (ADTS,
//! LATM), MP3, AC-3, E-AC-3, Opus; those that legacy RTMP lacks as Enhanced RTMP. Messages begin with a key frame, at
//! time 0, and their times never go back.

mod audio;
mod clock;
mod demux;
mod latm;
mod video;

use crate::media::{
    Packet, RtmpKind,
    flv::amf0::{Value, write_all},
};
use audio::{AudioCodec, AudioParser, Sound};
use clock::{Clock, TrackClock};
use demux::{Demux, Found, Item, Pes};
use std::time::Instant;
use video::{Picture, VideoCodec, VideoParser};

/// Time that audio waits for the first picture, in units of 90 kHz: 3 s.
const WAIT_FOR_VIDEO: i64 = 270_000;
/// Maximum step that counts as the duration of a frame, in units of 90 kHz: 1 s.
const LONGEST_FRAME: i64 = 90_000;
/// Assumed duration of a frame until it is known, in units of 90 kHz.
const USUAL_FRAME: i64 = 3600;

/// The codec of an elementary stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    H264,
    Hevc,
    Aac,
    AacLatm,
    /// Layers I to III; only III can be carried.
    MpegAudio,
    Ac3,
    Eac3,
    Opus {
        channels: u8,
    },
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::H264 => "H.264",
            Kind::Hevc => "HEVC",
            Kind::Aac => "AAC",
            Kind::AacLatm => "AAC (LATM)",
            Kind::MpegAudio => "MPEG audio",
            Kind::Ac3 => "AC-3",
            Kind::Eac3 => "E-AC-3",
            Kind::Opus { .. } => "Opus",
        }
    }
}

/// The streams that pass, and those that do not, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) carried: Vec<String>,
    pub(crate) left_out: Vec<String>,
}

/// Turns a transport stream into FLV messages. Holds at most a picture and a few audio frames.
#[derive(Debug)]
pub(crate) struct Remuxer {
    demux: Demux,
    items: Vec<Item>,
    program: Option<u16>,
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    selection: Selection,
    selected: bool,
    clock: Clock,
    started: bool,
    /// The metadata sent last.
    metadata: Option<Vec<u8>>,
}

#[derive(Debug)]
struct VideoTrack {
    pid: u16,
    codec: VideoCodec,
    parser: VideoParser,
    clock: TrackClock,
    picture: Picture,
    configured: bool,
    /// Duration of a frame, and the decoding time of the last PES packet.
    frame: i64,
    last: Option<i64>,
    /// No key frame has arrived yet.
    waits: bool,
}

#[derive(Debug)]
struct AudioTrack {
    pid: u16,
    codec: AudioCodec,
    parser: AudioParser,
    clock: TrackClock,
    /// The time of the next frame, for those without a timestamp.
    next: Option<i64>,
    first: Option<i64>,
    sound: Option<Sound>,
}

impl Remuxer {
    pub(crate) fn new() -> Self {
        Self {
            demux: Demux::new(),
            items: Vec::new(),
            program: None,
            video: None,
            audio: None,
            selection: Selection::default(),
            selected: false,
            clock: Clock::default(),
            started: false,
            metadata: None,
        }
    }

    /// Takes the payload of a datagram; the messages that it completes are appended to `out`.
    pub(crate) fn push(&mut self, payload: &[u8], arrival: Instant, out: &mut Vec<Packet>) {
        let mut items = std::mem::take(&mut self.items);
        self.demux.push(payload, &mut items);
        self.take(&mut items, arrival, out);
        self.items = items;
    }

    /// Ends the stream, after the source has ended or was lost: appends pending media to `out`.
    pub(crate) fn finish(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        let mut items = std::mem::take(&mut self.items);
        self.demux.finish(&mut items);
        self.take(&mut items, arrival, out);
        self.items = items;
    }

    fn take(&mut self, items: &mut Vec<Item>, arrival: Instant, out: &mut Vec<Packet>) {
        for item in items.drain(..) {
            match item {
                Item::Stream(found) => self.select(found),
                Item::Pes(pes) if self.video.as_ref().is_some_and(|track| track.pid == pes.pid) => {
                    self.video_frames(pes, arrival, out);
                }
                Item::Pes(pes) if self.audio.as_ref().is_some_and(|track| track.pid == pes.pid) => {
                    self.audio_frames(&pes, arrival, out);
                }
                Item::Pes(_) => {}
            }
        }
    }

    /// Returns the selection of streams, if it has changed.
    pub(crate) fn selection(&mut self) -> Option<&Selection> {
        std::mem::take(&mut self.selected).then_some(&self.selection)
    }

    fn select(&mut self, found: Found) {
        self.selected = true;
        let label = match found.kind {
            Ok(kind) => format!("{} (PID {})", kind.name(), found.pid),
            Err(number) => format!("{} (PID {})", super::ts::stream_type_name(number), found.pid),
        };
        // A stream that has changed its codec keeps its place.
        let free = |pid: Option<u16>| pid.is_none_or(|pid| pid == found.pid);
        let ours = self.program.is_none_or(|program| program == found.program);
        let video_free = free(self.video.as_ref().map(|t| t.pid));
        let audio_free = free(self.audio.as_ref().map(|t| t.pid));
        let taken = match found.kind {
            Ok(Kind::H264) if ours && video_free => self.take_video(found.pid, VideoCodec::H264),
            Ok(Kind::Hevc) if ours && video_free => self.take_video(found.pid, VideoCodec::Hevc),
            Ok(Kind::Aac) if ours && audio_free => self.take_audio(found.pid, AudioCodec::Aac),
            Ok(Kind::AacLatm) if ours && audio_free => self.take_audio(found.pid, AudioCodec::AacLatm),
            Ok(Kind::MpegAudio) if ours && audio_free => self.take_audio(found.pid, AudioCodec::Mp3),
            Ok(Kind::Ac3) if ours && audio_free => self.take_audio(found.pid, AudioCodec::Ac3),
            Ok(Kind::Eac3) if ours && audio_free => self.take_audio(found.pid, AudioCodec::Eac3),
            Ok(Kind::Opus { channels }) if ours && audio_free => {
                self.take_audio(found.pid, AudioCodec::Opus { channels })
            }
            _ => false,
        };
        if taken {
            self.program = Some(found.program);
        }
        let list = if taken { &mut self.selection.carried } else { &mut self.selection.left_out };
        if !list.contains(&label) {
            list.push(label);
        }
    }

    fn take_video(&mut self, pid: u16, codec: VideoCodec) -> bool {
        self.video = Some(VideoTrack {
            pid,
            codec,
            parser: VideoParser::new(codec),
            clock: TrackClock::default(),
            picture: Picture::default(),
            configured: false,
            frame: USUAL_FRAME,
            last: None,
            waits: true,
        });
        true
    }

    fn take_audio(&mut self, pid: u16, codec: AudioCodec) -> bool {
        self.audio = Some(AudioTrack {
            pid,
            codec,
            parser: AudioParser::new(codec),
            clock: TrackClock::default(),
            next: None,
            first: None,
            sound: None,
        });
        true
    }

    fn video_frames(&mut self, pes: Pes, arrival: Instant, out: &mut Vec<Packet>) {
        let Some(track) = &mut self.video else { return };
        let Some(pts) = pes.pts else { return };
        let dts = self.clock.unwrap(&mut track.clock, pes.dts.unwrap_or(pts));
        // The picture is shown within a second or so of its decoding.
        let delay = (pts.wrapping_sub(pes.dts.unwrap_or(pts)) & ((1 << 33) - 1)).min(10 * 90_000) as i64;
        let head = match track.codec {
            VideoCodec::H264 => 5,
            VideoCodec::Hevc => 8,
        };
        let units = track.parser.parse(&pes.data, head);
        // A damaged picture is passed on: decoders can conceal the damage.
        if let Some(last) = track.last.replace(dts)
            && (1..=LONGEST_FRAME).contains(&(dts - last))
        {
            track.frame = (dts - last) / i64::try_from(units.len().max(1)).unwrap_or(1);
        }
        if let Some((record, picture)) = track.parser.configuration() {
            track.picture = picture;
            track.configured = true;
            let time = if self.started { millis(self.clock.place(&mut track.clock, dts, track.frame)) } else { 0 };
            let head: &[u8] = match track.codec {
                VideoCodec::H264 => &[0x17, 0, 0, 0, 0],
                VideoCodec::Hevc => b"\x90hvc1",
            };
            out.push(Packet::rtmp(RtmpKind::Video, time, [head, &record].concat(), arrival));
        }
        for (number, unit) in units.into_iter().enumerate() {
            let Some(track) = &mut self.video else { return };
            let at = dts + track.frame * i64::try_from(number).unwrap_or(0);
            track.waits &= !unit.key;
            if !track.configured || track.waits {
                continue;
            }
            if !self.started {
                self.clock.start(at);
                self.started = true;
            }
            let placed = self.clock.place(&mut track.clock, at, track.frame);
            let time = millis(placed);
            let shown = millis(placed + delay);
            let mut body = unit.data;
            let [_, composition @ ..] = shown.wrapping_sub(time).to_be_bytes();
            match track.codec {
                VideoCodec::H264 => {
                    body[..2].copy_from_slice(&[if unit.key { 0x17 } else { 0x27 }, 1]);
                    body[2..5].copy_from_slice(&composition);
                }
                VideoCodec::Hevc => {
                    body[0] = 0x80 | if unit.key { 0x10 } else { 0x20 } | 1;
                    body[1..5].copy_from_slice(b"hvc1");
                    body[5..8].copy_from_slice(&composition);
                }
            }
            self.describe(time, arrival, out);
            out.push(Packet::rtmp(RtmpKind::Video, time, body, arrival));
        }
    }

    fn audio_frames(&mut self, pes: &Pes, arrival: Instant, out: &mut Vec<Packet>) {
        let Some(track) = &mut self.audio else { return };
        let said = pes.pts.map(|pts| self.clock.unwrap(&mut track.clock, pts));
        let frames = track.parser.parse(&pes.data);
        if pes.damaged {
            track.parser.lost();
        }
        let mut said = said;
        for frame in frames {
            let Some(track) = &mut self.audio else { return };
            // The timestamp of a PES packet is that of the first frame that begins in it.
            let at = if frame.carried { track.next } else { said.take().or(track.next) };
            let Some(at) = at else { continue };
            track.next = Some(at + frame.duration);
            if !self.started {
                let waited = at - *track.first.get_or_insert(at);
                if self.video.is_some() && waited < WAIT_FOR_VIDEO {
                    continue;
                }
                self.clock.start(at);
                self.started = true;
            }
            let placed = self.clock.place(&mut track.clock, at, frame.duration);
            if placed < 0 {
                continue; // from before the first picture
            }
            let time = millis(placed);
            if track.sound != Some(frame.sound) {
                track.sound = Some(frame.sound);
                let header = track.codec.header(frame.sound);
                self.describe(time, arrival, out);
                out.extend(header.map(|body| Packet::rtmp(RtmpKind::Audio, time, body, arrival)));
            }
            let Some(track) = &self.audio else { return };
            let mut body = track.codec.tag(frame.sound);
            body.extend(frame.data);
            out.push(Packet::rtmp(RtmpKind::Audio, time, body, arrival));
        }
    }

    /// Sends metadata if they differ from those sent last.
    fn describe(&mut self, time: u32, arrival: Instant, out: &mut Vec<Packet>) {
        let mut fields = vec![("duration".to_owned(), Value::Number(0.0))];
        let mut add = |name: &str, value: f64| fields.push((name.to_owned(), Value::Number(value)));
        if let Some(track) = self.video.as_ref().filter(|track| track.configured) {
            add("width", f64::from(track.picture.width));
            add("height", f64::from(track.picture.height));
            if let Some(rate) = track.picture.frame_rate {
                add("framerate", rate);
            }
            add(
                "videocodecid",
                match track.codec {
                    VideoCodec::H264 => 7.0,
                    VideoCodec::Hevc => f64::from(u32::from_be_bytes(*b"hvc1")),
                },
            );
        }
        if let Some((track, sound)) = self.audio.as_ref().and_then(|track| Some((track, track.sound?))) {
            add("audiocodecid", track.codec.number());
            add("audiosamplerate", f64::from(sound.sample_rate));
            add("audiosamplesize", 16.0);
            add("audiochannels", f64::from(sound.channels));
            fields.push(("stereo".to_owned(), Value::Boolean(sound.channels > 1)));
        }
        fields.push(("encoder".to_owned(), Value::text("StreamLink")));
        let body = write_all(&[Value::text("onMetaData"), Value::EcmaArray(fields)]);
        if self.metadata.as_ref() != Some(&body) {
            self.metadata = Some(body.clone());
            out.push(Packet::rtmp(RtmpKind::Data, time, body, arrival));
        }
    }
}

/// Converts units of 90 kHz to RTMP milliseconds, which wrap.
fn millis(ticks: i64) -> u32 {
    (ticks.max(0) / 90) as u32
}

#[cfg(test)]
mod tests;
