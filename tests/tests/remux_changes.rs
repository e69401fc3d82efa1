//! MPEG-TS that changes in mid-stream, is joined late, or has odd sound: remuxed to RTMP over sockets, recorded, and
//! judged by ffmpeg.

use std::{cell::RefCell, fs, path::Path, time::Instant};
use streamlink_core::{Event, Failover, LeftOut, Output, Packet, Source, StreamKey};
use streamlink_tests::{
    media::{pictures, times},
    paff, peer,
    rig::{Recording, Rig, free_port, text},
    ts,
};

const PICTURE: &str = "testsrc2=size=320x180:rate=25:duration=3";
const LARGER: &str = "testsrc2=size=480x270:rate=25:duration=3";
const SOUND: &str = "sine=frequency=440:sample_rate=48000:duration=3";
const X264: [&str; 12] =
    ["-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p"];

/// Makes a transport stream from generated picture and sound.
fn make(picture: &str, sound: &str, more: &[&str], file: &Path) -> Vec<u8> {
    let inputs = ["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound];
    let audio: &[&str] = if more.contains(&"-c:a") { &[] } else { &["-c:a", "aac"] };
    peer::run("ffmpeg", &[&inputs[..], &X264, audio, more, &["-f", "mpegts", text(file)]].concat());
    fs::read(file).unwrap()
}

/// Result of a remux: what the receiver recorded as FLV, the events of selection, and the tracks at the end.
struct Remuxed {
    flv: std::path::PathBuf,
    events: Vec<String>,
    tracks: Vec<streamlink_core::MediaTrack>,
    _rig: tempfile::TempDir,
}

/// Starts a flow with these sources that pushes to the library's own RTMP source, and a recording of what arrives.
fn start(sources: &[&str]) -> (Rig, Rig, Recording) {
    let port = free_port();
    let key = || StreamKey::new("KEY").unwrap();
    let target = Rig::start(
        Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(key()),
        vec![Output::tap("tap").into()],
    );
    let tap = Recording::start(&target);
    let push = Output::rtmp_push("push", &format!("rtmp://127.0.0.1:{port}/live"), key());
    let sources = sources.iter().map(|name| Source::app_datagrams(*name).into()).collect();
    let rig = Rig::start_with(sources, Failover::default(), vec![push.into()]);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    (rig, target, tap)
}

fn push(rig: &Rig, source: &str, stream: &[u8]) {
    let app = rig.running.app_source(source).unwrap();
    for chunk in stream.chunks(1316) {
        app.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
        streamlink_tests::rtp::pause();
    }
}

/// Remuxes transport streams of one source after another, and writes what arrives to a file.
fn remux_failover(streams: &[&[u8]], flv: &Path) {
    let names: Vec<String> = (0..streams.len()).map(|number| format!("source-{number}")).collect();
    let (rig, target, tap) = start(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (number, (name, stream)) in names.iter().zip(streams).enumerate() {
        if number > 0 {
            rig.running.switch_to(name).unwrap();
        }
        push(&rig, name, stream);
    }
    rig.event(|e| matches!(e, Event::Switched { .. }).then_some(()));
    rig.stop();
    let packets = tap.finish_packets(&target);
    target.stop();
    fs::write(flv, flv_file(&packets)).unwrap();
}

/// Remuxes a transport stream through the library's own RTMP source, and records what arrives, after so many changes of the selection.
fn remux(stream: &[u8], changes: usize) -> Remuxed {
    let (rig, target, tap) = start(&["in"]);
    push(&rig, "in", stream);
    let seen = RefCell::new(Vec::new());
    rig.event(|e| {
        if matches!(e, Event::Remuxed { .. }) {
            seen.borrow_mut().push(e.to_string());
        }
        (seen.borrow().len() >= changes).then_some(())
    });
    let tracks = rig.running.stats().outputs[0].tracks.clone();
    let events = seen.into_inner();
    rig.stop();
    let packets = tap.finish_packets(&target);
    target.stop();
    let folder = tempfile::tempdir().unwrap();
    let flv = folder.path().join("got.flv");
    fs::write(&flv, flv_file(&packets)).unwrap();
    Remuxed { flv, events, tracks, _rig: folder }
}

fn flv_file(packets: &[Packet]) -> Vec<u8> {
    let mut file = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
    for packet in packets {
        let (kind, time) = packet.rtmp_message().unwrap();
        let body = packet.data();
        let number = match kind {
            streamlink_core::RtmpKind::Audio => 8,
            streamlink_core::RtmpKind::Video => 9,
            _ => 18,
        };
        file.push(number);
        file.extend(&(body.len() as u32).to_be_bytes()[1..]);
        let [high, rest @ ..] = time.to_be_bytes();
        file.extend(rest);
        file.push(high);
        file.extend([0; 3]);
        file.extend_from_slice(body);
        file.extend((body.len() as u32 + 11).to_be_bytes());
    }
    file
}

/// Returns what ffmpeg complains about when it decodes everything.
fn complaints(file: &Path) -> String {
    peer::run("sh", &["-c", &format!("ffmpeg -v error -nostdin -i {} -f null - 2>&1", text(file))])
}

#[test]
fn remux_of_a_replaced_encoder_keeps_every_picture() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.ts", "b.ts"].map(|name| folder.path().join(name));
    let first = make(PICTURE, SOUND, &[], &a);
    let moved = ["-streamid", "0:512", "-streamid", "1:513", "-mpegts_pmt_start_pid", "0x30"];
    let second = make(LARGER, SOUND, &moved, &b);
    let got = remux(&[first, second].concat(), 2);
    assert_eq!(
        got.events,
        ["RTMP carries H.264 (PID 256), AAC (PID 257)", "RTMP carries H.264 (PID 512), AAC (PID 513)"]
    );
    assert_eq!(complaints(&got.flv), "");
    assert_eq!(pictures(&got.flv).len(), pictures(&a).len() + pictures(&b).len());
    for stream in ["v:0", "a:0"] {
        let times = times(&got.flv, stream);
        assert!(times.windows(2).all(|w| w[1].0 >= w[0].0 && w[1].0 - w[0].0 < 0.13), "{stream} {times:?}");
    }
    let video = times(&got.flv, "v:0").last().unwrap().0;
    let audio = times(&got.flv, "a:0").last().unwrap().0;
    assert!((video - audio).abs() < 0.15, "{video} {audio}");
    let track = &got.tracks[0];
    assert_eq!((track.pid, track.codec, track.width, track.height), (512, "H.264", 480, 270));
}

#[test]
fn remux_of_intra_refresh_joined_late_begins_with_sound_and_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("intra.ts");
    let refresh = ["-bf", "0", "-x264-params", "repeat-headers=1:intra-refresh=1:keyint=25:bframes=0"];
    let stream = make(PICTURE, SOUND, &refresh, &file);
    let late = stream.len() / 4 / 188 * 188;
    let got = remux(&stream[late..], 1);
    let video = times(&got.flv, "v:0");
    let audio = times(&got.flv, "a:0");
    assert!(video.len() > 25 && audio.len() > 80, "{} {}", video.len(), audio.len());
    assert!(audio[0].0 < 0.1 && video[0].0 < 1.2, "{audio:?} {video:?}");
    assert!(pictures(&got.flv).len() > 20);
}

