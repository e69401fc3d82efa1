//! Streams that change in mid-stream, that are joined late, and that hold what is not carried.

use super::{
    forge::{
        AUDIO_PID, PACKET, TestProgram, VIDEO_PID, pes_start, pid, retable, shift, sound_packets, tables, thin_stamps,
        unalign,
    },
    *,
};
use crate::media::{LeftOut, MediaTrack};
use std::time::Duration;

const PLAIN: &[TestProgram<'_>] = &[(1, 0x1000, &[(0x1b, 0x100), (0x0f, 0x101)])];

fn headers(packets: &[Packet], wanted: RtmpKind) -> usize {
    let is_header = |p: &&Packet| {
        let Some((kind, _)) = p.rtmp_message() else { return false };
        kind == wanted && Tag::parse(kind, p.data()).is_some_and(|t| matches!(t.role, Role::Header { .. }))
    };
    packets.iter().filter(is_header).count()
}

fn metadata(packets: &[Packet]) -> usize {
    packets.iter().filter(|p| p.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Data)).count()
}

/// Checks that pictures follow each other by a frame, and that no frame of sound is missing or doubled.
fn check_even(out: &[Packet], context: &str) {
    let video = times(out, RtmpKind::Video);
    let audio = times(out, RtmpKind::Audio);
    for step in video.windows(2).map(|w| w[1] - w[0]) {
        assert!((1..80).contains(&step), "{context}: {step} {video:?}");
    }
    for step in audio.windows(2).map(|w| w[1] - w[0]) {
        assert!((1..64).contains(&step), "{context}: {step} {audio:?}");
    }
}

fn selections(parts: &[&[u8]]) -> (Vec<selection::Selection>, Vec<MediaTrack>, Vec<Packet>) {
    let mut remuxer = Remuxer::new();
    let mut out = Vec::new();
    let mut told = Vec::new();
    let mut now = Instant::now();
    for payload in parts.concat().chunks(1316) {
        now += Duration::from_millis(2);
        remuxer.push(payload, now, &mut out);
        told.extend(remuxer.selection());
    }
    remuxer.finish(now, &mut out);
    told.extend(remuxer.selection());
    let tracks = remuxer.tracks(now);
    (told, tracks, out)
}

#[test]
fn remux_follows_moved_pids_with_the_same_version() {
    let first = retable(&clip(), PLAIN, &[]);
    for (map, video, audio) in [(0x1000, 0x200, 0x201), (0x30, 0x100, 0x101), (0x31, 0x101, 0x100)] {
        let moved = [(VIDEO_PID, video), (AUDIO_PID, audio)];
        let second = retable(&clip(), &[(1, map, &[(0x1b, video), (0x0f, audio)])], &moved);
        let (told, _, out) = selections(&[&first, &second]);
        let names: Vec<_> = told.iter().map(|s| (s.carried.join(", "), s.left_out.len())).collect();
        let name = |video: u16, audio: u16| (format!("H.264 (PID {video}), AAC (PID {audio})"), 0);
        let mut wanted = vec![name(0x100, 0x101), name(video, audio)];
        wanted.dedup();
        assert_eq!(names, wanted, "{map:x} {video:x}");
        assert_eq!(times(&out, RtmpKind::Video).len(), 250, "{map:x} {video:x}");
        check_even(&out, &format!("{map:x} {video:x}"));
        if wanted.len() > 1 {
            assert_eq!((headers(&out, RtmpKind::Video), headers(&out, RtmpKind::Audio)), (2, 2));
        }
    }
}

/// Returns the number of a large picture of the clip, and the position of its middle.
fn large_picture(clip: &[u8]) -> (usize, usize) {
    let place = |number| pes_start(clip, VIDEO_PID, number);
    let number = (26..100).max_by_key(|number| place(number + 1) - place(*number)).unwrap();
    (number, place(number) + (place(number + 1) - place(number)) / 2 / PACKET * PACKET)
}

