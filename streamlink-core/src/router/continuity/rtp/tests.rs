//! Tests of the continuity in virtual time.

use super::*;
use crate::{
    media::{
        Packet,
        rtsp::{Presentation, is_rtcp},
    },
    router::Preamble,
};
use bytes::Bytes;
use std::{sync::Arc, time::Instant};

fn bytes(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32) -> Vec<u8> {
    let mut data = vec![0x80, payload_type];
    data.extend(sequence.to_be_bytes());
    data.extend(timestamp.to_be_bytes());
    data.extend(ssrc.to_be_bytes());
    data.push(1);
    data
}

fn header(packet: &Packet) -> (u16, u32, u32) {
    let header = Header::parse(packet.data()).unwrap();
    (header.sequence, header.timestamp, header.ssrc)
}

#[test]
fn rtp_continuity_over_reconnections() {
    let mut rewriter = RtpRewriter::new(90_000);
    let start = Instant::now();
    let rtp = |sequence, timestamp, ssrc, at| Packet::rtsp(0, bytes(96, sequence, timestamp, ssrc), at);
    let pass = |rewriter: &mut RtpRewriter, packet: Packet| {
        let read = Header::parse(packet.data()).unwrap();
        header(&rewriter.packet(packet, &read, Duration::ZERO))
    };
    rewriter.begin();
    assert_eq!(pass(&mut rewriter, rtp(u16::MAX, u32::MAX, 7, start)), (u16::MAX, u32::MAX, 7));
    let report: Bytes = [&[0x80, 200, 0, 6, 0, 0, 0, 9][..], &[0; 8], &[0, 0, 0, 5], &[0; 8]].concat().into();
    assert_eq!(rewriter.report(&report, &mut Some(0), start).unwrap(), report);
    rewriter.begin();
    assert_eq!(rewriter.report(&report, &mut None, start), None, "it has no place yet");
    let later = start + Duration::from_millis(100);
    assert_eq!(pass(&mut rewriter, rtp(500, 1000, 8, later)), (0, 8999, 7));
    assert_eq!(pass(&mut rewriter, rtp(501, 1900, 8, later)), (1, 9899, 7));
    let mut clock = None;
    let report = rewriter.report(&report, &mut clock, later).unwrap();
    assert_eq!((&report[4..8], &report[16..20]), (&[0, 0, 0, 7][..], &8004u32.to_be_bytes()[..]));
    // The first report was of timestamp 5 and NTP time 0.
    let moment = (7999u64 << 32) / 90_000;
    assert_eq!((&report[8..16], clock), (&moment.to_be_bytes()[..], Some(moment)));
}

#[test]
fn rtp_picture_of_hevc_that_takes_over_has_a_broken_link() {
    const CRA: [&[u8]; 3] = [&[0x62, 1, 0x95, 0xd0], &[0x62, 1, 0x55, 7], &[0x2a, 1, 0x20]];
    const BROKEN: [&[u8]; 3] = [&[0x62, 1, 0x90, 0xd0], &[0x62, 1, 0x50, 7], &[0x20, 1, 0x20]];
    for is_hevc in [true, false] {
        let mut rewriter = RtpRewriter::new(90_000);
        rewriter.is_hevc = is_hevc;
        let mut picture = |timestamp: u32| {
            let mut packet = |number: usize, payload: &[u8]| {
                let mut data = bytes(96, timestamp as u16 + number as u16, timestamp, 7);
                data.splice(12.., payload.iter().copied());
                let packet = Packet::rtsp(0, data, Instant::now());
                let header = Header::parse(packet.data()).unwrap();
                rewriter.packet(packet, &header, Duration::ZERO).data()[12..].to_vec()
            };
            let out: Vec<_> = CRA.iter().enumerate().map(|(number, payload)| packet(number, payload)).collect();
            rewriter.begin();
            out
        };
        assert_eq!(picture(1000), CRA, "the first connection");
        assert_eq!(picture(5000), if is_hevc { BROKEN } else { CRA });
    }
    let mut rewriter = RtpRewriter::new(90_000);
    rewriter.is_hevc = true;
    let mut packet = |timestamp: u32| {
        let mut data = bytes(96, timestamp as u16, timestamp, 7);
        data.splice(12.., CRA[2].iter().copied());
        let packet = Packet::rtsp(0, data, Instant::now());
        let header = Header::parse(packet.data()).unwrap();
        let first = rewriter.packet(packet, &header, Duration::ZERO).data()[12];
        if timestamp == 0 {
            rewriter.begin();
        }
        first
    };
    assert_eq!([0, 100, 100, 101].map(&mut packet), [0x2a, 0x20, 0x20, 0x2a], "the first picture alone");
}

