//! Properties of streams that are muxed anew, moved, shifted and cut at random, with the packets that ffprobe finds in
//! the clip as the reference.

use super::{
    forge::{AUDIO_PID, PACKET, VIDEO_PID, pes_start, retable, shift, unalign},
    *,
};

/// `ffprobe -show_entries packet=codec_type,pts,dts,flags` of the clip.
const REFERENCE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/clip-packets.csv"));

/// A packet: times of decoding and of presentation in milliseconds from the first picture on, and whether it is a key
/// frame.
type Listed = (i64, i64, bool);

/// Returns the packets of one kind that ffprobe lists.
fn reference(kind: &str) -> Vec<Listed> {
    let rows = |kind: &str| -> Vec<(i64, i64, bool)> {
        let lines = REFERENCE.lines().filter(|line| line.starts_with(kind));
        let fields = lines.map(|line| line.split(',').collect::<Vec<_>>());
        fields.map(|row| (row[2].parse().unwrap(), row[1].parse().unwrap(), row[3].starts_with('K'))).collect()
    };
    let start = rows("video")[0].0;
    rows(kind).into_iter().map(|(dts, pts, key)| ((dts - start) / 90, (pts - start) / 90, key)).collect()
}

/// Returns the coded pictures, and their contents.
fn pictures(packets: &[Packet]) -> Vec<(Listed, Vec<u8>)> {
    let mut all = Vec::new();
    for packet in packets {
        let Some((RtmpKind::Video, time)) = packet.rtmp_message() else { continue };
        let body = packet.data();
        if body[1] == 1 {
            let composition = i64::from(u32::from_be_bytes([0, body[2], body[3], body[4]]));
            let time = i64::from(time);
            all.push(((time, time + composition, body[0] == 0x17), body[5..].to_vec()));
        }
    }
    all
}

/// Muxes a part of the clip anew: PES packets of this many bytes (0: as they are), other PIDs, another clock.
fn muxed(stream: &[u8], size: usize, moves: bool, ticks: i64) -> Vec<u8> {
    let whole = if size == 0 { stream.to_vec() } else { unalign(stream, size) };
    let pids = if moves { (0x31, 0x1fa, 0x1fb) } else { (0x1000, VIDEO_PID, AUDIO_PID) };
    let streams = [(0x1b, pids.1), (0x0f, pids.2)];
    let mut out = retable(&whole, &[(1, pids.0, &streams)], &[(VIDEO_PID, pids.1), (AUDIO_PID, pids.2)]);
    shift(&mut out, ticks);
    out
}

/// Sizes of PES packets: as they are; so small that they cut start codes; those with several pictures.
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 20usize..300, 300usize..8000, 8000usize..60_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Transport packets are cut by datagrams, start codes by packets, and PES packets hold parts of a picture or several.
    #[test]
    fn remux_of_a_stream_muxed_anew_has_the_packets_of_the_reference(
        size in sizes(),
        moves in any::<bool>(),
        ticks in 0i64..1 << 33,
        datagram in 1usize..3000,
    ) {
        let (_, out) = remux(&muxed(&clip(), size, moves, ticks), datagram);
        let got = pictures(&out);
        let wanted = reference("video");
        prop_assert_eq!(got.len(), wanted.len());
        for (number, ((got, _), wanted)) in got.iter().zip(&wanted).enumerate() {
            let near = (got.0 - wanted.0).abs() <= 1 && (got.1 - wanted.1).abs() <= 1;
            prop_assert!(near && got.2 == wanted.2, "picture {}: {:?} instead of {:?}", number, got, wanted);
        }
        let (_, plain) = remux(&clip(), 1316);
        prop_assert!(got.iter().map(|(_, data)| data).eq(pictures(&plain).iter().map(|(_, data)| data)));
        let sound: Vec<i64> = times(&out, RtmpKind::Audio).into_iter().map(i64::from).collect();
        let wanted: Vec<i64> = reference("audio").iter().map(|packet| packet.0).filter(|time| *time >= 0).collect();
        prop_assert_eq!(sound.len(), wanted.len());
        prop_assert!(sound.iter().zip(&wanted).all(|(got, wanted)| (got - wanted).abs() <= 1), "{:?} {:?}", sound, wanted);
    }

    /// A stream is cut at any byte, and another one begins at any byte.
    #[test]
    fn remux_of_streams_spliced_at_any_byte_has_the_packets_from_the_next_key_frame_on(
        sizes in (sizes(), sizes()),
        moves in any::<bool>(),
        ticks in (0i64..1 << 33, 0i64..1 << 33),
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        datagram in 1usize..3000,
    ) {
        let first = muxed(&clip(), sizes.0, false, ticks.0);
        let second = muxed(&clip(), sizes.1, moves, ticks.1);
        // Enough is left of the second stream for a whole group of pictures.
        let begin = cuts.1.index(pes_start(&clip(), VIDEO_PID, 50) / PACKET * PACKET);
        let begin = begin.min(second.len() / 3);
        let spliced = [&first[..cuts.0.index(first.len())], &second[begin..]].concat();
        let (_, out) = remux(&spliced, datagram);
        let got = pictures(&out);
        prop_assert!(got.windows(2).all(|pair| pair[0].0.0 <= pair[1].0.0), "times go back: {:?}", got.iter().map(|p| p.0).collect::<Vec<_>>());
        prop_assert!(times(&out, RtmpKind::Audio).is_sorted());
        // The last group of pictures is the one of the clip, and as far apart.
        let (_, plain) = remux(&clip(), 1316);
        let plain = pictures(&plain);
        let start = plain.iter().rposition(|picture| picture.0.2).unwrap();
        let tail = &plain[start..];
        prop_assert!(got.len() >= tail.len());
        let got = &got[got.len() - tail.len()..];
        // Behind parameter sets, where those were cut, too.
        prop_assert!(got.iter().zip(tail).all(|((_, got), (_, wanted))| got.ends_with(wanted)));
        let offset = got[0].0.0 - tail[0].0.0;
        for ((got, _), (wanted, _)) in got.iter().zip(tail) {
            let near = (got.0 - wanted.0 - offset).abs() <= 1 && (got.1 - wanted.1 - offset).abs() <= 1;
            prop_assert!(near, "{:?} instead of {:?}, {} later", got, wanted, offset);
        }
    }
}
