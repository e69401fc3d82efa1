use super::*;
use crate::{
    media::{Packet, RtmpKind},
    router::{GopSegmenter, Limits, Reader},
};

const THRESHOLD: Duration = Duration::from_millis(500);

/// Test bench with two sources in virtual time, and a reader of the flow's ring.
struct Bench {
    group: Arc<SourceGroup>,
    ring: Arc<Ring>,
    reader: Reader,
    start: Instant,
    cutters: [GopSegmenter; 2],
    switches: Vec<Switch>,
}

impl Bench {
    fn new(turns: SwitchPolicy, family: MediaFamily) -> Self {
        let ring = Ring::new(Limits { bytes: 1 << 30, time: Duration::from_secs(3600) });
        ring.retain_gop(1 << 20);
        let terms = FailoverConfig { turns, loss_threshold: THRESHOLD };
        let group = SourceGroup::new(ring.clone(), Arc::default(), terms, family, 2);
        let reader = ring.reader();
        let mut cutters = [GopSegmenter::default(), GopSegmenter::default()];
        for cutter in &mut cutters {
            cutter.begin();
        }
        Self { group, ring, reader, start: Instant::now(), cutters, switches: Vec::new() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn offer(&mut self, source: usize, mut delivery: MediaBatch, ms: u64) {
        let switch = self.group.offer(source, &mut delivery, self.at(ms));
        assert!(delivery.is_empty() && delivery.starts.is_empty());
        self.switches.extend(switch);
    }

    /// Sends a frame of an encoder whose clock is `ms` plus an offset of its own. There is a key frame every second.
    fn frame(&mut self, source: usize, ms: u64) {
        let time = ms as u32 + [0, 500_000][source];
        let body = if ms.is_multiple_of(1000) { [0x17, 1, source as u8] } else { [0x27, 1, source as u8] };
        let arrival = self.at(ms);
        let mut delivery = MediaBatch::default();
        let mut give = |cutter: &mut GopSegmenter, packet: Packet| {
            if let Some(moment) = cutter.observe(&packet) {
                cutter.push(&mut delivery, packet, moment);
            }
        };
        if ms.is_multiple_of(1000) {
            let header = vec![0x17, 0, source as u8];
            give(&mut self.cutters[source], Packet::rtmp(RtmpKind::Video, time, header, arrival));
        }
        give(&mut self.cutters[source], Packet::rtmp(RtmpKind::Video, time, body.to_vec(), arrival));
        self.offer(source, delivery, ms);
    }

    fn lose(&mut self, source: usize, ms: u64) {
        let switch = self.group.lose(source, self.at(ms));
        self.switches.extend(switch);
        self.cutters[source] = GopSegmenter::default();
        self.cutters[source].begin();
    }

    /// Returns the body and the timestamp of each message that the flow received.
    fn read(&mut self) -> Vec<(Vec<u8>, u32)> {
        let mut window = Vec::new();
        self.reader.read(&mut window);
        let packets = window.iter().flat_map(|batch| batch.packets());
        packets.map(|p| (p.data().to_vec(), p.rtmp_message().map_or(0, |(_, time)| time))).collect()
    }
}

fn pictures(read: &[(Vec<u8>, u32)]) -> Vec<(u8, u32)> {
    read.iter().filter(|(body, _)| body[1] == 1).map(|(body, time)| (body[2], *time)).collect()
}

fn monotone(times: &[(u8, u32)]) -> bool {
    times.windows(2).all(|pair| pair[0].1 < pair[1].1)
}

#[test]
fn group_replaces_closed_source_at_last_key_frame() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    for ms in (0..1400).step_by(40) {
        bench.frame(0, ms);
        bench.frame(1, ms);
    }
    assert!(bench.group.is_active(0) && !bench.group.is_active(1));
    bench.read();
    bench.lose(0, 1400);
    assert_eq!(bench.switches, [Switch { from: 0, to: 1, gap: Duration::ZERO }]);
    let read = bench.read();
    assert_eq!(read[0].0, [0x17, 0, 1], "its header first: it is another");
    let seen = pictures(&read);
    assert_eq!((seen[0], seen.len()), ((1, 1400), 10), "the group of pictures since 1000 ms, one picture on");
    assert!(monotone(&seen));
    bench.frame(1, 1400);
    assert_eq!(pictures(&bench.read()), [(1, 1800)]);
    // A late player begins with the media of the new source.
    let mut window = Vec::new();
    bench.ring.reader_from_start(1 << 20).read(&mut window);
    assert_eq!(window[0].start().unwrap()[0].data()[2], 1);
    // The flow stays with the second source when the first one returns.
    for ms in (1440..4000).step_by(40) {
        bench.frame(0, ms);
        bench.frame(1, ms);
    }
    assert_eq!(bench.switches.len(), 1);
    assert!(pictures(&bench.read()).iter().all(|(source, _)| *source == 1));
}

#[test]
fn group_replaces_silent_source_after_threshold() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    for ms in (0..5000).step_by(40) {
        if ms < 2000 {
            bench.frame(0, ms);
        }
        bench.frame(1, ms);
    }
    // The last frame arrived at 1960 ms, so the source counts as lost with the first frame after 2460 ms.
    assert_eq!(bench.switches, [Switch { from: 0, to: 1, gap: Duration::from_millis(40) }]);
    let seen = pictures(&bench.read());
    let switched = seen.iter().position(|(source, _)| *source == 1).unwrap();
    assert_eq!((seen[switched - 1], seen[switched]), ((0, 1960), (1, 2000)), "it goes on with the cached key frame");
    assert!(monotone(&seen));
    assert_eq!(seen.last(), Some(&(1, 4960)));
}