#[test]
fn rtp_continuity_passes_same_stream_unaltered_once() {
    let mut splice = RtpContinuity::default();
    let now = Instant::now();
    let give = |splice: &mut RtpContinuity, sequences: std::ops::Range<u16>, ssrc| {
        let packets = sequences.map(|s| Packet::rtp(bytes(96, s, u32::from(s), ssrc), now)).collect();
        let mut delivery = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
        splice.apply(&mut delivery);
        delivery.packets.iter().map(header).collect::<Vec<_>>()
    };
    assert_eq!(give(&mut splice, 10..20, 7).len(), 10);
    splice.join();
    assert_eq!(give(&mut splice, 15..22, 7), [(20, 20, 7), (21, 21, 7)]);
    splice.join();
    assert_eq!(give(&mut splice, 900..902, 8), [(22, 22, 7), (23, 23, 7)]);
    splice.join();
    assert_eq!(give(&mut splice, 30..31, 7), [(30, 30, 7)], "its own numbers, a few packets on");
}

#[test]
fn rtsp_continuity_keeps_tracks_in_step_with_past_backup() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0I=,aM4=\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
    let old = Presentation::parse(sdp.as_bytes()).unwrap();
    let new = sdp.replace("aM4=", "aM8=").replace("AVP 97", "AVP 98").replace("map:97", "map:98");
    let new = Arc::new(Presentation::parse(new.as_bytes()).unwrap()).as_continued_from(Some(&old));
    let mut tracks = TrackRewriters::default();
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let rtp =
        |track, timestamp, ms| Packet::rtsp(track, bytes(96 + 2 * track, 1, timestamp, 1 + u32::from(track)), at(ms));
    tracks.join(None, Some(&old), false);
    let mut first = MediaBatch {
        packets: vec![rtp(0, 90_000, 1000), rtp(1, 8_000, 1000)],
        starts: Vec::new(),
        ..MediaBatch::default()
    };
    tracks.apply(&mut first);
    tracks.join(Some(&old), Some(&new), true);
    // The backup's last group of pictures began 400 ms before the loss.
    let packets = vec![rtp(0, 500, 600), rtp(1, 700, 620)];
    let mut second = MediaBatch { packets, starts: vec![(0, Preamble::from([]))], ..MediaBatch::default() };
    tracks.apply(&mut second);
    let sent: Vec<_> = second.packets.iter().map(header).collect();
    assert_eq!(sent, [(2, 90_001, 1), (3, 90_001, 1), (4, 90_001, 1), (2, 8_160, 2)]);
    assert_eq!(&second.packets[1].data()[12..], [0x68, 0xcf]);
    assert_eq!((second.packets[0].data()[1], second.packets[3].data()[1]), (96, 97), "as players know them");
    let mut third = MediaBatch { packets: vec![rtp(0, 500 + 900, 610)], starts: Vec::new(), ..MediaBatch::default() };
    tracks.apply(&mut third);
    assert_eq!(header(&third.packets[0]).1, 90_901);
}

/// Packets of sound with several frames each: what takes over comes behind the last of them, whichever track is first.
#[test]
fn rtsp_continuity_puts_sound_behind_the_frames_of_the_last_packet() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        m=audio 0 RTP/AVP 98\r\na=rtpmap:98 MPEG4-GENERIC/48000/1\r\n";
    let sdp = Presentation::parse(sdp.as_bytes()).unwrap();
    for first in [0u8, 1] {
        let mut tracks = TrackRewriters::default();
        let start = Instant::now();
        let rtp = |track: u8, sequence, timestamp, ms| {
            let ssrc = 1 + u32::from(track);
            Packet::rtsp(track, bytes(96 + 2 * track, sequence, timestamp, ssrc), start + Duration::from_millis(ms))
        };
        tracks.join(None, Some(&sdp), false);
        // The first packets of ffmpeg hold fewer frames: 5, 6 and then 7 of 1024 samples.
        let sound = [(0u32, 0u64), (5120, 107), (11_264, 235), (18_432, 384), (25_600, 533)];
        let mut packets: Vec<Packet> = (0u16..14).map(|n| rtp(0, n, 3600 * u32::from(n), 40 * u64::from(n))).collect();
        packets.extend((0u16..).zip(sound).map(|(n, (timestamp, ms))| rtp(1, n, timestamp, ms)));
        let mut before = MediaBatch { packets, ..MediaBatch::default() };
        tracks.apply(&mut before);
        tracks.join(Some(&sdp), Some(&sdp), true);
        // The other source begins 20 ms later, with each of its tracks first.
        let packets =
            [first, 1 - first].map(|track| rtp(track, 500, 700_000, 553 + u64::from(track != first))).to_vec();
        let mut after = MediaBatch { packets, ..MediaBatch::default() };
        tracks.apply(&mut after);
        let timestamp = |track: u8| {
            let packet = after.packets.iter().find(|packet| packet.rtsp_track() == Some(track)).unwrap();
            header(packet).1
        };
        assert!(timestamp(1) >= 25_600 + 7168, "{first}: {} of sound", timestamp(1));
        // Pictures wait as long, so that they stay in step.
        let sound = i64::from(timestamp(1)) * 1000 / 48_000;
        let pictures = i64::from(timestamp(0)) * 1000 / 90_000;
        assert!((sound - pictures).abs() < 40, "{first}: {sound} ms and {pictures} ms");
    }
}