#[test]
fn remux_drops_half_a_picture_before_a_key_frame() {
    let clip = clip();
    let (number, middle) = large_picture(&clip);
    let (_, out) = remux(&[&clip[..middle], &clip].concat(), 1316);
    assert_eq!(times(&out, RtmpKind::Video).len(), number + 125);
    let steps: Vec<u32> = times(&out, RtmpKind::Video).windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps.iter().all(|step| (39..=81).contains(step)), "{steps:?}");
    // Nor does it pass where the next stream happens to go on with the counter and, nearly, with the time.
    let mut next = clip.clone();
    let counter = |stream: &[u8], at: usize| stream[at + 3] & 0x0f;
    let before = clip[..middle].chunks_exact(PACKET).rev().find(|p| pid(p) == VIDEO_PID).unwrap()[3] & 0x0f;
    let first = pes_start(&next, VIDEO_PID, 0);
    let shift_by = (before + 1).wrapping_sub(counter(&next, first)) & 0x0f;
    for packet in next.chunks_exact_mut(PACKET).filter(|p| pid(p) == VIDEO_PID) {
        packet[3] = packet[3] & 0xf0 | (packet[3] + shift_by) & 0x0f;
    }
    shift(&mut next, number as i64 * 3600 + 27_000);
    let (_, out) = remux(&[&clip[..middle], &next].concat(), 1316);
    assert_eq!(times(&out, RtmpKind::Video).len(), number + 125);
    // Nor does it pass where the flow ends there.
    let (_, out) = remux(&clip[..middle], 1316);
    assert_eq!(times(&out, RtmpKind::Video).len(), number);
    // A loss elsewhere costs no picture.
    let lossy = [&clip[..middle], &clip[middle + PACKET..]].concat();
    assert_eq!(times(&remux(&lossy, 1316).1, RtmpKind::Video).len(), 125);
}

#[test]
fn remux_begins_a_new_stream_with_a_key_frame() {
    let clip = clip();
    let (number, middle) = large_picture(&clip);
    let mut remuxer = Remuxer::new();
    let mut first = Vec::new();
    let mut second = Vec::new();
    let now = Instant::now();
    remuxer.push(&clip[..middle], now, &mut first);
    remuxer.cut(now, &mut first);
    assert_eq!(times(&first, RtmpKind::Video).len(), number);
    // The encoder is joined in the middle of a group of pictures.
    remuxer.push(&clip[pes_start(&clip, VIDEO_PID, 10)..], now, &mut second);
    remuxer.finish(now, &mut second);
    let tags: Vec<_> =
        second.iter().filter(|p| p.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Video)).collect();
    let roles: Vec<_> = tags.iter().filter_map(|p| Tag::parse(RtmpKind::Video, p.data())).map(|tag| tag.role).collect();
    assert!(matches!(roles[..2], [Role::Header { .. }, Role::Key]), "{roles:?}");
    assert_eq!(headers(&second, RtmpKind::Audio), 1);
    first.extend(second);
    assert!(times(&first, RtmpKind::Video).is_sorted() && times(&first, RtmpKind::Audio).is_sorted());
}

