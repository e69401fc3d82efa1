//! Description of the streams that pass, and of those that do not, with the reason.

use super::{Core, Remuxer, audio::Unfit, picture::VideoTrack, programs::Stream, sound::UnfitStream};
use crate::media::{LeftOut, MediaTrack, ProgramChoice, track::bits_per_second};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Maximum time that a description waits for the first frames, which tell the codec.
const WAIT_FOR_FRAMES: Duration = Duration::from_secs(1);
/// Time without any program after which its absence is described.
const WAIT_FOR_PROGRAMS: Duration = Duration::from_secs(3);
/// Number of bytes that are no transport packets after which the stream counts as none.
const FOREIGN_BYTES: u64 = 64 << 10;
/// Minimum time over which a bit rate is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// The streams that pass, and those that do not, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) carried: Vec<String>,
    pub(crate) left_out: Vec<String>,
    /// A track that is left out passes from its first key frame on.
    pub(crate) waits: bool,
}

/// The state of the description.
#[derive(Debug, Default)]
pub(super) struct Reported {
    told: Option<Selection>,
    /// Arrival of the change that is to be described.
    changed: Option<Instant>,
    /// Arrival of the first and of the last datagram.
    first: Option<Instant>,
    last: Option<Instant>,
    /// The source is silent: nothing more comes for now.
    settled: bool,
    /// Bytes of each stream when they were measured last, and the bit rates since the measurement before.
    measured: Option<(Instant, BTreeMap<u16, u64>)>,
    rates: BTreeMap<u16, u64>,
}

impl Reported {
    pub(super) fn change(&mut self, arrival: Instant) {
        self.changed.get_or_insert(arrival);
        self.settled = false;
    }

    pub(super) fn observe(&mut self, bytes: usize, arrival: Instant) {
        self.first.get_or_insert(arrival);
        if bytes > 0 {
            self.last = Some(arrival);
        }
    }

    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    fn since(&self, start: Option<Instant>) -> Duration {
        let (Some(start), Some(last)) = (start, self.last) else { return Duration::ZERO };
        last.saturating_duration_since(start)
    }
}

impl Remuxer {
    /// Returns the selection of streams, if it has changed.
    pub(crate) fn selection(&mut self) -> Option<Selection> {
        let Self { sync, core } = self;
        let reported = &core.reported;
        let mut selection = Selection::default();
        if core.programs.entries().is_empty() {
            let silent = reported.since(reported.first) >= WAIT_FOR_PROGRAMS;
            if !sync.is_aligned() && sync.skipped() >= FOREIGN_BYTES {
                selection.left_out.push("not MPEG-TS".to_owned());
            } else if silent && sync.is_aligned() {
                selection.left_out.push("MPEG-TS without a program (no PAT)".to_owned());
            } else {
                return None;
            }
        } else {
            let waited = reported.since(reported.changed) >= WAIT_FOR_FRAMES;
            if reported.changed.is_none() || !(reported.settled || waited || core.is_complete()) {
                return None;
            }
            selection = core.select();
            if selection == Selection::default() {
                return None;
            }
        }
        core.reported.changed = None;
        if core.reported.told.as_ref() == Some(&selection) {
            return None;
        }
        core.reported.told = Some(selection.clone());
        Some(selection)
    }

    /// Returns the streams that are named, and measures their bit rates.
    pub(crate) fn tracks(&mut self, now: Instant) -> Vec<MediaTrack> {
        self.core.measure(now);
        self.core.tracks()
    }

    /// Returns the number of sections with a wrong CRC, which were ignored.
    pub(crate) fn damaged_sections(&self) -> u64 {
        self.core.programs.damaged()
    }
}

impl Core {
    /// Returns whether the first frames of all streams that pass are there.
    fn is_complete(&self) -> bool {
        self.choice.program.is_some()
            && self.video.as_ref().is_none_or(VideoTrack::runs)
            && self.audio.as_ref().is_none_or(|track| track.sound.is_some())
    }

