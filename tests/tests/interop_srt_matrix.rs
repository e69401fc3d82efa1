//! SRT with every program of libsrt in both roles, in both directions, and with every key length; and with an
//! implementation that is not libsrt.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use srt_tokio::SrtSocket;
use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};
use streamlink_core::{Event, KeyLength, Output, Packet, Passphrase, Source};
use streamlink_tests::{
    PATIENCE, clip, eventually,
    peer::{self, Peer},
    rig::{Recording, Rig, free_port, text},
    rtp::{Sink, pause},
};

const SECRET: &str = "correct-horse";
/// Cases at a time.
const AT_ONCE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Ffmpeg,
    Gstreamer,
    LiveTransmit,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    program: Program,
    /// The program calls, and we listen.
    calls: bool,
    /// The bytes of the key; 0: not encrypted.
    key: u8,
}

impl Case {
    /// The program's end of the connection.
    fn url(self, port: u16) -> String {
        let mode = if self.calls { "caller&streamid=cam1" } else { "listener" };
        let packets = if self.program == Program::Ffmpeg { "&pkt_size=1316" } else { "" };
        let keys = if self.key == 0 { String::new() } else { format!("&passphrase={SECRET}&pbkeylen={}", self.key) };
        format!("srt://127.0.0.1:{port}?mode={mode}{packets}{keys}")
    }

    fn keys(self) -> Option<(Passphrase, KeyLength)> {
        (self.key > 0).then(|| (Passphrase::new(SECRET).unwrap(), self.key.to_string().parse().unwrap()))
    }

    fn source(self, port: u16) -> Source {
        match (self.calls, self.keys()) {
            (true, None) => Source::srt_listener("in", &format!("127.0.0.1:{port}")).stream_id("cam1").into(),
            (true, Some((secret, length))) => Source::srt_listener("in", &format!("127.0.0.1:{port}"))
                .stream_id("cam1")
                .encryption(secret, length)
                .into(),
            (false, None) => Source::srt_caller("in", &format!("127.0.0.1:{port}")).stream_id("cam1").into(),
            (false, Some((secret, length))) => Source::srt_caller("in", &format!("127.0.0.1:{port}"))
                .stream_id("cam1")
                .encryption(secret, length)
                .into(),
        }
    }

    fn output(self, port: u16) -> Output {
        match (self.calls, self.keys()) {
            (true, None) => Output::srt_listener("out", &format!("127.0.0.1:{port}")).stream_id("cam1").into(),
            (true, Some((secret, length))) => Output::srt_listener("out", &format!("127.0.0.1:{port}"))
                .stream_id("cam1")
                .encryption(secret, length)
                .into(),
            (false, None) => Output::srt_caller("out", &format!("127.0.0.1:{port}")).stream_id("cam1").into(),
            (false, Some((secret, length))) => Output::srt_caller("out", &format!("127.0.0.1:{port}"))
                .stream_id("cam1")
                .encryption(secret, length)
                .into(),
        }
    }