/// Returns the pictures that ffmpeg decodes from the HEVC of a recording, and what it complains about. It reads no HEVC
/// in FLV, so that the messages are taken apart.
fn hevc(file: &Path) -> (usize, String) {
    let bytes = fs::read(file).unwrap();
    let mut stream = Vec::new();
    let mut units = |data: &[u8], prefix: usize| {
        let mut rest = data;
        while rest.len() > prefix {
            let (length, tail) = rest.split_at(prefix);
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            stream.extend([0, 0, 0, 1]);
            stream.extend_from_slice(&tail[..length]);
            rest = &tail[length..];
        }
    };
    let mut tags = &bytes[13..];
    while let [kind, a, b, c, _, _, _, _, _, _, _, rest @ ..] = tags {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let body = &rest[..length];
        if *kind == 9 && body[0] & 0x0f == 1 {
            units(&body[8..], 4);
        } else if *kind == 9 {
            // The parameter sets of the configuration record, one of each type.
            let mut sets = &body[5 + 23..];
            while let [_, 0, 1, high, low, tail @ ..] = sets {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                units(&sets[3..5 + length], 2);
                sets = &tail[length..];
            }
        }
        tags = &rest[length + 4..];
    }
    let bare = file.with_extension("h265");
    fs::write(&bare, stream).unwrap();
    (pictures(&bare).len(), complaints(&bare))
}

