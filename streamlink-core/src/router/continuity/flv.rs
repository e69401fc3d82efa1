//! FLV: timestamps that continue over reconnections, switches and steps of the encoder's clock, and headers sent again
//! when they differ.
//!
//! An encoder that starts again on its connection, or a file that loops, steps back; a clock that is set steps forward,
//! by hours at times. Each such step begins another timeline, which continues the one before. Pictures and sound step
//! at about the same time, and then share the timeline, so that they stay together.

use crate::{
    media::{
        Packet, RtmpKind,
        entry_point::{LengthPrefixedNals, break_links},
        flv::{Codec, Role, Tag},
    },
    router::{MediaBatch, Preamble},
};
use std::time::Instant;

/// Maximum step between two pictures or sounds that counts as their duration, in milliseconds.
const MAX_STEP: u32 = 200;
/// Maximum step back within one timeline, in milliseconds: decoding times are in order, save for an encoder's jitter.
const MAX_BACK: i64 = 100;
/// Maximum step forward beyond the time that has passed, in milliseconds, within one timeline.
const MAX_AHEAD: i64 = 3000;
/// Time without a message of a track, in milliseconds, after which a new timeline is placed by the time that has passed.
const PAUSE: u32 = 500;
/// Maximum number of tracks that are followed.
const MAX_TRACKS: usize = 16;

/// A track, as it was last seen.
#[derive(Debug)]
struct Track {
    kind: RtmpKind,
    number: u8,
    timeline: u64,
    /// Added to its timestamps.
    offset: u32,
    /// Last timestamp as it came, and as it was passed on.
    input: u32,
    placed: u32,
    arrival: Instant,
    /// The step between its last two messages.
    step: u32,
}

/// The timestamps of a flow, which continue over reconnections and switches, so that players see one stream.
#[derive(Debug, Default)]
pub(super) struct FlvTimestamps {
    /// Number of the timeline.
    timeline: u64,
    /// Added to the timestamps of this timeline.
    offset: u32,
    /// The latest timestamp of this timeline as it came, and its arrival.
    input: Option<(u32, Instant)>,
    /// Tracks of this connection.
    tracks: Vec<Track>,
    /// The latest timestamp passed on, and the arrival time of its message.
    last: Option<(u32, Instant)>,
    /// The latest audio timestamp.
    last_audio: Option<u32>,
    /// The longest step between two audio messages.
    sound: u32,
    /// The last video timestamp, and the latest presentation time.
    last_video: Option<(u32, u32)>,
    /// The step between the last two pictures.
    picture: u32,
    /// No sample has arrived on this connection.
    fresh: bool,
    /// No picture has arrived on this connection, which continues another one.
    splices: bool,
    /// All audio of this timeline so far belongs before the audio passed on.
    overlaps: bool,
    /// The headers of another source come with the next entry point.
    switched: bool,
    /// The headers that players have.
    preamble: Option<Preamble>,
    /// Headers have arrived since.
    outdated: bool,
}

fn later(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// Returns the signed distance from one timestamp to another, modulo 2^32.
fn distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from) as i32)
}

/// Returns the time that has passed, in milliseconds.
fn elapsed(since: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u32::MAX)
}

