//! Pictures of the video track, as FLV messages: where they begin, when they are decoded and shown.

use super::{
    Core, TsCodec,
    decoding::DecodingTimes,
    millis,
    order::{Order, OrderTiming},
    pes::{PesReader, Stamp},
    timeline::{SECOND, Tolerance, TrackTime, difference},
    units::{AccessUnit, Doubt, UnitReader, append_nal},
    video::Picture,
};
use crate::media::{
    Packet, RtmpKind,
    entry_point::{EntryPoint, NalCodec, break_links},
};
use std::time::{Duration, Instant};

/// Maximum time that the picture waits for an entry point, in units of 90 kHz and as arrivals.
const WAIT_FOR_ENTRY: i64 = 3 * SECOND;
/// Time after which a picture of intra slices alone will do, or one that comes with parameter sets: encoders repeat them
/// where a gradual refresh begins, announced (as x264 does) or not (as x265 does).
const WAIT_FOR_CLEAN_ENTRY: i64 = WAIT_FOR_ENTRY / 2;
/// Time without an entry point after which a stream with intra pictures, or with parameter sets, is taken for one that
/// has none, in units of 90 kHz.
const WITHOUT_ENTRY: i64 = 10 * SECOND;
/// Minimum time between two recovery points that are announced for such a stream.
const ANNOUNCE_INTERVAL: i64 = SECOND;
/// Assumed duration of a frame until it is known, in units of 90 kHz.
const USUAL_FRAME: i64 = 3600;
/// Maximum duration of a frame.
const LONGEST_FRAME: i64 = 10 * SECOND;

/// Supplemental information that announces a recovery point after as many pictures as every stream may announce, and that
/// earlier pictures are missing: 15 in H.264 (section D.2.8), 7 in HEVC (section D.3.8). A stream without entry points
/// begins with it, as decoders like those of ffmpeg show nothing before one.
const RECOVERY_POINT_H264: &[u8] = &[0x06, 0x06, 0x02, 0b0000_1000, 0b0010_0100, 0x80];
const RECOVERY_POINT_HEVC: &[u8] = &[0x4e, 0x01, 0x06, 0x02, 0b0001_1100, 0b1100_0000, 0x80];

/// The video stream that passes.
#[derive(Debug)]
pub(super) struct VideoTrack {
    pub(super) pid: u16,
    pub(super) codec: NalCodec,
    pub(super) pes: PesReader,
    pub(super) units: UnitReader,
    pub(super) picture: Picture,
    /// The decoder configuration record, once known.
    pub(super) configured: bool,
    /// The same, if it is still to be sent.
    header: Option<Vec<u8>>,
    start: Start,
    /// Time of the last entry point, or of the last recovery point that was announced for want of one.
    entered: i64,
    /// The last one was announced.
    announces: bool,
    /// A picture of which a part may be missing, until the next one comes.
    held: Option<AccessUnit>,
}

/// Progress of a track to its first picture.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// No picture has come.
    New,
    /// Waiting for an entry point, since this time and arrival.
    Waits(i64, Instant),
    /// Begun with a picture shown at this time. Pictures shown before it refer to pictures that were not sent.
    Leading(i64),
    Runs,
}

/// The place of the pictures on the timeline, whichever stream they are of.
#[derive(Debug, Default)]
pub(super) struct PictureTiming {
    pub(super) time: TrackTime,
    /// The last distances between pictures.
    steps: [i64; 5],
    /// The duration of a frame that the parameter sets name.
    nominal: Option<i64>,
    /// The last timestamp, and the number of pictures since.
    last: Option<(u64, i64)>,
    /// The time of the last picture with a timestamp.
    stamped: i64,
    /// The latest time at which a picture is shown.
    end: i64,
    /// Time from decoding to showing of the last picture.
    delay: i64,
    /// The times of decoding are in the stream.
    explicit: bool,
    /// Timestamps go back by less than a second, as where they are those of showing alone.
    reorders: bool,
    /// The times of decoding, if they are not in the stream.
    decoding: DecodingTimes,
    order: OrderTiming,
}

