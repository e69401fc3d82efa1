//! Sound that legacy RTMP has no place for, out of MPEG-TS from ffmpeg and into Enhanced RTMP (veovera's
//! enhanced-rtmp-v2). No program here reads it, so what we push to ourselves is taken apart.

use std::{fs, time::Instant};
use streamlink_core::{Event, Output, Packet, RtmpKind, Source, StreamKey};
use streamlink_tests::{
    clip, media, peer,
    rig::{Recording, Rig, free_port, text},
};

#[test]
fn ac3_eac3_and_opus_leave_as_enhanced_rtmp_bit_for_bit() {
    let key = || StreamKey::new("KEY").unwrap();
    for (codec, name, described) in
        [("ac3", b"ac-3", "H.264, AC-3"), ("eac3", b"ec-3", "H.264, E-AC-3"), ("libopus", b"Opus", "H.264, Opus")]
    {
        let port = free_port();
        let target = Rig::start(
            Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(key()),
            vec![Output::tap("tap").into()],
        );
        let tap = Recording::start(&target);
        let push = Output::rtmp_push("push", &format!("rtmp://127.0.0.1:{port}/live"), key());
        let rig = Rig::start(Source::app_datagrams("in"), vec![push.into()]);
        let (file, bare) = (rig.file("original.ts"), rig.file("bare"));
        let sound = ["-map", "0", "-c:v", "copy", "-ar", "48000", "-ac", "2", "-c:a", codec, "-f", "mpegts"];
        media::make(&clip(), &sound, &file);
        let coded =
            ["-v", "error", "-nostdin", "-i", text(&file), "-map", "0:a", "-c", "copy", "-f", "data", text(&bare)];
        peer::run("ffmpeg", &coded);
        rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        let app = rig.running.app_source("in").unwrap();
        for chunk in fs::read(&file).unwrap().chunks(1316) {
            app.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
            streamlink_tests::rtp::pause();
        }
        let wanted = fs::read(&bare).unwrap();
        rig.stop();
        let packets = tap.finish_packets(&target);
        assert_eq!(target.running.stats().sources[0].media.as_deref(), Some(described));
        let (mut got, mut last) = (Vec::new(), 0);
        for packet in &packets {
            let (kind, time) = packet.rtmp_message().unwrap();
            if kind == RtmpKind::Audio {
                let body = packet.data();
                assert_eq!(&body[1..5], name, "{codec}");
                assert!(time >= last, "{codec}: {time} after {last}");
                last = time;
                // 0x90 is what decoders need before it, and 0x91 a frame.
                match body[0] {
                    0x91 => got.extend_from_slice(&body[5..]),
                    other => assert_eq!(other, 0x90, "{codec}"),
                }
            }
        }
        // It begins with the first key frame of the video.
        assert!(wanted.ends_with(&got), "{codec}: {} of {} bytes", got.len(), wanted.len());
        assert!(got.len() > wanted.len() * 9 / 10, "{codec}: {} of {} bytes", got.len(), wanted.len());
        target.stop();
    }
}