impl FlvTimestamps {
    pub(super) fn join(&mut self, switched: bool) {
        self.fresh = true;
        self.switched |= switched;
        self.overlaps = self.last.is_some();
        self.splices = self.last_video.is_some();
        self.tracks.clear();
        self.input = None;
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        let mut doubled = Vec::new();
        for (at, packet) in delivery.packets.iter_mut().enumerate() {
            let Some((kind, timestamp)) = packet.rtmp_message() else { continue };
            let tag = Tag::parse(kind, packet.data());
            let header = tag.is_some_and(|tag| matches!(tag.role, Role::Header { .. }));
            self.outdated |= header;
            let placed = match tag.filter(|_| !header) {
                Some(tag) => {
                    let placed = self.place(kind, &tag, timestamp, packet.arrival());
                    if kind == RtmpKind::Video {
                        self.follow(placed, tag.composition);
                    }
                    placed
                }
                None => self.place_beside(timestamp),
            };
            if self.splices
                && kind == RtmpKind::Video
                && let Some(tag) = tag.filter(|tag| matches!(tag.role, Role::Key | Role::Sample))
            {
                self.splices = false;
                if let Some(body) = broken_link(&tag, packet.data()) {
                    *packet = Packet::rtmp(kind, timestamp, body, packet.arrival());
                }
            }
            if placed != timestamp {
                *packet = Packet::rtmp(kind, placed, packet.data().clone(), packet.arrival());
            }
            if kind == RtmpKind::Audio && tag.is_some() && !header {
                // The audio of the last timeline was ahead of its pictures: what was heard is not sent again.
                let step = self.last_audio.map(|last| placed.wrapping_sub(last));
                self.overlaps &= step.is_some_and(|step| step < (self.sound / 2).max(1) || step > u32::MAX / 2);
                if self.overlaps {
                    doubled.push(at);
                    continue;
                }
                self.sound = step.filter(|step| *step <= MAX_STEP).unwrap_or_default().max(self.sound);
                self.last_audio = Some(placed);
            }
        }
        for at in doubled.into_iter().rev() {
            delivery.remove(at);
        }
        self.headers(delivery);
    }

    /// Returns the timestamp to pass a header or a data message on with: they come with any, often 0.
    fn place_beside(&self, timestamp: u32) -> u32 {
        let Some((last, _)) = self.last else { return timestamp };
        let near = |(input, _)| distance(input, timestamp).abs() <= MAX_AHEAD;
        if self.fresh || !self.input.is_some_and(near) { last } else { timestamp.wrapping_add(self.offset) }
    }

    /// Returns the timestamp to pass a sample on with.
    fn place(&mut self, kind: RtmpKind, tag: &Tag, timestamp: u32, arrival: Instant) -> u32 {
        let number = tag.track.unwrap_or_default();
        let composition = if kind == RtmpKind::Video { tag.composition } else { 0 };
        if std::mem::take(&mut self.fresh) {
            self.begin(timestamp, composition, arrival);
        }
        let found = self.tracks.iter().position(|track| track.kind == kind && track.number == number);
        if let Some(at) = found {
            self.follow_steps(at, timestamp, composition, arrival);
        }
        let (timeline, offset) =
            found.and_then(|at| self.tracks.get(at)).map_or((self.timeline, self.offset), |t| (t.timeline, t.offset));
        let mut placed = timestamp.wrapping_add(offset);
        if timeline == self.timeline && self.input.is_none_or(|(input, _)| distance(input, timestamp) >= 0) {
            self.input = Some((timestamp, arrival));
        }
        let full = self.tracks.len() >= MAX_TRACKS;
        match found.and_then(|at| self.tracks.get_mut(at)) {
            Some(track) => {
                let step = timestamp.wrapping_sub(track.input);
                if (1..=MAX_STEP).contains(&step) {
                    track.step = step;
                }
                track.input = timestamp;
                track.arrival = arrival;
                track.placed = placed;
            }
            None if !full => {
                self.tracks.push(Track { kind, number, timeline, offset, input: timestamp, placed, arrival, step: 0 });
            }
            None => placed = timestamp.wrapping_add(self.offset),
        }
        if self.last.is_none_or(|(last, _)| placed == last || later(placed, last)) {
            self.last = Some((placed, arrival));
        }
        placed
    }

    /// Begins the timeline of a connection. A stream that comes back continues where it would be had it not been away;
    /// one that takes over with earlier pictures continues at once. Its pictures are shown after all earlier ones.
    fn begin(&mut self, timestamp: u32, composition: i32, arrival: Instant) {
        self.timeline += 1; // one a connection or step: it cannot overflow
        let Some((last, at)) = self.last else { return };
        let placed = last.wrapping_add(elapsed(at, arrival).max(1));
        self.offset = self.after_pictures(placed, composition).wrapping_sub(timestamp);
    }