#[test]
fn rtsp_continuity_reports_never_move_tracks_back() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        m=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
    let sdp = Presentation::parse(sdp.as_bytes()).unwrap();
    let mut tracks = TrackRewriters::default();
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let rtp =
        |track, timestamp, ms| Packet::rtsp(track, bytes(96 + 2 * track, 1, timestamp, 1 + u32::from(track)), at(ms));
    // `moment`: the NTP time in milliseconds.
    let report = |track: u8, moment: u64, timestamp: u32, ms| {
        let mut data = vec![0x80, 200, 0, 6, 0, 0, 0, 1 + track];
        data.extend(((moment << 32) / 1000).to_be_bytes());
        data.extend(timestamp.to_be_bytes());
        data.resize(28, 0);
        Packet::rtsp(track, data, at(ms))
    };
    // Returns the presentation time of a packet by the last report of its track, in milliseconds.
    let shown = |delivery: &MediaBatch, track: u8, clock_rate: i64| {
        let data =
            delivery.packets.iter().find(|p| p.rtsp_track() == Some(track) && p.data()[1] == 200).unwrap().data();
        let moment = u64::from_be_bytes(data[8..16].try_into().unwrap());
        let time = u32::from_be_bytes(data[16..20].try_into().unwrap());
        let moment = ((u128::from(moment) * 1000) >> 32) as i64;
        move |timestamp: u32| moment + i64::from(timestamp.wrapping_sub(time) as i32) * 1000 / clock_rate
    };
    tracks.join(None, Some(&sdp), false);
    let packets = vec![report(0, 50_000, 90_000, 0), report(1, 50_000, 8_000, 0), rtp(0, 90_000, 0), rtp(1, 8_000, 0)];
    let mut first = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
    tracks.apply(&mut first);
    let video = shown(&first, 0, 90_000);
    let audio = shown(&first, 1, 8_000);
    // By the reports of the other source, its sound is 200 ms ahead of its arrival.
    tracks.join(Some(&sdp), Some(&sdp), true);
    let packets = vec![rtp(0, 500, 40), rtp(1, 700, 40), report(1, 7_200, 700, 50), report(0, 7_000, 500, 50)];
    let mut second = MediaBatch { packets, starts: Vec::new(), ..MediaBatch::default() };
    tracks.apply(&mut second);
    for (track, before, clock_rate) in [(0, &video as &dyn Fn(u32) -> i64, 90_000), (1, &audio, 8_000)] {
        let after = shown(&second, track, clock_rate);
        let timestamp = header(second.packets.iter().find(|p| p.rtsp_track() == Some(track)).unwrap()).1;
        assert!(after(timestamp) >= before(timestamp) - 1, "{track}: {} {}", before(timestamp), after(timestamp));
    }
}

