//! MPEG-TS of real programs remuxed to RTMP: to nginx-rtmp, and, in Enhanced RTMP (veovera's enhanced-rtmp-v2), to the
//! library itself, where the test parses it, as no program here reads it.

use std::{fs, path::Path, time::Instant};
use streamlink_core::{Bitrate, Event, Output, Packet, RtmpKind, Source, State, StreamKey};
use streamlink_tests::{
    clip, eventually,
    media::{self, HEVC, check_times, pictures, times},
    nginx::Nginx,
    peer::{self, Peer},
    rig::{Recording, Rig, free_port, text},
};

fn key(text: &str) -> StreamKey {
    StreamKey::new(text).unwrap()
}

/// Media that arrives at nginx from a remuxed stream: every picture of the original from the first key frame on, sound and
/// picture as far apart as in the original.
fn check_remuxed(nginx: &Nginx, name: &str, original: &Path, has: (bool, bool)) {
    let file = nginx.recording(name);
    if has.0 {
        let wanted = pictures(original);
        eventually("all pictures", || (pictures(&file).len() == wanted.len()).then_some(()));
        assert!(pictures(&file) == wanted, "{name}");
        let shown = check_times(&file, "v:0");
        let frame = 0.04;
        assert!(shown.windows(2).all(|w| w[1].0 - w[0].0 < 1.5 * frame), "{shown:?}");
    }
    if has.1 {
        check_times(&file, "a:0");
    }
    if has == (true, true) {
        let gap = |file: &Path| {
            let first = |stream| times(file, stream).iter().map(|t| t.1).fold(f64::MAX, f64::min);
            (first("v:0"), times(file, "a:0").iter().map(|t| t.1).collect::<Vec<_>>())
        };
        // The sound that begins with, or just after, the first picture lies as far from it as in the original.
        let ((video, audio), (wanted_video, wanted_audio)) = (gap(&file), gap(original));
        let after = |video: f64, audio: &[f64]| audio.iter().map(|t| t - video).find(|d| *d >= 0.0).unwrap();
        let got = after(video, &audio);
        let wanted = after(wanted_video, &wanted_audio);
        assert!((got - wanted).abs() < 0.04, "{got} instead of {wanted}");
    }
}

#[test]
fn remux_srt_to_rtmp_keeps_every_picture_and_sync() {
    let nginx = Nginx::start();
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, arguments: &[&str]| {
        let file = folder.path().join(name);
        media::make(&clip(), arguments, &file);
        file
    };
    let bframes = ["-map", "0", "-c:v", "libx264", "-bf", "3", "-g", "25", "-c:a", "copy", "-f", "mpegts"];
    let latm = ["-c:a", "aac", "-mpegts_flags", "latm"];
    let mp3 = ["-map", "0:v", "-map", "0:a", "-c:v", "copy", "-c:a", "libmp3lame", "-f", "mpegts"];
    for (name, file, has, more) in [
        ("clip", clip(), (true, true), &[][..]),
        ("bframes", made("b.ts", &bframes), (true, true), &[]),
        ("mp3", made("m.ts", &mp3), (true, true), &[]),
        ("latm", clip(), (true, true), &latm),
        ("video", made("v.ts", &["-map", "0:v", "-c", "copy", "-f", "mpegts"]), (true, false), &[]),
        ("audio", made("a.ts", &["-map", "0:a", "-c", "copy", "-f", "mpegts"]), (false, true), &[]),
    ] {
        let rig = Rig::start(
            Source::srt_listener("in", "127.0.0.1:0"),
            vec![Output::rtmp_push("push", &nginx.url(), key(name)).into()],
        );
        rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        let srt = format!("srt://127.0.0.1:{}?mode=caller", rig.input_port());
        // srt-live-transmit sends all that it is given; ffmpeg leaves before its last packets are out.
        let port = free_port();
        let udp = format!("udp://127.0.0.1:{port}");
        let transmit = Peer::start("srt-live-transmit", &["-q", &udp, &srt]);
        transmit.wait_for_udp(port);
        let to = format!("{udp}?pkt_size=1316");
        let arguments = [&["-map", "0", "-c", "copy"], more, &["-f", "mpegts", &to]].concat();
        let mut sender = media::play(&file, &arguments);
        assert!(sender.finish().success(), "{}", sender.output());
        let selection = rig.event(|e| match e {
            Event::Remuxed { carried, left_out } => Some((carried, left_out)),
            _ => None,
        });
        assert_eq!(selection.1, "");
        // The last picture is out when for a second nothing has come, or left.
        eventually("the end", || {
            let stats = rig.running.stats();
            let source = &stats.sources[0];
            let output = &stats.outputs[0];
            (output.packets > 0 && [source.bit_rate, output.bit_rate] == [Bitrate::bps(0); 2]).then_some(())
        });
        drop(transmit);
        rig.stop();
        check_remuxed(&nginx, name, &file, has);
    }
}