#[test]
fn remux_of_hevc_with_gradual_refresh_joined_late_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gradual.ts");
    let x265 = "log-level=none:keyint=25:intra-refresh=1:repeat-headers=1:pools=1:bframes=0";
    let arguments = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", x265];
    let long = |source: &str| source.replace("duration=3", "duration=6");
    let stream = make(&long(PICTURE), &long(SOUND), &arguments, &file);
    let late = stream.len() / 8 / 188 * 188;
    let joined = folder.path().join("late.ts");
    fs::write(&joined, &stream[late..]).unwrap();
    let got = remux(&stream[late..], 1);
    let (pictures, complaints) = hevc(&got.flv);
    // x265 announces no recovery point: the stream begins where the parameter sets are repeated, two seconds on at most,
    // and there are no more complaints than about the stream as it is.
    let original = self::complaints(&joined);
    assert!(pictures > 75, "{pictures}");
    assert!(complaints.lines().count() <= original.lines().count(), "{complaints}\n instead of \n{original}");
    assert!(!complaints.contains("PPS"), "{complaints}");
    // Newer decoders show nothing before a recovery point: there is one before the first picture, after 7 pictures.
    let bare = fs::read(got.flv.with_extension("h265")).unwrap();
    let find = |bytes: &[u8]| bare.windows(bytes.len()).position(|window| window == bytes);
    let announced = find(&[0, 0, 1, 0x4e, 1, 6, 2, 0b0001_1100, 0b1100_0000, 0x80]);
    let first = find(&[0, 0, 1, 0x02, 1]);
    assert!(announced.is_some() && announced < first, "{announced:?} {first:?}");
    // Nor do those of players that come later: there is one wherever the encoder begins a refresh.
    let later = bare.windows(7).filter(|window| window[..5] == [0, 0, 1, 0x4e, 1] && window[5..] == [6, 2]).count();
    assert!(later > 2, "{later}");
}

#[test]
fn remux_of_intra_refresh_without_announcement_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("silent.ts");
    let refresh = ["-bf", "0", "-x264-params", "repeat-headers=1:intra-refresh=1:keyint=25:bframes=0"];
    let long = |source: &str| source.replace("duration=3", "duration=9");
    let mut stream = make(&long(PICTURE), &long(SOUND), &refresh, &file);
    // The messages about recovery points become padding, as some encoders send none.
    for at in 0..stream.len() - 5 {
        if stream[at..at + 5] == [0, 0, 1, 6, 6] {
            stream[at + 3] = 0x0c;
        }
    }
    let late = stream.len() / 9 / 188 * 188;
    let got = remux(&stream[late..], 1);
    let shown = pictures(&got.flv).len();
    assert!(shown > 50, "{shown} of {}", times(&got.flv, "v:0").len());
    assert!(times(&got.flv, "a:0").len() > 300);
}

#[test]
fn remux_failover_to_intra_refresh_leaves_no_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.ts", "b.ts"].map(|name| folder.path().join(name));
    let first = make(PICTURE, SOUND, &["-bf", "0"], &a);
    let refresh = ["-bf", "0", "-x264-params", "repeat-headers=1:intra-refresh=1:keyint=25:bframes=0"];
    let second = make(LARGER, SOUND, &refresh, &b);
    // Joined before a recovery point.
    let late = second.len() / 4 / 188 * 188;
    let got = folder.path().join("got.flv");
    remux_failover(&[&first, &second[late..]], &got);
    assert_eq!(complaints(&got), "");
    let shown = pictures(&got).len();
    let sent = times(&got, "v:0").len();
    assert!(shown + 26 >= sent && sent > 100, "{shown} of {sent}"); // those before the recovery point are not shown
}