    /// Returns the time of a sample that is shown after all pictures that were passed on.
    fn after_pictures(&self, placed: u32, composition: i32) -> u32 {
        let Some((_, shown)) = self.last_video else { return placed };
        let next = shown.wrapping_add(self.picture.max(1)).wrapping_add_signed(composition.wrapping_neg());
        if later(next, placed) { next } else { placed }
    }

    /// Moves a track to another timeline if its clock has stepped.
    fn follow_steps(&mut self, at: usize, timestamp: u32, composition: i32, arrival: Instant) {
        let Some(track) = self.tracks.get(at) else { return };
        let step = distance(track.input, timestamp);
        let passed = i64::from(elapsed(track.arrival, arrival));
        // Another track may have brought what this one has paused for.
        let ahead = self
            .input
            .map_or(step, |(input, at)| distance(input, timestamp) - i64::from(elapsed(at, arrival)) + passed);
        let behind_others = track.timeline != self.timeline;
        let is_step = step < -MAX_BACK || (step > passed + MAX_AHEAD && (behind_others || ahead > passed + MAX_AHEAD));
        if behind_others {
            let new = self.input.map_or(i64::MAX, |(input, _)| distance(input, timestamp).abs());
            let old = (step - i64::from(track.step)).abs();
            if new < old && new <= MAX_AHEAD {
                self.join_timeline(at, timestamp);
                return;
            }
        }
        if !is_step {
            return;
        }
        let gap = elapsed(track.arrival, arrival);
        let gap = if gap > track.step.saturating_add(PAUSE) { gap } else { track.step.max(1) };
        let mut placed = track.placed.wrapping_add(gap);
        if track.kind == RtmpKind::Video {
            placed = self.after_pictures(placed, composition);
        }
        self.timeline += 1; // one a step: it cannot overflow
        self.offset = placed.wrapping_sub(timestamp);
        self.input = None;
        self.overlaps = true;
        self.join_timeline(at, timestamp);
    }

    /// Moves a track to the timeline that others have moved to. It does not go back there.
    fn join_timeline(&mut self, at: usize, timestamp: u32) {
        let Self { timeline, offset, tracks, .. } = self;
        let Some(track) = tracks.get_mut(at) else { return };
        track.timeline = *timeline;
        let missing = distance(timestamp.wrapping_add(*offset), track.placed.wrapping_add(1));
        if track.kind == RtmpKind::Video && missing > 0 {
            *offset = offset.wrapping_add(missing as u32); // above 0 and below 2^31
        }
        for track in tracks.iter_mut().filter(|track| track.timeline == *timeline) {
            track.offset = *offset;
        }
    }

    /// Records the timestamps of a picture.
    fn follow(&mut self, placed: u32, composition: i32) {
        let shown = placed.wrapping_add_signed(composition);
        let (before, latest) = self.last_video.unwrap_or((placed, shown));
        let step = placed.wrapping_sub(before);
        if (1..=MAX_STEP).contains(&step) {
            self.picture = step;
        }
        self.last_video = Some((placed, if later(shown, latest) { shown } else { latest }));
    }

    /// Replaces headers that players already have by the same allocation, so that they are not sent again. After a
    /// switch, headers that differ are also inserted into the stream.
    fn headers(&mut self, delivery: &mut MediaBatch) {
        let mut resend = None;
        for (_, preamble) in &mut delivery.fallbacks {
            if let Some(known) = self.preamble.clone().filter(|known| same_headers(known, preamble)) {
                *preamble = known;
            }
        }
        for (at, preamble) in &mut delivery.starts {
            let known = self.preamble.clone().filter(|known| same_headers(known, preamble));
            let differs = known.is_none() || self.outdated;
            *preamble = known.unwrap_or_else(|| preamble.clone());
            self.preamble = Some(preamble.clone());
            if std::mem::take(&mut self.switched) && differs {
                resend = Some((*at, preamble.clone()));
            }
            self.outdated = false;
        }
        if let Some((at, preamble)) = resend {
            let time = delivery.packets.get(at).and_then(Packet::rtmp_message).map_or(0, |(_, time)| time);
            let again = preamble.iter().filter_map(|header| {
                let (kind, _) = header.rtmp_message()?;
                Some(Packet::rtmp(kind, time, header.data().clone(), header.arrival()))
            });
            delivery.insert(at, again);
        }
    }
}

