//! FLV: timestamps that continue over reconnections and switches, and headers sent again when they differ.

use crate::{
    media::{
        Packet, RtmpKind,
        flv::{Role, Tag, composition_time},
    },
    router::{MediaBatch, Preamble},
};
use std::time::Instant;

/// Maximum step between two pictures or sounds that counts as their duration, in milliseconds.
const MAX_STEP: u32 = 200;

/// The timestamps of a flow, which continue over reconnections and switches, so that players see one stream.
#[derive(Debug, Default)]
pub(super) struct FlvTimestamps {
    /// Added to the timestamps of this connection.
    offset: u32,
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
    /// All audio of this connection so far belongs before the audio passed on.
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

impl FlvTimestamps {
    pub(super) fn join(&mut self, switched: bool) {
        self.fresh = true;
        self.switched |= switched;
        self.overlaps = self.last.is_some();
    }

    pub(super) fn apply(&mut self, delivery: &mut MediaBatch) {
        let mut doubled = Vec::new();
        for (at, packet) in delivery.packets.iter_mut().enumerate() {
            let Some((kind, timestamp)) = packet.rtmp_message() else { continue };
            let role = Tag::parse(kind, packet.data()).map(|tag| tag.role);
            let header = matches!(role, Some(Role::Header { .. }));
            let sample = role.is_some() && !header;
            self.outdated |= header;
            let composition = if kind == RtmpKind::Video && sample { composition_time(packet.data()) } else { 0 };
            let placed = self.place(timestamp, sample, composition, packet.arrival());
            if kind == RtmpKind::Video && sample {
                self.follow(placed, composition);
            }
            if placed != timestamp {
                *packet = Packet::rtmp(kind, placed, packet.data().clone(), packet.arrival());
            }
            if kind == RtmpKind::Audio && sample {
                // The audio of the last source was ahead of its pictures: what was heard is not sent again.
                let step = self.last_audio.map(|last| placed.wrapping_sub(last));
                self.overlaps &= step.is_some_and(|step| step < self.sound.max(1) || step > u32::MAX / 2);
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

    /// Returns the timestamp to pass a message on with. A stream that comes back continues where it would be had it not
    /// been away; one that takes over with earlier pictures continues at once. Its pictures are shown after all earlier
    /// ones.
    fn place(&mut self, timestamp: u32, sample: bool, composition: i32, arrival: Instant) -> u32 {
        if self.fresh {
            match self.last {
                None => self.fresh = !sample,
                // Headers come with any timestamp, often 0.
                Some((last, _)) if !sample => return last,
                Some((last, at)) => {
                    let gap = arrival.saturating_duration_since(at).as_millis();
                    let gap = u32::try_from(gap).unwrap_or(u32::MAX).max(1);
                    let mut placed = last.wrapping_add(gap);
                    if let Some((_, shown)) = self.last_video {
                        let next =
                            shown.wrapping_add(self.picture.max(1)).wrapping_add_signed(composition.wrapping_neg());
                        placed = if later(next, placed) { next } else { placed };
                    }
                    self.offset = placed.wrapping_sub(timestamp);
                    self.fresh = false;
                }
            }
        }
        let placed = timestamp.wrapping_add(self.offset);
        if sample && self.last.is_none_or(|(last, _)| placed == last || later(placed, last)) {
            self.last = Some((placed, arrival));
        }
        placed
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
            let mut delivery = MediaBatch { packets, starts: Vec::new() };
            self.timestamps.apply(&mut delivery);
            delivery.packets.iter().map(|p| p.rtmp_message().unwrap().1).collect()
        }
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
        let mut first = MediaBatch { packets, starts: vec![(0, old.clone())] };
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
        let mut second = MediaBatch { packets, starts: vec![(0, new.clone()), (4, new.clone())] };
        bench.timestamps.apply(&mut second);
        let times: Vec<u32> = second.packets.iter().map(|p| p.rtmp_message().unwrap().1).collect();
        assert_eq!(times, [51, 51, 61, 91, 131], "the header, the key frame, the sound that is new, pictures");
        assert_eq!(second.packets[0].data(), new[0].data());
        assert_eq!(second.starts.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 4]);
        bench.timestamps.join(true);
        let mut third =
            MediaBatch { packets: vec![key(&bench, 0, 80)], starts: vec![(0, preamble(&bench, &[0x17, 0, 1]))] };
        bench.timestamps.apply(&mut third);
        assert_eq!(third.packets.len(), 1, "the same headers are not sent again");
        let time = third.packets[0].rtmp_message().unwrap().1;
        assert_eq!(time, 91 + 80 + 40, "the last picture that came is shown before it");
        assert!(Arc::ptr_eq(&third.starts[0].1, &new));
    }
}