#[test]
fn remux_follows_programs_that_come_and_go() {
    let only_video: &[TestProgram<'_>] = &[(1, 0x1000, &[(0x1b, 0x100)])];
    let first = retable(&clip(), only_video, &[]);
    let second = retable(&clip(), PLAIN, &[]);
    let third = retable(&clip(), &[(7, 0x1007, &[(0x1b, 0x100), (0x0f, 0x101)])], &[]);
    let (told, _, out) = selections(&[&first, &second, &first, &third]);
    let carried: Vec<_> = told.iter().map(|selection| selection.carried.len()).collect();
    assert_eq!(carried, [1, 2, 1, 2]);
    assert_eq!(times(&out, RtmpKind::Video).len(), 500);
    let audio = times(&out, RtmpKind::Audio).len();
    assert!((450..=480).contains(&audio), "{audio}");
    assert!(metadata(&out) >= 4, "{}", metadata(&out));
    assert!(times(&out, RtmpKind::Video).is_sorted() && times(&out, RtmpKind::Audio).is_sorted());
}

#[test]
fn remux_times_go_on_over_clock_steps() {
    let (_, plain) = remux(&clip(), 1316);
    let plain = [times(&plain, RtmpKind::Video), times(&plain, RtmpKind::Audio)];
    for step in [-90_000 * 8, -90_000 * 3, -27_000, -9_000, 45_000, 90_000 * 5, 90_000 * 3600] {
        for number in [40, 50, 63] {
            let mut stepped = clip();
            let cut = pes_start(&stepped, VIDEO_PID, number);
            shift(&mut stepped[cut..], step);
            let (_, out) = remux(&stepped, 1316);
            let context = format!("{step} at {number}");
            check_even(&out, &context);
            for (kind, plain) in [RtmpKind::Video, RtmpKind::Audio].into_iter().zip(&plain) {
                let got = times(&out, kind);
                assert!(got.len() + 1 >= plain.len() && got.len() <= plain.len(), "{context}: {}", got.len());
                let last = got.last().unwrap().abs_diff(*plain.last().unwrap());
                assert!(last < 80, "{context} {kind:?}: {last} ms");
            }
        }
    }
}

#[test]
fn remux_of_sound_with_a_gap_stays_with_the_picture() {
    let (_, plain) = remux(&clip(), 1316);
    let mut gap = Vec::new();
    let from = pes_start(&clip(), VIDEO_PID, 40);
    let to = pes_start(&clip(), VIDEO_PID, 85);
    for (number, packet) in clip().chunks_exact(PACKET).enumerate() {
        if pid(packet) != AUDIO_PID || !(from..to).contains(&(number * PACKET)) {
            gap.extend_from_slice(packet);
        }
    }
    let (_, out) = remux(&gap, 1316);
    let all = times(&plain, RtmpKind::Audio);
    let got = times(&out, RtmpKind::Audio);
    assert!(got.len() < all.len() - 50, "{}", got.len());
    assert!(got.iter().all(|time| all.iter().any(|other| other.abs_diff(*time) <= 1)), "{got:?}");
    assert_eq!(times(&out, RtmpKind::Video), times(&plain, RtmpKind::Video));
}

#[test]
fn remux_of_looped_file_goes_on() {
    let (_, once) = remux(&clip(), 1316);
    let (_, out) = remux(&[clip(), clip(), clip()].concat(), 1316);
    check_even(&out, "loop");
    assert_eq!(times(&out, RtmpKind::Video).len(), 3 * times(&once, RtmpKind::Video).len());
}

#[test]
fn remux_of_unaligned_pes_keeps_every_picture() {
    let (_, plain) = remux(&clip(), 1316);
    let video = |packets: &[Packet]| -> Vec<Packet> {
        let is_video = |p: &&Packet| p.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Video);
        packets.iter().filter(is_video).cloned().collect()
    };
    let bodies = |packets: &[Packet]| video(packets).iter().map(|p| p.data()[5..].to_vec()).collect::<Vec<_>>();
    // Times at which the pictures are shown.
    let shown = |packets: &[Packet]| -> Vec<u32> {
        let composition = |p: &Packet| u32::from_be_bytes([0, p.data()[2], p.data()[3], p.data()[4]]);
        video(packets).iter().map(|p| p.rtmp_message().unwrap().1 + composition(p)).collect()
    };
    for size in [100, 777, 4000, 12_000, 100_000] {
        let (_, out) = remux(&unalign(&clip(), size), 1316);
        assert!(bodies(&out) == bodies(&plain), "{size}");
        let apart = shown(&out).into_iter().zip(shown(&plain)).map(|(a, b)| a.abs_diff(b));
        assert!(apart.max() < Some(40), "{size}: {:?} {:?}", shown(&out), shown(&plain));
        check_even(&out, &format!("PES packets of {size} bytes"));
    }
}

