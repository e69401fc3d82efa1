//! MPEG-TS that changes in mid-stream, is joined late, or has odd sound: remuxed to RTMP over sockets, recorded, and
//! judged by ffmpeg.

use std::{cell::RefCell, fs, path::Path, time::Instant};
use streamlink_core::{Event, LeftOut, Output, Packet, Source, StreamKey};
use streamlink_tests::{
    media::{pictures, times},
    peer,
    rig::{Recording, Rig, free_port, text},
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

/// Remuxes a transport stream through the library's own RTMP source, and records what arrives, after so many changes of the selection.
fn remux(stream: &[u8], changes: usize) -> Remuxed {
    let port = free_port();
    let key = || StreamKey::new("KEY").unwrap();
    let target = Rig::start(
        Source::rtmp("in", &format!("127.0.0.1:{port}"), "live").key(key()),
        vec![Output::tap("tap").into()],
    );
    let tap = Recording::start(&target);
    let push = Output::rtmp_push("push", &format!("rtmp://127.0.0.1:{port}/live"), key());
    let rig = Rig::start(Source::app_datagrams("in"), vec![push.into()]);
    rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    let app = rig.running.app_source("in").unwrap();
    for chunk in stream.chunks(1316) {
        app.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
        streamlink_tests::rtp::pause();
    }
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