#[test]
fn group_waits_for_key_frame_before_switching() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    for ms in (0..1100).step_by(40) {
        bench.frame(0, ms);
    }
    // The backup starts in the middle of a group of pictures.
    for ms in (1200..1800).step_by(40) {
        bench.frame(1, ms);
    }
    bench.frame(0, 1800);
    assert!(bench.switches.is_empty());
    for ms in (1840..2400).step_by(40) {
        bench.frame(1, ms);
    }
    assert_eq!(bench.switches.len(), 1, "with its key frame of 2000 ms, when the threshold is over");
    assert!(monotone(&pictures(&bench.read())));
}

#[test]
fn group_returns_to_preferred_source_after_hold_time() {
    let mut bench = Bench::new(SwitchPolicy::Prefer(Duration::from_millis(1500)), MediaFamily::Rtmp);
    for ms in (0..2000).step_by(40) {
        bench.frame(0, ms);
        bench.frame(1, ms);
    }
    bench.lose(0, 2000);
    for ms in (2000..7000).step_by(40) {
        if ms >= 3000 {
            bench.frame(0, ms);
        }
        bench.frame(1, ms);
    }
    assert_eq!(bench.switches.iter().map(|s| (s.from, s.to)).collect::<Vec<_>>(), [(0, 1), (1, 0)]);
    let seen = pictures(&bench.read());
    assert!(monotone(&seen));
    let back = seen.iter().rposition(|(source, _)| *source == 1).unwrap();
    // Delivering since 3000 ms, the source is due from 4500 ms on, and takes over with the key frame of 5000 ms.
    let frames_since = (seen.len() - 1 - back) as u64;
    assert_eq!(frames_since, (7000 - 5000) / 40);
}

#[test]
fn group_switches_datagrams_at_random_access_point() {
    for has_starts in [true, false] {
        let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Datagrams);
        for ms in (0..4000u64).step_by(10) {
            for source in 0..2 {
                let mut delivery = MediaBatch::default();
                if has_starts && ms.is_multiple_of(250) {
                    delivery.mark_entry_point(super::super::Preamble::from([]));
                }
                delivery.packets.push(Packet::datagram(vec![source as u8, (ms / 10) as u8], bench.at(ms)));
                if source == 1 || ms < 1000 {
                    bench.offer(source, delivery, ms);
                }
            }
        }
        assert_eq!(bench.switches.len(), 1);
        // The last datagram was at 990 ms, so the switch is due at 1500 ms, which is a random access point.
        assert_eq!(bench.switches[0].gap, Duration::from_millis(510));
        let read = bench.read();
        assert_eq!(read.len(), 100 + 250);
    }
}