#[test]
fn remux_joined_late_begins_with_sound_and_at_the_next_entry_point() {
    let clip = clip();
    let late = &clip[pes_start(&clip, VIDEO_PID, 30)..];
    let (_, out) = remux(&retable(late, PLAIN, &[]), 1316);
    let video = times(&out, RtmpKind::Video);
    let audio = times(&out, RtmpKind::Audio);
    assert!(audio[0] < 50, "{audio:?}");
    assert!(video.len() < 95 && video.len() > 30 && video[0] > 100, "{video:?}");
    let first = out.iter().find_map(|p| Tag::parse(p.rtmp_message()?.0, p.data()).filter(|t| t.role == Role::Key));
    assert!(first.is_some());
}

#[test]
fn remux_without_entry_point_begins_after_a_bounded_wait() {
    // All slices of IDR pictures become plain ones.
    let mut clip = clip();
    for packet in clip.chunks_exact_mut(PACKET).filter(|p| pid(p) == VIDEO_PID) {
        for at in 4..PACKET - 3 {
            if packet[at..at + 3] == [0, 0, 1] && packet[at + 3] & 0x1f == 5 {
                packet[at + 3] = 0x61;
                packet[at + 4] = 0x9a; // a slice of type P
            }
        }
    }
    let (_, out) = remux(&clip, 1316);
    let video = times(&out, RtmpKind::Video);
    let audio = times(&out, RtmpKind::Audio);
    assert!(audio[0] < 100 && audio.len() > 225, "{audio:?}");
    // After half the wait, a picture with parameter sets will do.
    assert!((1500..=2100).contains(&(video[0] - audio[0])), "{video:?}");
    assert_eq!(headers(&out, RtmpKind::Video), 1);
    // Without any but the first ones, the whole wait is over first.
    let first = pes_start(&clip, VIDEO_PID, 1);
    let mut bare = clip.clone();
    for packet in bare[first..].chunks_exact_mut(PACKET).filter(|p| pid(p) == VIDEO_PID) {
        for at in 4..PACKET - 3 {
            if packet[at..at + 3] == [0, 0, 1] && matches!(packet[at + 3] & 0x1f, 7 | 8) {
                packet[at + 3] = 0x0c; // padding
            }
        }
    }
    let video = times(&remux(&bare, 1316).1, RtmpKind::Video);
    assert!((2900..=3200).contains(&(video[0] - audio[0])), "{video:?}");
}

#[test]
fn remux_tells_of_pictures_that_wait_for_a_key_frame() {
    let mut clip = clip();
    // The clip from its second picture on, with all key frames but the last one taken for plain pictures.
    let last = pes_start(&clip, VIDEO_PID, 75);
    for packet in clip[..last].chunks_exact_mut(PACKET).filter(|p| pid(p) == VIDEO_PID) {
        for at in 4..PACKET - 3 {
            if packet[at..at + 3] == [0, 0, 1] && packet[at + 3] & 0x1f == 5 {
                packet[at + 3] = 0x61;
                packet[at + 4] = 0x9a;
            }
            if packet[at..at + 3] == [0, 0, 1] && matches!(packet[at + 3] & 0x1f, 6..=8) {
                packet[at + 3] = 0x0c;
            }
        }
    }
    let mut remuxer = Remuxer::new();
    let mut out = Vec::new();
    let mut told = Vec::new();
    let mut now = Instant::now();
    let mut waited = false;
    for (number, payload) in clip.chunks(1316).enumerate() {
        now += Duration::from_secs(5) * 1316 / clip.len() as u32;
        remuxer.push(payload, now, &mut out);
        told.extend(remuxer.selection());
        let video = remuxer.tracks(now).into_iter().find(|track| track.codec == "H.264");
        waited |= number > 20 && video.is_some_and(|video| video.left_out == Some(LeftOut::NotDecodable));
    }
    let told: Vec<_> = told.iter().map(|s| (s.carried.join(", "), s.left_out.join(", "), s.waits)).collect();
    let wanted = [
        ("AAC (PID 257)", "H.264 (PID 256): not decodable before a key frame", true),
        ("H.264 (PID 256), AAC (PID 257)", "", false),
    ];
    assert_eq!(told, wanted.map(|(a, b, waits)| (a.to_owned(), b.to_owned(), waits)));
    assert!(waited && !times(&out, RtmpKind::Video).is_empty());
}