impl PictureTiming {
    /// Returns the usual duration of a frame.
    pub(super) fn step(&self) -> i64 {
        let mut known: Vec<i64> = self.steps.into_iter().filter(|step| *step > 0).collect();
        known.sort_unstable();
        known.get(known.len() / 2).copied().or(self.nominal).unwrap_or(USUAL_FRAME)
    }

    /// Sets the frame rate that the parameter sets name, if it is a usual one.
    fn expect_rate(&mut self, rate: Option<f64>) {
        self.nominal = rate.filter(|rate| (5.0..=120.0).contains(rate)).map(|rate| (SECOND as f64 / rate) as i64);
    }

    /// Returns the measured frame rate.
    pub(super) fn rate(&self) -> Option<f64> {
        self.steps.iter().all(|step| *step > 0).then(|| SECOND as f64 / self.step() as f64)
    }

    /// Measures the distance from the last timestamp.
    fn measure(&mut self, raw: u64) {
        if let Some((last, count)) = self.last.replace((raw, 1)) {
            let apart = difference(raw, last);
            let step = apart / count.max(1);
            if (1..=LONGEST_FRAME).contains(&step) {
                self.steps.rotate_right(1);
                self.steps[0] = step;
            }
            self.reorders |= !self.explicit && (-SECOND..0).contains(&apart);
        }
    }

    fn tolerance(&self) -> Tolerance {
        let step = self.step();
        let back = if self.explicit { step * 3 / 4 } else { SECOND / 2 };
        let suspect_back = if self.reorders { SECOND / 2 } else { step / 2 };
        // Pictures without timestamps may have been given too much time: their frame rate was not known.
        let guessed = self.last.map_or(0, |(_, count)| (count - 1).clamp(0, 1000) * step).min(LONGEST_FRAME);
        Tolerance { step, back: back + guessed, suspect_back: suspect_back + guessed }
    }
}

impl VideoTrack {
    /// Begins a stream; `None` if it is no video.
    pub(super) fn new(pid: u16, kind: TsCodec) -> Option<Self> {
        let (codec, head) = match kind {
            TsCodec::H264 => (NalCodec::H264, 5),
            TsCodec::Hevc => (NalCodec::Hevc, 8),
            _ => return None,
        };
        Some(Self {
            pid,
            codec,
            pes: PesReader::video(),
            units: UnitReader::new(codec, head),
            picture: Picture::default(),
            configured: false,
            header: None,
            start: Start::New,
            entered: 0,
            announces: false,
            held: None,
        })
    }

    /// Returns whether the picture in progress seems to be whole.
    pub(super) fn seems_whole(&self) -> bool {
        self.pes.seems_whole() && self.units.is_aligned()
    }

    /// Returns whether the picture in progress seems to be half a one: of a stream whose PES packets are pictures.
    pub(super) fn seems_cut(&self) -> bool {
        self.units.is_aligned() && !self.pes.seems_whole()
    }

    /// Returns whether pictures have come, and none with which decoding can begin.
    pub(super) fn waits(&self) -> bool {
        matches!(self.start, Start::Waits(..))
    }

    /// Returns whether pictures pass.
    pub(super) fn runs(&self) -> bool {
        matches!(self.start, Start::Leading(_) | Start::Runs)
    }