#[test]
fn group_merge_takes_each_packet_from_any_path() {
    let mut bench = Bench::new(SwitchPolicy::Merge(Duration::from_millis(200)), MediaFamily::Rtp);
    for i in 0..100u16 {
        for source in 0..2 {
            // Each path loses every tenth packet, not the same ones, and both lose the 50th.
            if i % 10 == [3, 7][source] || i == 50 {
                continue;
            }
            let mut data = vec![0x80, 33];
            data.extend(i.to_be_bytes());
            data.extend([0; 8]);
            let ms = u64::from(i) * 10 + 5 * source as u64;
            let mut delivery = MediaBatch::default();
            delivery.packets.push(Packet::rtp(data, bench.at(ms)));
            bench.offer(source, delivery, ms);
        }
    }
    bench.group.finish(bench.at(2000));
    assert_eq!(bench.read().len(), 99);
    let (counts, lost) = bench.group.merged(0).unwrap();
    assert_eq!(lost, 1);
    assert!(counts.unique_packets > 0 && counts.lost > 0);
    assert!(bench.group.is_active(0) && bench.group.is_active(1));
    assert!(bench.switches.is_empty());
}

#[test]
fn group_needs_cold_backup_on_silence() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    assert!(!bench.group.is_needed(1, bench.at(400), bench.start));
    assert!(bench.group.is_needed(1, bench.at(600), bench.start));
    bench.frame(0, 1000);
    assert!(!bench.group.is_needed(1, bench.at(1400), bench.start));
    assert!(bench.group.is_needed(1, bench.at(1600), bench.start));
    bench.frame(1, 2000);
    assert!(bench.group.is_needed(1, bench.at(2100), bench.start), "it is active");
}

#[test]
fn group_merge_survives_a_dead_path() {
    let mut bench = Bench::new(SwitchPolicy::Merge(Duration::from_millis(200)), MediaFamily::Rtp);
    let mut dice = 7u32;
    let mut wanted = Vec::new();
    let mut events = Vec::new();
    for ms in 0..20_000u64 {
        let mut came = false;
        for source in 0..2 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let dead = source == 1 && (9000..11_000).contains(&ms);
            // The second path lags by 120 ms.
            if dice >> 16 >= 6554 && !dead {
                came = true;
                events.push((ms + 120 * source as u64, source, ms as u16));
            }
        }
        wanted.extend(came.then_some(ms as u16));
    }
    events.sort_by_key(|(ms, ..)| *ms);
    for (ms, source, sequence) in events {
        let mut data = vec![0x80, 33];
        data.extend(sequence.to_be_bytes());
        data.extend([0; 8]);
        let mut delivery = MediaBatch::default();
        delivery.packets.push(Packet::rtp(data, bench.at(ms)));
        bench.offer(source, delivery, ms);
    }
    bench.group.finish(bench.at(21_000));
    let read: Vec<u16> = bench.read().iter().map(|(data, _)| u16::from_be_bytes([data[2], data[3]])).collect();
    assert_eq!(read, wanted);
    let lost_on_both = 20_000 - wanted.len() as u64;
    assert!(lost_on_both > 300 && bench.group.merged(0).unwrap().1 == lost_on_both);
}

#[test]
fn group_bounds_retained_backup_media() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    bench.frame(0, 0);
    let big = |bench: &Bench, ms| {
        let body = [&[0x27, 1, 1][..], &vec![0; 1 << 20]].concat();
        Packet::rtmp(RtmpKind::Video, ms as u32, body, bench.at(ms))
    };
    // The group of pictures never ends.
    bench.frame(1, 0);
    for ms in 1..40 {
        let mut delivery = MediaBatch::default();
        delivery.packets.push(big(&bench, ms));
        bench.offer(1, delivery, ms);
        let held: u64 = bench.group.lock().paths[1].backlog.bytes();
        assert!(held <= BACKLOG);
    }
    assert!(bench.group.lock().paths[1].backlog.is_empty());
    bench.lose(0, 50);
    assert!(bench.switches.is_empty(), "there is nothing to begin with");
    bench.frame(1, 1000);
    assert_eq!(bench.switches.len(), 1, "but for its next key frame");
}

/// Empty messages count no bytes, but each takes an entry.
#[test]
fn backlog_of_empty_messages_is_bounded() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    bench.frame(0, 0);
    bench.frame(1, 0);
    for _ in 0..2 * most_packets(BACKLOG) {
        let mut delivery = MediaBatch::default();
        delivery.packets.push(Packet::rtmp(RtmpKind::Audio, 1, Vec::new(), bench.at(1)));
        bench.group.offer(1, &mut delivery, bench.at(1));
        let held = bench.group.lock().paths[1].backlog.packets.len() as u64;
        assert!(held <= most_packets(BACKLOG));
    }
    assert!(bench.group.lock().paths[1].backlog.is_empty());
}