#[test]
fn remux_prefers_television_and_obeys_the_choice_of_a_program() {
    let radio: &[(u8, u16)] = &[(0x0f, 0x101)];
    let television: &[(u8, u16)] = &[(0x1b, 0x100), (0x0f, 0x300)];
    let both = retable(&clip(), &[(1, 0x1001, radio), (2, 0x1002, television)], &[]);
    let (told, tracks, _) = selections(&[&both]);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].carried, ["H.264 (PID 256)", "AAC (PID 768)"]);
    assert_eq!(told[0].left_out, ["AAC (PID 257): program 1"]);
    let video = tracks.iter().find(|track| track.pid == 0x100).unwrap();
    assert_eq!((video.program, video.left_out, video.width > 0, video.profile.is_some()), (2, None, true, true));
    assert!(video.bit_rate == 0 || video.bit_rate > 1000);
    let now = Instant::now();
    for (wanted, carried) in [(ProgramChoice::Number(1), 1), (ProgramChoice::Number(9), 0)] {
        let mut remuxer = Remuxer::new();
        remuxer.want(&wanted, now, &mut Vec::new());
        let mut out = Vec::new();
        for payload in both.chunks(1316) {
            remuxer.push(payload, now, &mut out);
        }
        remuxer.finish(now, &mut out);
        let selection = remuxer.selection().unwrap();
        assert_eq!(selection.carried.len(), carried, "{selection:?}");
        assert_eq!(times(&out, RtmpKind::Video).len(), 0);
        assert_eq!(times(&out, RtmpKind::Audio).is_empty(), carried == 0);
        if carried == 0 {
            assert_eq!(selection.left_out[0], "there is no program 9");
        }
    }
}

#[test]
fn remux_names_scrambled_streams_and_takes_clear_ones() {
    let mut stream = retable(&clip(), PLAIN, &[]);
    for packet in stream.chunks_exact_mut(PACKET) {
        if pid(packet) == VIDEO_PID {
            packet[3] |= 0x80;
        }
    }
    let (told, _, out) = selections(&[&stream]);
    assert_eq!(told.last().unwrap().carried, ["AAC (PID 257)"]);
    assert_eq!(told.last().unwrap().left_out, ["H.264 (PID 256): scrambled"]);
    assert!(times(&out, RtmpKind::Audio).len() > 200 && times(&out, RtmpKind::Video).is_empty());
}

#[test]
fn remux_reads_packets_with_parity_and_with_times() {
    let (_, plain) = remux(&clip(), 1316);
    for (before, behind) in [(0, 16), (4, 0)] {
        let mut stream = Vec::new();
        for packet in clip().chunks_exact(PACKET) {
            stream.extend(vec![0x11; before]);
            stream.extend_from_slice(packet);
            stream.extend(vec![0x22; behind]);
        }
        for size in [1316, 1428, 1344, 204] {
            let (_, out) = remux(&stream, size);
            assert!(plain.iter().map(Packet::data).eq(out.iter().map(Packet::data)), "{before} {behind} {size}");
        }
    }
}

#[test]
fn remux_of_what_is_no_transport_stream_says_so() {
    let (mut remuxer, out) = remux(&[0x33; 300_000], 1316);
    assert!(out.is_empty());
    assert_eq!(remuxer.selection().unwrap().left_out, ["not MPEG-TS"]);
}