    /// Returns whether the pictures can begin with one like this, that would be decoded and shown at these times.
    fn begins(&mut self, unit: &AccessUnit, placed: i64, shown: i64, arrival: Instant) -> bool {
        let entry = unit.entry;
        let (since, first) = match self.start {
            Start::Runs => return true,
            Start::Leading(first) if shown < first => return false,
            Start::Leading(first) => {
                if shown > first {
                    self.start = Start::Runs;
                }
                return true;
            }
            Start::New => (placed, arrival),
            Start::Waits(since, first) => (since, first),
        };
        self.start = Start::Waits(since, first);
        let arrived = arrival.saturating_duration_since(first).min(Duration::from_secs(60));
        let waited = (placed - since).max(arrived.as_millis() as i64 * 90);
        let least = match waited {
            WAIT_FOR_ENTRY.. => EntryPoint::None,
            WAIT_FOR_CLEAN_ENTRY.. if !unit.sets.is_empty() => EntryPoint::None,
            WAIT_FOR_CLEAN_ENTRY.. => EntryPoint::IntraOnly,
            _ => EntryPoint::Recovery { pictures: std::cmp::Reverse(u16::MAX) },
        };
        if !self.configured || entry < least {
            return false;
        }
        let may_lead = entry.is_clean() && entry != EntryPoint::Idr;
        self.start = if may_lead { Start::Leading(shown) } else { Start::Runs };
        true
    }

    /// Returns whether a recovery point is to be announced before a picture that begins the track (`first`) or follows,
    /// so that players can start with it where the stream announces none.
    fn announces(&mut self, unit: &AccessUnit, placed: i64, first: bool) -> bool {
        if unit.entry > EntryPoint::IntraOnly {
            self.entered = placed;
            self.announces = false;
            return false;
        }
        let may_refresh = unit.entry == EntryPoint::IntraOnly || !unit.sets.is_empty();
        let least = match (self.announces, may_refresh) {
            (true, true) => ANNOUNCE_INTERVAL,
            (true, false) => WAIT_FOR_ENTRY,
            (false, true) => WITHOUT_ENTRY,
            (false, false) => i64::MAX,
        };
        if !first && placed - self.entered < least {
            return false;
        }
        self.entered = placed;
        self.announces = true;
        true
    }

    /// Makes the message of a picture.
    fn message(&self, data: Vec<u8>, is_key: bool, composition: i64) -> Vec<u8> {
        let mut body = data;
        let [_, composition @ ..] = i32::try_from(composition / 90).unwrap_or(0).to_be_bytes();
        match self.codec {
            NalCodec::H264 => {
                body[..2].copy_from_slice(&[if is_key { 0x17 } else { 0x27 }, 1]);
                body[2..5].copy_from_slice(&composition);
            }
            NalCodec::Hevc => {
                body[0] = 0x80 | if is_key { 0x10 } else { 0x20 } | 1;
                body[1..5].copy_from_slice(b"hvc1");
                body[5..8].copy_from_slice(&composition);
            }
        }
        body
    }
}

/// Returns whether a picture is half of one, at a place where the stream was cut: nothing refers to it, as decoding
/// starts anew with the next one. `last`: the last timestamp before it; `step`: the duration of a frame.
fn is_cut_off(held: &AccessUnit, next: &AccessUnit, last: Option<u64>, step: i64) -> bool {
    let jumps = || {
        let own = held.stamp.map(Stamp::decoding);
        let farthest = if own.is_some() { 4 * step } else { SECOND };
        let next = next.stamp.map(Stamp::decoding);
        own.or(last).zip(next).is_none_or(|(before, next)| !(0..=farthest).contains(&difference(next, before)))
    };
    next.entry.is_clean() && (held.doubt == Doubt::Lost || jumps())
}

impl Core {
    /// Sends the pictures that are complete.
    pub(super) fn pictures(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        let Some(track) = &mut self.video else { return };
        for unit in track.units.take() {
            let last = self.picture_timing.last.map(|(raw, _)| raw);
            let step = self.picture_timing.step();
            let Some(track) = &mut self.video else { return };
            let held = track.held.take().filter(|held| !is_cut_off(held, &unit, last, step));
            if let Some(held) = held {
                self.picture(held, arrival, out);
            }
            if unit.doubt == Doubt::None {
                self.picture(unit, arrival, out);
            } else if let Some(track) = &mut self.video {
                track.held = Some(unit);
            }
        }
    }

