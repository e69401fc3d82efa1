use super::*;

fn adts_frame(payload: usize) -> Vec<u8> {
    let length = 7 + payload;
    // AAC-LC, 48 kHz, stereo
    let mut frame =
        vec![0xff, 0xf1, 0x4c, 0x80 | (length >> 11) as u8, (length >> 3) as u8, (length << 5) as u8 | 0x1f, 0xfc];
    frame.extend(vec![payload as u8; payload]);
    frame
}

#[test]
fn audio_frames_found_within_and_across_pes_packets() {
    let mut parser = AudioParser::new(AudioCodec::Aac);
    let bytes = [adts_frame(10), adts_frame(20), adts_frame(30)].concat();
    let (first, second) = bytes.split_at(50);
    let frames = parser.parse(first, Some(1));
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[0].duration, frames[1].data.len()), (1920, 20));
    assert_eq!((frames[0].stamp, frames[1].stamp), (Some(1), None));
    let frames = parser.parse(&[second, &adts_frame(5)].concat(), Some(2));
    assert_eq!(frames.iter().map(|f| (f.data.len(), f.stamp)).collect::<Vec<_>>(), [(30, None), (5, Some(2))]);
    assert_eq!(AudioCodec::Aac.header(&frames[0].sound).unwrap(), [0xaf, 0, 0x11, 0x90]);
    // Garbage before a frame is skipped.
    let frames = parser.parse(&[&[1, 2, 3][..], &adts_frame(9)].concat(), None);
    assert_eq!(frames.len(), 1);
}

#[test]
fn audio_frames_take_the_timestamp_of_the_packet_that_they_begin_in() {
    let frames: Vec<Vec<u8>> = (0..20).map(|_| adts_frame(100)).collect();
    for size in [30, 50, 107, 110, 250] {
        let mut parser = AudioParser::new(AudioCodec::Aac);
        let stream = frames.concat();
        let mut got = Vec::new();
        for (number, packet) in stream.chunks(size).enumerate() {
            // As standards have it, a packet in which no frame begins has no timestamp.
            let first = (number * size).next_multiple_of(107);
            let stamp = (first < number * size + packet.len()).then_some(first as u64 / 107);
            got.extend(parser.parse(packet, stamp));
        }
        assert_eq!(got.len(), 20, "{size}");
        for (number, frame) in got.iter().enumerate() {
            let is_first = number == 0 || (number - 1) * 107 / size < number * 107 / size;
            assert_eq!(frame.stamp, is_first.then_some(number as u64), "{size} {number}");
        }
    }
}

#[test]
fn audio_of_layer_two_has_no_stray_frame_of_layer_three() {
    // Frames of layer II, 128 kb/s at 48 kHz, with what looks like the header of a short frame of layer III.
    let mut frame = vec![0xff, 0xfd, 0x84, 0];
    frame.resize(384, 0x55);
    frame[100..104].copy_from_slice(&[0xff, 0xfb, 0x14, 0]);
    let mut parser = AudioParser::new(AudioCodec::Mp3);
    for _ in 0..10 {
        assert_eq!(parser.parse(&frame.repeat(3), Some(1)), []);
    }
    assert_eq!(parser.unfit(), Some(Unfit::Codec("MPEG audio Layer II")));
    // Padding behind each frame makes none of them stray.
    let mut padded = vec![0xff, 0xfb, 0x14, 0];
    padded.resize(120, 0);
    let mut parser = AudioParser::new(AudioCodec::Mp3);
    for number in 0..5 {
        assert_eq!(parser.parse(&padded, Some(number)).len(), 1);
    }
}

#[test]
fn audio_headers_of_each_codec_parse() {
    let sound = |codec: AudioCodec, mut header: Vec<u8>| {
        header.resize(4000, 0);
        AudioParser::new(codec)
            .parse(&header, None)
            .first()
            .map(|f| (f.sound.sample_rate, f.sound.channels, f.data.len(), f.duration))
    };
    assert_eq!(sound(AudioCodec::Mp3, vec![0xff, 0xfb, 0x94, 0x00]), Some((48_000, 2, 384, 2160)));
    assert_eq!(sound(AudioCodec::Ac3, vec![0x0b, 0x77, 0, 0, 0x1c, 0x40, 0xe0]), Some((48_000, 5, 1536, 2880)));
    for (mode, channels) in [(0xe1, 6), (0x40, 2), (0x44, 3), (0x48, 2), (0x20, 1), (0x30, 2), (0x64, 4)] {
        let header = vec![0x0b, 0x77, 0, 0, 0x1c, 0x40, mode];
        assert_eq!(sound(AudioCodec::Ac3, header).map(|sound| sound.1), Some(channels), "{mode:x}");
    }
    assert_eq!(sound(AudioCodec::Eac3, vec![0x0b, 0x77, 0, 0xff, 0x3e, 0x80, 0]), Some((48_000, 5, 512, 2880)));
    assert_eq!(sound(AudioCodec::Eac3, vec![0x0b, 0x77, 0, 0xff, 0xf4, 0x80, 0]), None, "reserved");
    let opus = [&[0x7f, 0xe0, 0xff, 0x05][..], &[0xfc; 260]].concat();
    assert_eq!(sound(AudioCodec::Opus { channels: 2 }, opus), Some((48_000, 2, 260, 1800)));
}

proptest::proptest! {
    #[test]
    fn audio_parser_survives_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..600), first in 0usize..4) {
        for codec in [AudioCodec::Aac, AudioCodec::AacLatm, AudioCodec::Mp3, AudioCodec::Ac3, AudioCodec::Eac3, AudioCodec::Opus { channels: 2 }] {
            let start: &[u8] = [&[0xff, 0xf1][..], &[0xff, 0xfb], &[0x0b, 0x77], &[0x7f, 0xe0]][first];
            let mut parser = AudioParser::new(codec);
            parser.parse(&[start, &data].concat(), Some(1));
            parser.parse(&data, Some(2));
            parser.parse(&data, None);
            proptest::prop_assert!(parser.rest.len() <= MAX_REST);
        }
    }
}