#[test]
fn remux_failover_to_open_groups_of_hevc_breaks_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.ts", "b.ts"].map(|name| folder.path().join(name));
    let x265 = "log-level=none:pools=1:keyint=25:min-keyint=25:open-gop=1:bframes=3:repeat-headers=1";
    let arguments = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", x265];
    let first = make(PICTURE, SOUND, &arguments, &a);
    let second = make(&PICTURE.replace("testsrc2", "smptebars"), SOUND, &arguments, &b);
    // Joined within the first group.
    let late = second.len() / 4 / 188 * 188;
    let got = folder.path().join("got.flv");
    remux_failover(&[&first, &second[late..]], &got);
    let (pictures, complaints) = hevc(&got);
    assert!(pictures > 100, "{pictures}");
    assert_eq!(complaints, "");
    // The clean random access picture that takes over is one with a broken link, and no other is.
    let bare = fs::read(got.with_extension("h265")).unwrap();
    let count = |header: u8| bare.windows(5).filter(|window| **window == [0, 0, 1, header, 1]).count();
    assert_eq!((count(16 << 1), count(21 << 1) > 1), (1, true));
}

#[test]
fn remux_of_field_pictures_makes_frames() {
    const FRAME: u64 = 3600;
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("fields.h264");
    let plain: Vec<u8> = paff::frames(50, true).into_iter().flatten().flatten().collect();
    fs::write(&bare, plain).unwrap();
    let wanted = pictures(&bare);
    assert_eq!(wanted.len(), 50);
    for delimiters in [true, false] {
        let frames = paff::frames(50, delimiters);
        let at = |number: usize| Some(90_000 + number as u64 * FRAME);
        let together = frames.iter().enumerate().map(|(n, [top, bottom])| (at(n), [&top[..], bottom].concat()));
        let apart = |stamps: bool| {
            let second = move |n: usize| at(n).filter(|_| stamps).map(|time| time + FRAME / 2);
            let fields = frames.iter().enumerate();
            fields.flat_map(move |(n, [top, bottom])| [(at(n), top.clone()), (second(n), bottom.clone())])
        };
        for (name, packets) in [
            ("a PES packet for each frame", together.clone().collect::<Vec<_>>()),
            ("for each field, all with times", apart(true).collect()),
            ("for each field, the first ones with times", apart(false).collect()),
        ] {
            let got = remux(&ts::transport_stream(&packets), 1);
            let video = times(&got.flv, "v:0");
            assert_eq!(video.len(), 50, "{name}");
            assert!(video.windows(2).all(|w| (0.039..0.041).contains(&(w[1].0 - w[0].0))), "{name}: {video:?}");
            assert!(pictures(&got.flv) == wanted, "{name}");
            assert_eq!(complaints(&got.flv), "", "{name}");
        }
    }
}

#[test]
fn remux_of_aac_with_a_program_configuration_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quad.ts");
    let quad = "aevalsrc=0.1*sin(440*t)|0.1*sin(550*t)|0.1*sin(660*t)|0.1*sin(770*t):c=quad:s=48000:d=3";
    make(PICTURE, quad, &["-c:a", "aac", "-ac", "4", "-channel_layout", "quad"], &file);
    let got = remux(&fs::read(&file).unwrap(), 1);
    assert_eq!(complaints(&got.flv), "");
    let channels = ["-v", "error", "-select_streams", "a:0", "-show_entries", "stream=channels", "-of", "csv=p=0"];
    assert_eq!(peer::run("ffprobe", &[&channels[..], &[text(&got.flv)]].concat()).trim(), "4");
    let audio = got.tracks.iter().find(|track| track.codec == "AAC").unwrap();
    assert_eq!((audio.channels, audio.sample_rate), (4, 48_000));
}

#[test]
fn remux_prefers_television_to_radio() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("programs.ts");
    let programs =
        ["-map", "1:a", "-map", "0:v", "-map", "1:a", "-program", "title=radio:st=0", "-program", "title=tv:st=1:st=2"];
    let stream = make(PICTURE, SOUND, &programs, &file);
    let got = remux(&stream, 1);
    assert_eq!(got.events, ["RTMP carries H.264 (PID 257), AAC (PID 258); left out: AAC (PID 256): program 1 radio"]);
    assert!(got.tracks.iter().any(|track| track.left_out == Some(LeftOut::OtherProgram)));
    assert_eq!(pictures(&got.flv).len(), 75);
}