#[test]
fn remux_hevc_to_enhanced_rtmp_is_lossless() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hevc.ts");
    media::make(&clip(), &[&["-map", "0"][..], &HEVC, &["-c:a", "copy", "-f", "mpegts"]].concat(), &file);
    // No program here reads HEVC over RTMP: we push to ourselves, and take the messages apart.
    let port = free_port();
    let target = Rig::start(
        Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(key("KEY")),
        vec![Output::tap("tap").into()],
    );
    let tap = Recording::start(&target);
    let rig = Rig::start(
        Source::app_datagrams("in"),
        vec![Output::rtmp_push("push", &format!("rtmp://127.0.0.1:{port}/live"), key("KEY")).into()],
    );
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let app = rig.running.app_source("in").unwrap();
    for chunk in fs::read(&file).unwrap().chunks(1316) {
        app.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
        streamlink_tests::rtp::pause();
    }
    rig.stop();
    let packets = tap.finish_packets(&target);
    assert_eq!(target.running.stats().sources[0].media.as_deref(), Some("HEVC, AAC"));
    let mut stream = Vec::new();
    let units = |data: &[u8], stream: &mut Vec<u8>| {
        let mut rest = data;
        while let [a, b, c, d, tail @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            stream.extend([0, 0, 0, 1]);
            stream.extend_from_slice(&tail[..length]);
            rest = &tail[length..];
        }
    };
    for packet in packets.iter().filter(|p| p.rtmp_message().unwrap().0 == RtmpKind::Video) {
        let body = packet.data();
        assert_eq!(&body[1..5], b"hvc1");
        match body[0] & 0x0f {
            0 => {
                // The parameter sets of the configuration record.
                let mut rest = &body[5 + 23..];
                while let [_, 0, 1, high, low, tail @ ..] = rest {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    stream.extend([0, 0, 0, 1]);
                    stream.extend_from_slice(&tail[..length]);
                    rest = &tail[length..];
                }
                assert!(rest.is_empty());
            }
            _ => units(&body[8..], &mut stream),
        }
    }
    let bare = folder.path().join("got.h265");
    fs::write(&bare, stream).unwrap();
    let got = pictures(&bare);
    let wanted = pictures(&file);
    assert!(got == wanted, "{} of {}", got.len(), wanted.len());
    target.stop();
}

#[test]
fn remux_reports_streams_that_rtmp_cannot_carry() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mpeg2.ts");
    media::make(&clip(), &["-map", "0:v", "-c:v", "mpeg2video", "-f", "mpegts"], &file);
    let nginx = Nginx::start();
    let rig =
        Rig::start(Source::app_datagrams("in"), vec![Output::rtmp_push("push", &nginx.url(), key("none")).into()]);
    let app = rig.running.app_source("in").unwrap();
    for chunk in fs::read(&file).unwrap().chunks(1316) {
        app.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
    }
    let event = rig.event(|e| matches!(e, Event::Remuxed { .. }).then(|| e.to_string()));
    assert_eq!(event, "no elementary stream can be carried over RTMP: MPEG-2 video (PID 256)");
    let stats = rig.running.stats().outputs[0].clone();
    assert_eq!(stats.state, State::Failed);
    assert_eq!(stats.media.map(|media| media.to_string()), Some(event));
    rig.stop();
}

#[test]
fn remux_ac3_eac3_and_opus_to_enhanced_rtmp_is_bit_exact() {
    let key = || key("KEY");
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
        let file = rig.file("original.ts");
        let bare = rig.file("bare");
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
        let mut got = Vec::new();
        let mut last = 0;
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