#[test]
fn group_takes_tables_and_null_packets_for_no_media() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Datagrams);
    for ms in (0..5000u64).step_by(10) {
        for source in 0..2 {
            // The first source has tables alone at first, and again from 2000 ms on.
            let lacks_media = source == 0 && !(500..2000).contains(&ms);
            let mut delivery = MediaBatch { lacks_media, ..MediaBatch::default() };
            delivery.packets.push(Packet::datagram(vec![source as u8, u8::from(lacks_media)], bench.at(ms)));
            if source == 0 || ms > 600 {
                bench.offer(source, delivery, ms);
            }
        }
    }
    assert_eq!(bench.switches.iter().map(|s| (s.from, s.to)).collect::<Vec<_>>(), [(0, 1)]);
    let read = bench.read();
    assert_eq!(read.iter().filter(|(data, _)| data[0] == 0 && data[1] == 0).count(), 150);
    assert!(read.iter().filter(|(data, _)| data[0] == 1).count() >= 240, "from 2510 ms on");
}

#[test]
fn group_with_one_source_passes_tables() {
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
    let terms = FailoverConfig { turns: SwitchPolicy::Stay, loss_threshold: THRESHOLD };
    let group = SourceGroup::new(ring.clone(), Arc::default(), terms, MediaFamily::Datagrams, 1);
    let mut reader = ring.reader();
    let mut delivery = MediaBatch { lacks_media: true, ..MediaBatch::default() };
    delivery.packets.push(Packet::datagram(vec![0], Instant::now()));
    group.offer(0, &mut delivery, Instant::now());
    let mut window = Vec::new();
    reader.read(&mut window);
    assert_eq!(window.len(), 1);
}

/// A backup without key frames takes over after a bounded wait, and players of it start after one.
#[test]
fn group_waits_for_entry_point_for_a_bounded_time() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    let mut waits_since = None;
    let mut started = None;
    let mut late = None;
    for ms in (0..12_000u64).step_by(40) {
        if ms < 1000 {
            bench.frame(0, ms);
        }
        let packet = Packet::rtmp(RtmpKind::Video, ms as u32, vec![0x27, 1, 1], bench.at(ms));
        let mut delivery = MediaBatch::default();
        if let Some(role) = bench.cutters[1].observe(&packet) {
            bench.cutters[1].push(&mut delivery, packet, role);
            bench.offer(1, delivery, ms);
        }
        let reader =
            if ms >= 6000 { Some(late.get_or_insert_with(|| bench.ring.reader_from_start(1 << 20))) } else { None };
        let mut window = Vec::new();
        if let Some(reader) = reader {
            reader.read(&mut window);
        }
        for batch in window {
            if started.is_none() && batch.start_after(waits_since).is_some() {
                started = Some(ms);
            }
            waits_since = waits_since.or(batch.arrival());
        }
    }
    assert_eq!(bench.switches.len(), 1);
    let read = bench.read();
    let first = read.iter().position(|(body, _)| body[2] == 1).unwrap();
    // Undecodable pictures pass from 3000 ms on, and the backup is due then.
    assert!((3000..=6600).contains(&bench.switches[0].gap.as_millis()), "{:?} {first}", bench.switches);
    let started = started.unwrap();
    assert!((6000..=6000 + 3000 + 600).contains(&started), "{started}");
}

#[test]
fn group_gives_late_players_nothing_of_a_lost_source() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    for ms in (0..1400).step_by(40) {
        bench.frame(0, ms);
    }
    let mut window = Vec::new();
    bench.ring.reader_from_start(1 << 20).read(&mut window);
    assert_eq!(window.len(), 10, "the group of pictures so far");
    bench.lose(0, 1400);
    window.clear();
    let mut late = bench.ring.reader_from_start(1 << 20);
    late.read(&mut window);
    assert!(window.is_empty(), "the source is gone");
    for ms in (2000..3400).step_by(40) {
        bench.frame(0, ms);
    }
    late.read(&mut window);
    let first = window.iter().position(|batch| batch.start().is_some()).unwrap();
    assert_eq!(first, 1, "behind the headers");
    let times: Vec<u32> =
        window.iter().skip(first).flat_map(|b| b.packets()).map(|p| p.rtmp_message().unwrap().1).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]) && times[0] > 1360, "{times:?}");
}