    /// Sends the picture in progress.
    pub(super) fn finish_pictures(&mut self, arrival: Instant, out: &mut Vec<Packet>) {
        if let Some(track) = &mut self.video {
            track.units.finish();
            self.pictures(arrival, out);
        }
        if let Some(held) = self.video.as_mut().and_then(|track| track.held.take()) {
            self.picture(held, arrival, out);
        }
    }

    fn picture(&mut self, mut unit: AccessUnit, arrival: Instant, out: &mut Vec<Packet>) {
        let Some(track) = &mut self.video else { return };
        if let Some((record, picture)) = unit.configuration.take() {
            track.picture = picture;
            self.picture_timing.expect_rate(picture.frame_rate);
            track.configured = true;
            track.header = Some(record);
        }
        if !self.timeline.has_begun() {
            let Some(stamp) = unit.stamp else { return };
            let is_entry = track.configured && unit.entry > EntryPoint::IntraOnly;
            self.begin_with_picture(stamp.decoding(), is_entry);
        }
        let epoch = self.picture_timing.time.epoch();
        let Some((placed, shown)) = self.place_picture(unit.stamp, unit.order, arrival) else { return };
        let Some(track) = &mut self.video else { return };
        let was_waiting = !track.runs();
        if track.begins(&unit, placed, shown, arrival) {
            if was_waiting {
                self.reported.change(arrival);
            }
            let announces = track.announces(&unit, placed, was_waiting);
            let is_key = unit.entry > EntryPoint::IntraOnly || announces;
            let codec = track.codec;
            let head = track.units.head();
            let mut before = Vec::new();
            let is_splice = unit.begins_sequence || was_waiting && self.record.is_some();
            let record = track.header.take();
            if let Some(record) = &record {
                let changes = self.record.replace(record.clone()).is_some_and(|old| old != *record);
                self.record_changed |= changes;
                if changes && unit.sets.is_empty() {
                    before = track.units.sets().all();
                }
            }
            // Receivers that know the first configuration alone, such as the parsers and copies of ffmpeg, read another
            // one from the stream.
            if self.record_changed {
                before.extend_from_slice(&unit.sets);
            }
            if announces {
                let recovery_point = match codec {
                    NalCodec::H264 => RECOVERY_POINT_H264,
                    NalCodec::Hevc => RECOVERY_POINT_HEVC,
                };
                append_nal(&mut before, recovery_point);
            }
            let mut data = unit.data;
            if unit.entry == EntryPoint::Cra
                && is_splice
                && let Some(nals) = data.get_mut(head..)
            {
                break_links(nals);
            }
            data.splice(head..head, before);
            let header = record.map(|record| {
                let head: &[u8] = match codec {
                    NalCodec::H264 => &[0x17, 0, 0, 0, 0],
                    NalCodec::Hevc => b"\x90hvc1",
                };
                [head, &record].concat()
            });
            let body = track.message(data, is_key, i64::from(millis(shown)) * 90 - i64::from(millis(placed)) * 90);
            let time = millis(placed);
            self.describe(time, arrival, out);
            out.extend(header.map(|header| Packet::rtmp(RtmpKind::Video, time, header, arrival)));
            out.push(Packet::rtmp(RtmpKind::Video, time, body, arrival));
        }
        if self.picture_timing.time.epoch() != epoch || self.audio.as_ref().is_some_and(|track| track.is_waiting()) {
            self.sounds(false, arrival, out);
        }
    }

    /// Begins the timeline: with the picture, if decoding can start with it, or else with the sound before it.
    fn begin_with_picture(&mut self, raw: u64, is_entry: bool) {
        let sound = self.audio.as_ref().and_then(|track| track.first_stamp());
        let before = sound.filter(|sound| !is_entry && (0..2 * SECOND).contains(&difference(raw, *sound)));
        self.timeline.begin(before.unwrap_or(raw));
    }