/// Returns the message of a picture of HEVC with its link broken, if that picture is a clean random access one.
fn broken_link(tag: &Tag, body: &[u8]) -> Option<Vec<u8>> {
    if !matches!(tag.codec, Codec::LegacyVideo(12) | Codec::FourCc([b'h', b'v', b'c', b'1'])) {
        return None;
    }
    // Nearly all lengths have four bytes; others are not taken for such.
    let nals = LengthPrefixedNals::new(body.get(tag.data_at..)?, 4);
    let length: usize = nals.map(|nal| 4 + nal.len()).sum();
    if tag.data_at + length != body.len() {
        return None;
    }
    let mut body = body.to_vec();
    break_links(body.get_mut(tag.data_at..)?).then_some(body)
}

fn same_headers(a: &[Packet], b: &[Packet]) -> bool {
    let kind = |packet: &Packet| packet.rtmp_message().map(|(kind, _)| kind);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| kind(a) == kind(b) && a.data() == b.data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    const VIDEO: &[u8] = &[0x27, 1];
    const KEY: &[u8] = &[0x17, 1];
    const VIDEO_HEADER: &[u8] = &[0x17, 0];
    const AUDIO: &[u8] = &[0xaf, 1];

    struct Bench {
        timestamps: FlvTimestamps,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { timestamps: FlvTimestamps::default(), start: Instant::now() }
        }

        fn packet(&self, kind: RtmpKind, time: u32, body: &'static [u8], ms: u64) -> Packet {
            Packet::rtmp(kind, time, body, self.start + Duration::from_millis(ms))
        }

        fn times(&mut self, packets: Vec<Packet>) -> Vec<u32> {
            let mut delivery = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
            self.timestamps.apply(&mut delivery);
            delivery.packets.iter().map(|p| p.rtmp_message().unwrap().1).collect()
        }
    }

    #[test]
    fn flv_picture_of_hevc_that_takes_over_has_a_broken_link() {
        const CRA: &[u8] = b"\x93hvc1\0\0\0\x02\x4e\x01\0\0\0\x03\x2a\x01\xd0";
        const BROKEN: &[u8] = b"\x93hvc1\0\0\0\x02\x4e\x01\0\0\0\x03\x20\x01\xd0";
        const SHORT: &[u8] = b"\x93hvc1\0\0\0\x02\x4e\x01\0\0\0\x04\x2a\x01\xd0";
        let mut bench = Bench::new();
        let mut bodies = |bodies: &[&'static [u8]], ms| {
            bench.timestamps.join(ms > 0);
            let packets = bodies.iter().map(|body| bench.packet(RtmpKind::Video, 0, body, ms)).collect();
            let mut delivery = MediaBatch { packets, ..MediaBatch::default() };
            bench.timestamps.apply(&mut delivery);
            delivery.packets.iter().map(|packet| packet.data().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(bodies(&[CRA, CRA], 0), [CRA, CRA], "the first connection");
        assert_eq!(bodies(&[b"\x90hvc1\x01", CRA, CRA], 40), [b"\x90hvc1\x01", BROKEN, CRA]);
        assert_eq!(bodies(&[SHORT, CRA], 80), [SHORT, CRA], "damaged");
        assert_eq!(bodies(&[KEY, CRA], 120), [KEY, CRA]);
    }

    #[test]
    fn flv_timestamps_continue_over_reconnections_and_wrap() {
        let mut bench = Bench::new();
        bench.timestamps.join(false);
        let video = |bench: &Bench, time, ms| bench.packet(RtmpKind::Video, time, VIDEO, ms);
        let header = |bench: &Bench, ms| bench.packet(RtmpKind::Video, 0, VIDEO_HEADER, ms);
        let first =
            vec![header(&bench, 0), video(&bench, u32::MAX - 9, 0), video(&bench, 30, 40), video(&bench, 20, 40)];
        assert_eq!(bench.times(first), [0, u32::MAX - 9, 30, 20], "the first connection is not altered, and wraps");
        bench.timestamps.join(false);
        let second = vec![header(&bench, 500), video(&bench, 7000, 540), video(&bench, 7040, 580)];
        assert_eq!(bench.times(second), [30, 530, 570]);
        bench.timestamps.join(false);
        let third = vec![video(&bench, 0, 580)];
        assert_eq!(bench.times(third), [610], "a picture on");
    }

    #[test]
    fn flv_switch_repeats_no_audio_and_resends_headers() {
        let mut bench = Bench::new();
        let preamble = |bench: &Bench, body| -> Preamble { Arc::new([bench.packet(RtmpKind::Video, 0, body, 0)]) };
        let old = preamble(&bench, VIDEO_HEADER);
        let new = preamble(&bench, &[0x17, 0, 1]);
        let (key, sound) = (|bench: &Bench, t, ms| bench.packet(RtmpKind::Video, t, KEY, ms), RtmpKind::Audio);
        let packets = vec![key(&bench, 0, 0), bench.packet(sound, 50, AUDIO, 0)];
        let mut first = MediaBatch { packets, starts: vec![(0, old.clone())], ..MediaBatch::default() };
        bench.timestamps.apply(&mut first);
        bench.timestamps.join(true);
        // From the GOP cache: a picture that came before the last one of the old source.
        let packets = vec![
            key(&bench, 9000, 0),
            bench.packet(sound, 8990, AUDIO, 0),
            bench.packet(sound, 9010, AUDIO, 0),
            bench.packet(RtmpKind::Video, 9040, &[0x27, 1, 0, 0, 80], 40),
            key(&bench, 9080, 80),
        ];
        let mut second =
            MediaBatch { packets, starts: vec![(0, new.clone()), (4, new.clone())], ..MediaBatch::default() };
        bench.timestamps.apply(&mut second);
        let times: Vec<u32> = second.packets.iter().map(|p| p.rtmp_message().unwrap().1).collect();
        assert_eq!(times, [51, 51, 61, 91, 131], "the header, the key frame, the sound that is new, pictures");
        assert_eq!(second.packets[0].data(), new[0].data());
        assert_eq!(second.starts.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 4]);
        bench.timestamps.join(true);
        let mut third = MediaBatch {
            packets: vec![key(&bench, 0, 80)],
            starts: vec![(0, preamble(&bench, &[0x17, 0, 1]))],
            ..MediaBatch::default()
        };
        bench.timestamps.apply(&mut third);
        assert_eq!(third.packets.len(), 1, "the same headers are not sent again");
        let time = third.packets[0].rtmp_message().unwrap().1;
        assert_eq!(time, 91 + 80 + 40, "the last picture that came is shown before it");
        assert!(Arc::ptr_eq(&third.starts[0].1, &new));
    }

    /// An encoder with 25 pictures of 40 ms and sound of 23 and 24 ms a second, whose clock steps.
    /// `clock`: its timestamps at a time in milliseconds. Returns pictures and sound as passed on: (kind, time, true time).
    fn run(seconds: u64, clock: impl Fn(u64) -> u32) -> Vec<(RtmpKind, u32, u64)> {
        let mut bench = Bench::new();
        bench.timestamps.join(false);
        let mut events: Vec<(u64, RtmpKind)> = (0..seconds * 25).map(|i| (40 * i, RtmpKind::Video)).collect();
        events.extend((0..seconds * 1000 * 48 / 1024).map(|i| (i * 1024 / 48, RtmpKind::Audio)));
        events.sort_by_key(|(ms, kind)| (*ms, *kind == RtmpKind::Audio));
        let mut out = Vec::new();
        for (ms, kind) in events {
            let body = if kind == RtmpKind::Audio { AUDIO } else { VIDEO };
            let jitter = ms * 7919 % 15; // of its arrival
            let packets = vec![bench.packet(kind, clock(ms), body, ms + jitter)];
            out.extend(bench.times(packets).into_iter().map(|time| (kind, time, ms)));
        }
        out
    }

    fn assert_even(out: &[(RtmpKind, u32, u64)], what: &str) {
        let (_, first, start) = out[0];
        for (kind, time, ms) in out {
            let error = i64::from(time.wrapping_sub(first) as i32) - (*ms - start) as i64;
            assert!(error.abs() < 40, "{what}: {kind:?} at {ms} ms is off by {error} ms");
        }
        for kind in [RtmpKind::Video, RtmpKind::Audio] {
            let times: Vec<u32> = out.iter().filter(|(other, ..)| *other == kind).map(|(_, time, _)| *time).collect();
            assert!(times.windows(2).all(|pair| later(pair[1], pair[0])), "{what}: {kind:?} goes back");
        }
    }

    #[test]
    fn flv_timestamps_go_on_evenly_over_steps_of_the_clock() {
        for step in [-100_000i32, -9000, -2900, -1000, -200, 4000, 3_600_000, 40_000_000, i32::MAX, i32::MIN] {
            let out = run(20, |ms| {
                let time = 1_000_000u32.wrapping_add(ms as u32);
                if ms < 10_007 { time } else { time.wrapping_add_signed(step) }
            });
            assert_even(&out, &format!("step by {step}"));
        }
    }

    #[test]
    fn flv_timestamps_go_on_evenly_over_loops_and_wraps() {
        assert_even(&run(60, |ms| (ms % 3000) as u32), "a file of 3 s that loops");
        assert_even(&run(20, |ms| ms as u32 % (1 << 13)), "a clock that wraps early");
        assert_even(&run(20, |ms| (u32::MAX - 9000).wrapping_add(ms as u32)), "32 bits");
        let out = run(20, |ms| (u32::MAX - 9000).wrapping_add(ms as u32));
        assert_eq!(out[0].1, u32::MAX - 9000, "nothing is altered without need");
    }

    #[test]
    fn flv_timestamps_keep_pauses_and_slow_pictures() {
        let mut bench = Bench::new();
        bench.timestamps.join(false);
        let video = |bench: &Bench, time, ms| bench.packet(RtmpKind::Video, time, VIDEO, ms);
        let packets = vec![video(&bench, 0, 0), video(&bench, 40, 40), video(&bench, 60_040, 60_040)];
        assert_eq!(bench.times(packets), [0, 40, 60_040], "an encoder that pauses");
        let packets = vec![video(&bench, 62_040, 60_041), video(&bench, 64_040, 60_042)];
        assert_eq!(bench.times(packets), [62_040, 64_040], "a picture each two seconds, at once");
    }

    #[test]
    fn flv_timestamps_show_pictures_in_order_over_a_step() {
        // Decoding order I P B B.
        let compositions = [80u8, 160, 40, 40];
        let mut bench = Bench::new();
        bench.timestamps.join(false);
        let mut shown = Vec::new();
        let mut decoded = Vec::new();
        for i in 0..400u64 {
            let composition = compositions[i as usize % 4];
            let body: &'static [u8] = Box::leak(vec![0x27, 1, 0, 0, composition].into());
            let time = if i < 200 { 50_000 + 40 * i as u32 } else { 40 * (i - 200) as u32 };
            let packets = vec![bench.packet(RtmpKind::Video, time, body, 40 * i)];
            let time = bench.times(packets)[0];
            decoded.push(time);
            shown.push((time + u32::from(composition), i / 200));
        }
        assert!(decoded.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 120), "{decoded:?}");
        shown.sort();
        assert!(shown.windows(2).all(|pair| pair[0].1 <= pair[1].1), "a picture is shown before one of the first run");
        assert!(shown.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