#[test]
fn remux_ignores_tables_with_a_wrong_checksum() {
    let good = retable(&clip(), PLAIN, &[]);
    let moved: &[TestProgram<'_>] = &[(1, 0x1000, &[(0x1b, 0x200), (0x0f, 0x201)])];
    let mut wrong = tables(moved, 3);
    wrong[PACKET + 12] ^= 0xff;
    let cut = good.len() / 2 / PACKET * PACKET;
    let stream = [&good[..cut], &wrong, &good[cut..]].concat();
    let (mut remuxer, out) = remux(&stream, 1316);
    assert_eq!(remuxer.damaged_sections(), 1);
    assert_eq!(remuxer.selection().unwrap().carried.len(), 2);
    assert_eq!(times(&out, RtmpKind::Video).len(), 125);
}

#[test]
fn remux_of_layer_two_is_left_out_by_its_name() {
    // 48 kHz, 192 kb/s: 576 bytes a frame; two frames a packet of sound.
    let mut stream = tables(&[(1, 0x1000, &[(0x03, 0x101)])], 0);
    let mut counter = 0u8;
    for number in 0..20u64 {
        let mut frame = vec![0xff, 0xfd, 0xa4, 0];
        frame.resize(576, number as u8);
        let mut pes = vec![0, 0, 1, 0xc0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1];
        pes.extend([&frame[..], &frame].concat());
        pes.resize(pes.len().next_multiple_of(184), 0);
        for (at, part) in pes.chunks(184).enumerate() {
            stream.extend([0x47, if at == 0 { 0x41 } else { 0x01 }, 0x01, 0x10 | counter]);
            stream.extend_from_slice(part);
            counter = (counter + 1) & 0x0f;
        }
    }
    let (mut remuxer, out) = remux(&stream, 1316);
    let selection = remuxer.selection().unwrap();
    assert_eq!(
        (selection.carried.len(), &selection.left_out[..]),
        (0, &["MPEG audio Layer II (PID 257)".to_owned()][..])
    );
    assert!(times(&out, RtmpKind::Audio).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A stream that is cut anywhere, whose second part has another clock, other PIDs, or both.
    #[test]
    fn remux_of_spliced_streams_goes_on_evenly(
        number in 5usize..120,
        step in prop_oneof![-900_000i64..-9_000, 40_000i64..9_000_000],
        moves in any::<bool>(),
        size in 188usize..3000,
    ) {
        let first = retable(&clip(), PLAIN, &[]);
        let cut = pes_start(&first, VIDEO_PID, number);
        let moved = [(VIDEO_PID, 0x200), (AUDIO_PID, 0x201)];
        let mut second = if moves {
            retable(&clip(), &[(1, 0x1000, &[(0x1b, 0x200), (0x0f, 0x201)])], &moved)
        } else {
            retable(&clip(), PLAIN, &[])
        };
        shift(&mut second, step);
        let (_, out) = remux(&[&first[..cut], &second].concat(), size);
        let video = times(&out, RtmpKind::Video);
        let audio = times(&out, RtmpKind::Audio);
        prop_assert!(video.is_sorted() && audio.is_sorted());
        prop_assert!(video.len() >= number + 124 && video.len() <= number + 125, "{} {}", number, video.len());
        let widest = video.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        // Pictures that are shown before the last one may be cut off.
        prop_assert!(widest <= 200, "{} {:?}", widest, video);
        let apart = video.last().unwrap().abs_diff(*audio.last().unwrap());
        prop_assert!(apart < 700, "{}", apart);
    }
}

/// Remuxes streams that come in real time, each after a pause.
fn in_real_time(streams: &[(&[u8], Duration)]) -> Vec<Packet> {
    let mut remuxer = Remuxer::new();
    let mut out = Vec::new();
    let mut now = Instant::now();
    for (stream, pause) in streams {
        now += *pause;
        if *pause > Duration::ZERO {
            remuxer.pause(now, &mut out);
        }
        for payload in stream.chunks(1316) {
            now += Duration::from_secs(5) * payload.len() as u32 / clip().len() as u32;
            remuxer.push(payload, now, &mut out);
        }
    }
    remuxer.finish(now, &mut out);
    out
}

#[test]
fn remux_keeps_sound_with_pictures_over_any_step() {
    let clip = clip();
    let last = |out: &[Packet], kind| i64::from(*times(out, kind).last().unwrap());
    let apart = |out: &[Packet]| last(out, RtmpKind::Video) - last(out, RtmpKind::Audio);
    let right = apart(&in_real_time(&[(&clip, Duration::ZERO)]));
    // The same PIDs, another one of the pictures, and other ones of both.
    for moved in [
        [(VIDEO_PID, 0x100), (AUDIO_PID, 0x101)],
        [(VIDEO_PID, 0x50), (AUDIO_PID, 0x101)],
        [(VIDEO_PID, 0x50), (AUDIO_PID, 0x51)],
    ] {
        let [(_, video), (_, audio)] = moved;
        let program: &[TestProgram<'_>] = &[(1, 0x1000, &[(0x1b, video), (0x0f, audio)])];
        for step in (-36..=36).map(|step| step * 30_000i64) {
            // From the start, and in the middle of a group of pictures; at once, and after a restart.
            for (from, pause) in [(0, 0), (10, 0), (10, 2500)] {
                let mut next = clip.clone();
                shift(&mut next, 125 * 3600 + step);
                let next = retable(&next[pes_start(&clip, VIDEO_PID, from)..], program, &moved);
                let first = (&clip[..clip.len() / 2 / PACKET * PACKET], Duration::ZERO);
                let out = in_real_time(&[first, (&next, Duration::from_millis(pause))]);
                let context = format!("{moved:x?}, step of {step}, from picture {from}, pause of {pause} ms");
                assert!((apart(&out) - right).abs() <= 40, "{context}: {} and {right}", apart(&out));
                assert!(times(&out, RtmpKind::Video).is_sorted(), "{context}");
                assert!(times(&out, RtmpKind::Audio).is_sorted(), "{context}");
            }
        }
    }
}

#[test]
fn remux_goes_on_with_sound_whose_encoder_changes_the_layer_and_back() {
    let three = {
        let mut frame = vec![0xff, 0xfb, 0x94, 0];
        frame.resize(384, 0);
        frame
    };
    let two = {
        let mut frame = vec![0xff, 0xfd, 0x84, 0];
        frame.resize(384, 0);
        frame
    };
    let mut remuxer = Remuxer::new();
    let mut out = Vec::new();
    let mut told = Vec::new();
    let mut now = Instant::now();
    let mut counter = 0;
    for (number, frame) in [&three, &two, &three].into_iter().flat_map(|frame| [frame; 100]).enumerate() {
        if number % 20 == 0 {
            let tables = tables(&[(1, 0x1000, &[(0x03, AUDIO_PID)])], (number / 20) as u8);
            remuxer.push(&tables, now, &mut out);
        }
        now += Duration::from_millis(24);
        remuxer.push(&sound_packets(&mut counter, number as u64 * 2160, frame), now, &mut out);
        told.extend(remuxer.selection());
    }
    remuxer.finish(now, &mut out);
    let told: Vec<_> = told.iter().map(|selection| (selection.carried.len(), selection.left_out.len())).collect();
    assert_eq!(told, [(1, 0), (0, 1), (1, 0)]);
    let tracks = remuxer.tracks(now);
    assert_eq!((tracks[0].codec, tracks[0].left_out), ("MP3", None));
    let times = times(&out, RtmpKind::Audio);
    assert_eq!(times.len(), 200);
    assert_eq!((times[99], times[100], times[199]), (99 * 24, 200 * 24, 299 * 24), "at the time of the stream");
}

#[test]
fn remux_of_few_timestamps_learns_the_frame_rate() {
    // The parameter sets tell 25 pictures a second; by the timestamps, one in each 25 pictures, there are 50.
    let mut clip = clip();
    thin_stamps(&mut clip, 25);
    let times = times(&remux(&clip, 1316).1, RtmpKind::Video);
    assert_eq!(times.len(), 125);
    assert!(times.is_sorted());
    let steps: Vec<u32> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps[50..].iter().all(|step| *step == 20), "{steps:?}");
    assert!((2460..=2500).contains(&times[124]), "{times:?}");
}