    /// The program sends, and we receive.
    fn sends(self) {
        let port = free_port();
        let from = clip();
        let url = self.url(port);
        let sender = || match self.program {
            Program::Ffmpeg => Peer::start("ffmpeg", &[&remux(&from, &["-re"])[..], &[&url]].concat()),
            Program::Gstreamer => peer::gstreamer_sends_srt(&from, &url),
            Program::LiveTransmit => {
                let input = free_port();
                let sender = Peer::sends_srt(input, &url);
                sender.wait_for_udp(input);
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let media = fs::read(&from).unwrap();
                std::thread::spawn(move || {
                    // Nobody hears the first ones of them: so the clip goes round.
                    for chunk in media.chunks(1316).cycle().take(4 * media.len() / 1316) {
                        if socket.send_to(chunk, ("127.0.0.1", input)).is_err() {
                            return;
                        }
                        for _ in 0..4 {
                            pause();
                        }
                    }
                });
                sender
            }
        };
        let mut early = None;
        if !self.calls {
            early = Some(sender());
            early.as_ref().unwrap().wait_for_udp(port);
        }
        let rig = Rig::start(self.source(port), vec![Output::tap("tap").into()]);
        let tap = Recording::start(&rig);
        let sender = early.unwrap_or_else(sender);
        let reference = match self.program {
            Program::Ffmpeg => {
                let file = rig.file("reference.ts");
                peer::run("ffmpeg", &[&remux(&from, &[])[..], &["-y", text(&file)]].concat());
                fs::read(file).unwrap()
            }
            _ => fs::read(&from).unwrap(),
        };
        let enough = reference.len() as u64 / 2;
        eventually(&format!("half of the clip in {self:?}: {}", sender.output()), || {
            (rig.running.stats().sources[0].bytes > enough).then_some(())
        });
        let source = rig.running.stats().sources[0].clone();
        assert_eq!((source.encrypted, source.lost), (self.key > 0, 0), "{self:?}");
        let got: Vec<u8> = tap.packets().iter().flat_map(|packet| packet.data().to_vec()).collect();
        let got = content(&got);
        match self.program {
            // It began somewhere in the clip, and goes round.
            Program::LiveTransmit => {
                let media = content(&reference);
                let round = [&media[..], &media[..]].concat();
                let start = (0..media.len()).step_by(188).find(|at| round[*at..].starts_with(&got[..188 * 20]));
                let start = start.unwrap_or_else(|| panic!("{self:?}: no such place"));
                assert!(media.iter().cycle().skip(start).take(got.len()).eq(&got), "{self:?}");
            }
            _ => assert!(content(&reference).starts_with(&got), "{self:?}"),
        }
        drop(sender);
        rig.stop();
    }

    /// The program receives what we send.
    fn receives(self) {
        let port = free_port();
        let url = self.url(port);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("received");
        let sink = Sink::new();
        let receiver = || match self.program {
            Program::Ffmpeg => {
                let raw = ["-v", "error", "-nostdin", "-f", "data", "-i", &url, "-map", "0", "-c", "copy"];
                Peer::start("ffmpeg", &[&raw[..], &["-flush_packets", "1", "-f", "data", text(&file)]].concat())
            }
            Program::Gstreamer => peer::gstreamer_receives_srt(&url, &file),
            Program::LiveTransmit => {
                Peer::start("srt-live-transmit", &["-q", &url, &format!("udp://{}", sink.address())])
            }
        };
        let mut early = None;
        if !self.calls {
            early = Some(receiver());
            early.as_ref().unwrap().wait_for_udp(port);
        }
        let rig = Rig::start(Source::app_datagrams("in"), vec![self.output(port)]);
        let receiver = early.unwrap_or_else(receiver);
        rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        assert_eq!(rig.running.stats().outputs[0].encrypted, self.key > 0, "{self:?}");
        let media = fs::read(clip()).unwrap();
        push(&rig, &media);
        // What GStreamer and ffmpeg have not written yet at that moment, they have soon.
        let mut got = Vec::new();
        eventually(&format!("all of the clip in {self:?}: {}", receiver.output()), || {
            match self.program {
                Program::LiveTransmit => got.extend(sink.within(Duration::from_millis(5)).unwrap_or_default()),
                _ => got = fs::read(&file).unwrap_or_default(),
            }
            (got.len() >= media.len()).then_some(())
        });
        assert!(got == media, "{self:?}: what arrived is not what was sent");
        drop(receiver);
        rig.stop();
    }
}