/// Two tracks whose clocks step where a group of pictures begins, with reports each second: pictures in decoding order at 90 kHz, and sound
/// of 20 ms at 8 kHz. Returns (track, timestamp, true time in milliseconds) as passed on.
fn run(
    clock: impl Fn(u64) -> i64,
    wall: impl Fn(u64) -> u64,
    numbers: impl Fn(u64) -> (u16, u32),
) -> Vec<(u8, u32, u64, Bytes)> {
    let sdp = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        m=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/8000\r\n";
    let sdp = Presentation::parse(sdp.as_bytes()).unwrap();
    let mut tracks = TrackRewriters::default();
    tracks.join(None, Some(&sdp), false);
    let start = Instant::now();
    let mut out = Vec::new();
    let mut next = [0u16; 2];
    for ms in (0..20_000).step_by(20) {
        for (track, every, rate, base) in [(0u8, 40, 90i64, u32::MAX - 270_000), (1, 20, 8, 77)] {
            if ms % every != 0 {
                continue;
            }
            // Each fourth picture is shown 80 ms after it is decoded, the others 40 ms before.
            let order = match (track, ms / 40 % 4) {
                (0, 1) => 80,
                (0, 2 | 3) => -40,
                _ => 0,
            };
            let stamp = |ms: i64| base.wrapping_add((ms * rate) as u32);
            let (jump, ssrc) = numbers(ms);
            let at = start + Duration::from_millis(ms + ms * 31 % 9);
            let mut packets = Vec::new();
            if ms % 1000 == 0 {
                let mut data = vec![0x80, 200, 0, 6];
                data.extend((ssrc + u32::from(track)).to_be_bytes());
                data.extend(((wall(ms) << 32) / 1000).to_be_bytes());
                data.extend(stamp(clock(ms)).to_be_bytes());
                data.resize(28, 0);
                packets.push(Packet::rtsp(track, data, at));
            }
            next[usize::from(track)] = next[usize::from(track)].wrapping_add(1);
            let sequence = next[usize::from(track)].wrapping_add(jump);
            let data = bytes(96 + track, sequence, stamp(clock(ms) + order), ssrc + u32::from(track));
            packets.push(Packet::rtsp(track, data, at));
            let mut delivery = MediaBatch { packets, ..MediaBatch::default() };
            tracks.apply(&mut delivery);
            for packet in delivery.packets {
                let data = packet.data().clone();
                let stamp = Header::parse(&data).map_or(0, |header| header.timestamp);
                out.push((track, stamp, (ms as i64 + order) as u64, data));
            }
        }
    }
    out
}

/// Checks that times are even, tracks in step, and sequence numbers in order, by packets and by reports.
fn assert_even(out: &[(u8, u32, u64, Bytes)], what: &str) {
    let mut offsets: [Option<i64>; 2] = [None; 2];
    for (track, rate) in [(0u8, 90i64), (1, 8)] {
        let own = || out.iter().filter(|(other, ..)| *other == track);
        let media: Vec<_> = own().filter(|(.., data)| !is_rtcp(data)).collect();
        let (_, first, start, data) = media[0];
        let ssrc = &data[8..12];
        for (_, stamp, ms, data) in &media {
            let error = i64::from(stamp.wrapping_sub(*first) as i32) - (*ms as i64 - *start as i64) * rate;
            assert!(error.abs() < 40 * rate, "{what}: track {track} at {ms} ms is off by {}", error / rate);
            assert_eq!(&data[8..12], ssrc, "{what}: the source is the same");
        }
        let sequences: Vec<u16> = media.iter().map(|(.., data)| u16::from_be_bytes([data[2], data[3]])).collect();
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{what}: sequence");
        for (.., data) in own().filter(|(.., data)| is_rtcp(data)) {
            let moment = u64::from_be_bytes(data[8..16].try_into().unwrap());
            let stamp = u32::from_be_bytes(data[16..20].try_into().unwrap());
            let moment = ((u128::from(moment) * 1000) >> 32) as i64;
            let offset = moment - i64::from(stamp.wrapping_sub(*first) as i32) / rate;
            let before = *offsets[usize::from(track)].get_or_insert(offset);
            assert!((offset - before).abs() < 40, "{what}: reports of track {track} step by {}", offset - before);
        }
    }
    let [Some(video), Some(audio)] = offsets else { panic!("{what}: no reports") };
    assert!((video - audio).abs() < 40, "{what}: {video} {audio}");
}

#[test]
fn rtsp_timestamps_go_on_evenly_over_steps_of_the_clock() {
    let same = |_| (0, 10);
    let wall = |ms| 1_000_000 + ms;
    for step in [-9000i64, -2000, 10_000, 3_600_000, 20_000_000, -20_000_000] {
        let clock = |ms: u64| ms as i64 + if ms < 10_080 { 0 } else { step };
        assert_even(&run(clock, wall, same), &format!("step by {step}"));
    }
    let again = |ms: u64| if ms < 10_080 { (0, 10) } else { (30_000, 20) };
    assert_even(&run(|ms| ms as i64 % 10_080, wall, again), "a sender that starts again");
    assert_even(&run(|ms| ms as i64, wall, again), "another SSRC and sequence");
    let set = |ms: u64| if ms < 9_500 { 1_000_000 + ms } else { 9_000_000 + ms };
    assert_even(&run(|ms| ms as i64, set, same), "a wall clock that is set");
    assert_even(&run(|ms| ms as i64 % 4800, wall, same), "a file that loops");
    // The timestamps of pictures wrap after three seconds in all of these.
    let out = run(|ms| ms as i64, wall, same);
    assert_even(&out, "nothing");
    assert!(out.iter().any(|(track, stamp, ..)| *track == 0 && *stamp < 1 << 30 && *stamp > 0));
}