    /// Returns the times at which a picture is decoded and shown; `None` if it has no time.
    fn place_picture(&mut self, stamp: Option<Stamp>, order: Option<Order>, arrival: Instant) -> Option<(i64, i64)> {
        let codec = self.video.as_ref()?.codec;
        let timing = &mut self.picture_timing;
        let Some(stamp) = stamp else {
            // Between timestamps, pictures follow evenly.
            if let Some((_, count)) = &mut timing.last {
                *count += 1;
            }
            let step = timing.step();
            let last = timing.time.last()?;
            let since = timing.last.map_or(1, |(_, count)| count - 1);
            let placed = (timing.stamped + since.saturating_mul(step)).clamp(last, last + step);
            let end = timing.end;
            let ordered = order.and_then(|order| timing.order.place(codec, order, placed, step, end));
            let near = ordered.filter(|shown| (-SECOND..2 * SECOND).contains(&(shown - placed)));
            let shown = near.unwrap_or(placed + timing.delay).max(placed);
            timing.end = timing.end.max(shown);
            self.timeline.record(&mut timing.time, placed, None, arrival);
            return Some((placed, shown));
        };
        timing.explicit |= stamp.dts.is_some();
        let derived = if timing.explicit { None } else { timing.decoding.derive(stamp.pts) };
        let raw = derived.unwrap_or(stamp.decoding());
        timing.delay = difference(stamp.pts, raw).clamp(0, 10 * SECOND);
        let tolerance = timing.tolerance();
        let at = match self.timeline.locate(&mut timing.time, raw, arrival, tolerance) {
            Some(at) => {
                timing.measure(raw);
                self.timeline.lead(&mut timing.time, at);
                at
            }
            None => {
                let next = timing.time.last().map_or(self.timeline.front(), |last| last + tolerance.step);
                // No picture is shown before the last one of the old timeline.
                let shown_next = (timing.end + tolerance.step - timing.delay).min(next + SECOND);
                let at = next.max(shown_next);
                self.timeline.break_at(&mut timing.time, raw, at);
                timing.last = Some((raw, 1));
                timing.order.forget();
                timing.reorders = false;
                timing.end = at;
                if let Some(track) = &mut self.video {
                    track.units.sets().renew();
                }
                at
            }
        };
        let timing = &mut self.picture_timing;
        timing.stamped = at;
        let placed = timing.time.last().map_or(at, |last| at.max(last));
        let shown = at + timing.delay;
        timing.end = timing.end.max(shown);
        if let Some(order) = order {
            let step = timing.step();
            timing.order.learn(codec, order, at, shown, step);
        }
        self.timeline.record(&mut timing.time, placed, Some((raw, at)), arrival);
        Some((placed, shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(entry: EntryPoint, has_sets: bool) -> AccessUnit {
        AccessUnit {
            entry,
            stamp: None,
            order: None,
            doubt: Doubt::None,
            data: Vec::new(),
            sets: if has_sets { vec![0, 0, 0, 1, 7] } else { Vec::new() },
            configuration: None,
            begins_sequence: false,
        }
    }

    #[test]
    fn pictures_of_streams_without_entry_points_are_announced_again() {
        const NONE: EntryPoint = EntryPoint::None;
        let mut track = VideoTrack::new(0x100, TsCodec::Hevc).unwrap();
        let mut at =
            |second: i64, entry, has_sets| track.announces(&unit(entry, has_sets), second * SECOND, second == 0);
        assert!(at(0, NONE, true), "the first one");
        assert!(!at(2, NONE, false));
        assert!(at(2, NONE, true), "the encoder begins a refresh");
        assert!(at(4, EntryPoint::IntraOnly, false));
        assert!(!at(6, NONE, false));
        assert!(at(7, NONE, false), "it does not say where it begins");
        assert!(!at(8, EntryPoint::Idr, true), "it needs no announcement");
        assert!(!at(17, NONE, true), "perhaps a long group of pictures");
        assert!(!at(30, NONE, false), "a very long one");
        assert!(at(30, NONE, true));
    }
}