/// ffmpeg, making MPEG-TS of a file.
fn remux<'a>(from: &'a std::path::Path, before: &[&'a str]) -> Vec<&'a str> {
    let rest = ["-i", text(from), "-map", "0", "-c", "copy", "-f", "mpegts"];
    [&["-v", "error", "-nostdin"][..], before, &rest].concat()
}

/// GStreamer fills datagrams up with null packets (PID 8191).
fn content(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(188).filter(|p| p[1] & 0x1f != 0x1f || p[2] != 0xff).flatten().copied().collect()
}

/// Pushes media into a flow, a few Mb/s.
fn push(rig: &Rig, media: &[u8]) {
    let source = rig.running.app_source("in").unwrap();
    for (i, chunk) in media.chunks(1316).enumerate() {
        source.push(Packet::datagram(chunk.to_vec(), Instant::now())).unwrap();
        if i % 4 == 3 {
            for _ in 0..4 {
                pause();
            }
        }
    }
}

/// Tries a case with every program, role and key, a few at a time.
fn all_of_them(one: impl Fn(Case) + Sync) {
    let mut cases = Vec::new();
    for program in [Program::Ffmpeg, Program::Gstreamer, Program::LiveTransmit] {
        for calls in [true, false] {
            cases.extend([0, 16, 24, 32].map(|key| Case { program, calls, key }));
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                    println!("{case:?}");
                    one(*case);
                }
            });
        }
    });
}

#[test]
fn srt_receives_from_every_libsrt_program_and_key_length() {
    all_of_them(Case::sends);
}

#[test]
fn srt_sends_to_every_libsrt_program_and_key_length() {
    all_of_them(Case::receives);
}

/// The other end is srt-tokio, which shares no code with libsrt. It sends or receives the clip.
fn with_srt_tokio(case: Case, it_sends: bool) {
    let port = free_port();
    let media = fs::read(clip()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let socket = runtime.spawn(async move {
        let mut builder = SrtSocket::builder();
        if case.key > 0 {
            builder = builder.encryption(case.key.into(), SECRET);
        }
        let address = format!("127.0.0.1:{port}");
        if case.calls {
            builder.call(address.as_str(), Some("cam1")).await
        } else {
            builder.local(address.as_str()).listen().await
        }
    });
    let (source, output) = if it_sends {
        (case.source(port), Output::tap("tap").into())
    } else {
        (Source::app_datagrams("in").into(), case.output(port))
    };
    let rig = Rig::start(source, vec![output]);
    let mut socket =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, socket).await }).unwrap().unwrap().unwrap();
    if it_sends {
        let tap = Recording::start(&rig);
        let copy = media.clone();
        let sending = runtime.spawn(async move {
            for (number, chunk) in copy.chunks(1316).enumerate() {
                socket.send((Instant::now(), Bytes::copy_from_slice(chunk))).await.unwrap();
                if number % 4 == 3 {
                    tokio::time::sleep(Duration::from_millis(5)).await; // a few Mb/s
                }
            }
            socket.close_and_finish().await.unwrap();
        });
        let received = tap.finish(&rig);
        runtime.block_on(sending).unwrap();
        assert!(received == media, "{case:?}: {} of {} bytes", received.len(), media.len());
        let source = rig.running.stats().sources[0].clone();
        assert_eq!((source.encrypted, source.lost), (case.key > 0, 0), "{case:?}");
    } else {
        rig.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
        let wanted = media.len();
        let receiving = runtime.spawn(async move {
            let mut received = Vec::new();
            while received.len() < wanted
                && let Some(Ok((_, payload))) = socket.next().await
            {
                received.extend(payload);
            }
            received
        });
        push(&rig, &media);
        let received = runtime.block_on(async { tokio::time::timeout(PATIENCE, receiving).await }).unwrap().unwrap();
        assert!(received == media, "{case:?}: {} of {} bytes", received.len(), media.len());
    }
    rig.stop();
}

#[test]
fn srt_interoperates_with_srt_tokio_in_both_roles() {
    for (calls, key, it_sends) in
        [(true, 0, true), (true, 16, false), (false, 32, true), (false, 0, false), (true, 24, true)]
    {
        println!("calls: {calls}, key: {key}, sends: {it_sends}");
        with_srt_tokio(Case { program: Program::LiveTransmit, calls, key }, it_sends);
    }
}