    fn select(&self) -> Selection {
        let mut selection = Selection::default();
        for track in self.tracks() {
            let label = format!("{} (PID {})", track.codec, track.pid);
            selection.waits |= track.left_out == Some(LeftOut::NotDecodable);
            match track.left_out {
                None => selection.carried.push(label),
                Some(LeftOut::NoCarriage) => selection.left_out.push(label),
                Some(LeftOut::OtherProgram) => {
                    let name = self.programs.name(track.program).map(|name| format!(" {name}")).unwrap_or_default();
                    selection.left_out.push(format!("{label}: program {}{name}", track.program));
                }
                Some(reason) => selection.left_out.push(format!("{label}: {reason}")),
            }
        }
        if self.choice.program.is_none() {
            let wanted = match &self.wanted {
                ProgramChoice::Best => None,
                ProgramChoice::Number(number) => Some(number.to_string()),
                ProgramChoice::Name(name) => Some(name.clone()),
            };
            if let Some(wanted) = wanted {
                selection.left_out.insert(0, format!("there is no program {wanted}"));
            }
        }
        selection
    }

    fn tracks(&self) -> Vec<MediaTrack> {
        let mut tracks = Vec::new();
        for program in self.programs.all() {
            for stream in &program.streams {
                tracks.push(self.track(program.number, stream));
            }
        }
        // Streams that pass come first.
        tracks.sort_by_key(|track| track.left_out.is_some());
        tracks
    }

    fn track(&self, program: u16, stream: &Stream) -> MediaTrack {
        let name = match stream.kind {
            Ok(kind) => kind.name(),
            Err(name) => name,
        };
        let bit_rate = self.reported.rates.get(&stream.pid).copied().unwrap_or(0);
        let mut track = MediaTrack { pid: stream.pid, program, codec: name, bit_rate, ..MediaTrack::default() };
        let ours = self.choice.program == Some(program);
        if ours && let Some(video) = self.video.as_ref().filter(|video| video.pid == stream.pid) {
            track.width = video.picture.width;
            track.height = video.picture.height;
            track.profile = video.picture.profile;
            track.frame_rate = self.picture_timing.rate().or(video.picture.frame_rate);
            track.left_out = video.waits().then_some(LeftOut::NotDecodable);
            return track;
        }
        if ours && let Some(audio) = self.audio.as_ref().filter(|audio| audio.pid == stream.pid) {
            if let Some(sound) = &audio.sound {
                track.codec = if name == "MPEG audio" { "MP3" } else { name };
                track.sample_rate = sound.sample_rate;
                track.channels = sound.channels;
                track.profile = sound.profile;
            }
            return track;
        }
        track.left_out = Some(match (stream.kind, self.unfit.get(&stream.pid)) {
            (Err(_), _) => LeftOut::NoCarriage,
            (_, Some(UnfitStream { reason: Unfit::Codec(real), .. })) => {
                track.codec = real;
                LeftOut::NoCarriage
            }
            (_, Some(UnfitStream { reason: Unfit::Unreadable, .. })) => LeftOut::Unreadable,
            _ if self.programs.traffic(stream.pid).scrambled => LeftOut::Scrambled,
            _ if !ours => LeftOut::OtherProgram,
            _ => LeftOut::OtherTrack,
        });
        track
    }

    fn measure(&mut self, now: Instant) {
        let bytes: BTreeMap<u16, u64> = self
            .programs
            .all()
            .flat_map(|program| &program.streams)
            .map(|stream| (stream.pid, self.programs.traffic(stream.pid).bytes))
            .collect();
        if let Some((then, before)) = &self.reported.measured {
            let elapsed = now.saturating_duration_since(*then);
            if elapsed < MEASURE {
                return;
            }
            let rate = |(pid, now): (&u16, &u64)| {
                let bytes = now.saturating_sub(before.get(pid).copied().unwrap_or(0));
                (*pid, bits_per_second(bytes, elapsed))
            };
            self.reported.rates = bytes.iter().map(rate).collect();
        }
        self.reported.measured = Some((now, bytes));
    }
}