#[test]
fn group_stays_with_the_source_chosen_by_hand_until_it_is_lost() {
    let mut bench = Bench::new(SwitchPolicy::Prefer(Duration::from_millis(100)), MediaFamily::Rtmp);
    let feed = |bench: &mut Bench, from: u64, to: u64| {
        for ms in (from..to).step_by(40) {
            bench.frame(0, ms);
            bench.frame(1, ms);
        }
    };
    feed(&mut bench, 0, 1000);
    assert!(bench.group.switch_to(1) && !bench.group.switch_to(7));
    feed(&mut bench, 1000, 4000);
    assert_eq!(bench.switches.len(), 1, "at its key frame, and the preferred source does not take over");
    assert!(bench.group.is_active(1));
    bench.lose(1, 4000);
    assert!(bench.group.is_active(0), "the choice ends with the loss of the source");
    feed(&mut bench, 4000, 6000);
    assert!(bench.group.is_active(0));
    assert!(monotone(&pictures(&bench.read())));
}

#[test]
fn group_sources_come_and_go_without_a_step_back() {
    let mut bench = Bench::new(SwitchPolicy::Stay, MediaFamily::Rtmp);
    for ms in (0..1000).step_by(40) {
        bench.frame(0, ms);
    }
    assert_eq!(bench.group.remove(1, bench.at(1000)), None, "it never had media");
    for ms in (1000..2000).step_by(40) {
        bench.frame(0, ms);
    }
    assert_eq!(bench.group.add(0), Some(2), "a number is never used again");
    // The only source had media until now, so the new one does not take over.
    let newcomer = |bench: &mut Bench, ms: u64| {
        let packet = Packet::rtmp(RtmpKind::Video, ms as u32 - 2000, vec![0x17, 1, 2], bench.at(ms));
        let mut delivery = MediaBatch::default();
        let mut cutter = GopSegmenter::default();
        cutter.begin();
        for packet in [Packet::rtmp(RtmpKind::Video, 0, vec![0x17, 0, 2], bench.at(ms)), packet] {
            if let Some(moment) = cutter.observe(&packet) {
                cutter.push(&mut delivery, packet, moment);
            }
        }
        bench.offer(2, delivery, ms);
    };
    newcomer(&mut bench, 2000);
    assert!(bench.group.is_active(0) && bench.switches.is_empty());
    let switch = bench.group.remove(0, bench.at(2040)).unwrap();
    assert_eq!((switch.from, switch.to), (0, 2));
    newcomer(&mut bench, 2080);
    bench.frame(0, 2120);
    let seen = pictures(&bench.read());
    assert!(seen.iter().any(|(source, _)| *source == 2) && monotone(&seen), "{seen:?}");
    assert_eq!(bench.group.add(0), Some(3));
}

#[test]
fn group_merge_takes_and_drops_paths() {
    let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(3600) });
    let mut reader = ring.reader();
    let terms = FailoverConfig { turns: SwitchPolicy::Merge(Duration::from_millis(100)), loss_threshold: THRESHOLD };
    let group = SourceGroup::new(ring, Arc::default(), terms, MediaFamily::Rtp, 1);
    let start = Instant::now();
    let give = |source: usize, sequence: u16, ms: u64| {
        let now = start + Duration::from_millis(ms);
        let mut data = vec![0x80, 33];
        data.extend(sequence.to_be_bytes());
        data.extend([0, 0, 0, 1, 0, 0, 0, 7]);
        let mut delivery = MediaBatch { packets: vec![Packet::rtp(data, now)], ..MediaBatch::default() };
        group.offer(source, &mut delivery, now);
    };
    give(0, 1, 0);
    let second = group.add(1).unwrap();
    for (source, sequence) in [(0, 2), (second, 2), (second, 3), (second, 4), (0, 5), (second, 5)] {
        give(source, sequence, u64::from(sequence));
    }
    group.remove(0, start + Duration::from_millis(10));
    let third = group.add(1).unwrap();
    for sequence in 6..10 {
        give(third, sequence, u64::from(sequence) + 10);
    }
    give(0, 10, 30);
    let mut window = Vec::new();
    reader.read(&mut window);
    let packets = window.iter().flat_map(|batch| batch.packets());
    let sequences: Vec<u16> = packets.map(|p| u16::from_be_bytes([p.data()[2], p.data()[3]])).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7, 8, 9], "a removed source brings nothing");
    for _ in 0..crate::router::MAX_PATHS - 2 {
        assert!(group.add(9).is_some());
    }
    assert_eq!(group.add(9), None, "as many paths as there are bits");
}
