//! Checks the library on this machine: a clip passes through every protocol, and every byte of it is compared.
//!
//! The clip (H.264 and AAC in MPEG-TS) is played over RTP into a flow; the flow hands it to three RTP receivers and to a
//! tap in this process. The same clip is pushed into a second flow, which serves it over encrypted SRT to a third one,
//! and publishes it as RTMP to a fourth one, which serves it to a fifth; and into a sixth, which serves it over RTSP to
//! a seventh. All ends check every byte; at the end of RTMP it is every picture.
//!
//!     cargo run --release --example selftest

use std::{
    error::Error,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, Bitrate, Engine, Flow, FlowHandle, KeyLength, Latency, Output, Packet, Passphrase, PayloadTypes,
    RtmpKind, RtspTransport, Source, TapCallback,
};
use streamlink_examples::{Table, split_key};

/// Made with ffmpeg: five seconds of a test picture and a tone.
const CLIP: &[u8] = include_bytes!("media/clip.ts");
/// The rate at which the clip was made.
const CLIP_RATE: Bitrate = Bitrate::kbps(1100);
/// Seven transport packets a datagram, as is usual.
const PAYLOAD: usize = 7 * 188;
const RTP_HEADER: usize = 12;
/// The pictures in the clip.
const PICTURES: usize = 125;
/// A receiver that hears nothing for so long has heard all there is.
const SILENCE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let names = ["studio", "partner", "archive"];
    let mut receivers = Vec::new();
    let mut builder = Flow::builder("selftest", Bitrate::mbps(20))
        .source(Source::rtp("clip", "127.0.0.1:0").payload_types(PayloadTypes::MPEG_TS).allow("127.0.0.1".parse()?))
        .output(Output::tap("tap"));
    for name in names {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(SILENCE))?;
        builder = builder.output(Output::rtp(name, &socket.local_addr()?.to_string()));
        receivers.push((name, thread::spawn(move || receive(&socket))));
    }
    let flow = builder.build()?;

    let engine = Engine::new()?;
    let running = engine.block_on(engine.start(flow))?;
    let address = running.input_addresses().first().cloned().unwrap_or_default();
    println!(
        "playing {} bytes of MPEG-TS into {address}, out of it to {} receivers and a tap",
        CLIP.len(),
        names.len()
    );

    let (tapped, calls) = collect(&running, RTP_HEADER)?;
    let (studio, player) = rtmp(&engine)?;
    let (messages, rtmp_calls) = pictures(&player)?;
    let (serving, receiving) = srt(&engine, &studio.input_addresses()[0])?;
    let (received, srt_calls) = collect(&receiving, 0)?;
    let app = serving.app_source("clip")?;
    println!("and over SRT, encrypted, from {} to another flow", serving.playback_urls()[0].1);
    println!("and over RTMP to a flow that serves it at {}, to yet another", studio.playback_urls()[0].1);
    let (camera, viewer) = rtsp(&engine)?;
    let (viewed, rtsp_calls) = collect(&viewer, RTP_HEADER)?;
    println!("and over RTSP, from {}\n", camera.playback_urls()[0].1);
    let lens = camera.app_source("clip")?;
    let target = address.trim_start_matches("rtp://").to_owned();
    let clip = thread::spawn(move || play(&target, &app, &lens));
    let mut table = Table::default();
    while !clip.is_finished() {
        thread::sleep(Duration::from_millis(500));
        table.draw_all(&[running.stats(), serving.stats(), studio.stats(), camera.stats()]);
    }
    clip.join().map_err(|_| "the player failed")??;

    let mut good = true;
    let mut verdict = |name: &str, bytes: &[u8]| {
        let same = bytes == CLIP;
        println!("{name:<8} {:>7} bytes, {}", bytes.len(), if same { "every byte as sent" } else { "NOT as sent" });
        good &= same;
    };
    println!();
    for (name, receiver) in receivers {
        verdict(name, &receiver.join().map_err(|_| "a receiver failed")??);
    }
    let silence = Instant::now();
    let source = running.stats().sources.into_iter().next();
    engine.block_on(running.stop());
    engine.block_on(calls.stop());
    verdict("tap", &tapped.iter().flatten().collect::<Vec<u8>>());
    // What SRT holds back for its latency is still handed over.
    engine.block_on(serving.stop());
    while receiving.stats().sources.first().is_some_and(|s| (s.bytes as usize) < CLIP.len())
        && silence.elapsed() < SILENCE
    {
        thread::sleep(Duration::from_millis(10));
    }
    engine.block_on(receiving.stop());
    engine.block_on(srt_calls.stop());
    verdict("srt", &received.iter().flatten().collect::<Vec<u8>>());
    // All that was published has been served when both ends have counted the same.
    let all = |flow: &FlowHandle| flow.stats().sources.first().map(|s| s.packets);
    while all(&studio) != all(&player) && silence.elapsed() < 2 * SILENCE {
        thread::sleep(Duration::from_millis(10));
    }
    engine.block_on(player.stop());
    engine.block_on(rtmp_calls.stop());
    engine.block_on(studio.stop());
    while all(&camera) != all(&viewer) && silence.elapsed() < 3 * SILENCE {
        thread::sleep(Duration::from_millis(10));
    }
    engine.block_on(viewer.stop());
    engine.block_on(rtsp_calls.stop());
    engine.block_on(camera.stop());
    let viewed = viewed.iter().flatten().collect::<Vec<u8>>();
    println!(
        "{:<8} {:>7} bytes, {}",
        "rtsp",
        viewed.len(),
        if viewed == CLIP { "every byte as sent" } else { "NOT as sent" }
    );
    good &= viewed == CLIP;
    let shown = messages.iter().count();
    println!("{:<8} {shown:>7} pictures of {PICTURES}", "rtmp");
    good &= shown == PICTURES;
    println!("\nthe source carried {}", source.and_then(|s| s.media).unwrap_or_else(|| "nothing known".into()));
    if good { Ok(()) } else { Err("what arrived is not what was sent".into()) }
}

/// Two flows: one that publishers push to and that serves players, and one that plays from it.
fn rtmp(engine: &Engine) -> Result<(FlowHandle, FlowHandle), Box<dyn Error>> {
    let studio = Flow::builder("selftest-rtmp", Bitrate::mbps(20))
        .source(Source::rtmp("publisher", "127.0.0.1:0", "live"))
        .output(Output::rtmp_pull("players", "127.0.0.1:0", "play"))
        .build()?;
    let studio = engine.block_on(engine.start(studio))?;
    let (address, key) = split_key(&studio.playback_urls()[0].1)?;
    let player = Flow::builder("selftest-rtmp-in", Bitrate::mbps(20))
        .source(Source::rtmp_pull("play", &address, key))
        .output(Output::tap("tap"))
        .build()?;
    Ok((studio, engine.block_on(engine.start(player))?))
}

/// Two flows: one that serves over RTSP what the program pushes, and one that plays from it.
fn rtsp(engine: &Engine) -> Result<(FlowHandle, FlowHandle), Box<dyn Error>> {
    let camera = Flow::builder("selftest-rtsp-out", Bitrate::mbps(20))
        .source(Source::app_rtsp("clip"))
        .output(Output::rtsp_listener("players", "127.0.0.1:0", "clip"))
        .build()?;
    let camera = engine.block_on(engine.start(camera))?;
    // One track: MPEG-TS over RTP.
    let sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n";
    camera.app_source("clip")?.set_sdp(sdp)?;
    let viewer = Flow::builder("selftest-rtsp-in", Bitrate::mbps(20))
        .source(Source::rtsp_caller("play", &camera.playback_urls()[0].1).transport(RtspTransport::Tcp))
        .output(Output::tap("tap"))
        .build()?;
    let viewer = engine.block_on(engine.start(viewer))?;
    // Playing starts when the player is there.
    engine.block_on(async {
        while let Some(event) = camera.next_event().await {
            if matches!(event, streamlink_core::Event::OutputConnected { .. }) {
                break;
            }
        }
    });
    Ok((camera, viewer))
}

/// Hands over every picture that the tap of a flow sees: its FLV message, without those that only configure decoders.
#[allow(clippy::type_complexity)]
fn pictures(flow: &FlowHandle) -> Result<(std::sync::mpsc::Receiver<Packet>, TapCallback), Box<dyn Error>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let calls = flow.tap("tap")?.for_each(move |packet| {
        let video = packet.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Video);
        if video && packet.data().get(1) == Some(&1) {
            let _ = sender.send(packet); // read until the sender is gone
        }
    });
    Ok((receiver, calls))
}

/// Two flows: one that serves over SRT what the program pushes, and publishes it over RTMP, and one that fetches the
/// former.
fn srt(engine: &Engine, rtmp: &str) -> Result<(FlowHandle, FlowHandle), Box<dyn Error>> {
    let secret = || Passphrase::new("correct horse battery");
    let (address, key) = split_key(rtmp)?;
    let serving = Flow::builder("selftest-srt-out", Bitrate::mbps(20))
        .source(Source::app_datagrams("clip"))
        .output(Output::srt_listener("players", "127.0.0.1:0").encryption(secret()?, KeyLength::Aes256))
        .output(Output::rtmp_push("platform", &address, key))
        .build()?;
    let serving = engine.block_on(engine.start(serving))?;
    let address = serving.playback_urls()[0].1.trim_start_matches("srt://").to_owned();
    let receiving = Flow::builder("selftest-srt-in", Bitrate::mbps(20))
        .source(
            // Every byte is to arrive, also where the machine has much else to do.
            Source::srt_caller("fetch", &address)
                .latency(Latency::INTERCONTINENTAL)
                .encryption(secret()?, KeyLength::Aes256),
        )
        .output(Output::tap("tap"))
        .build()?;
    let receiving = engine.block_on(engine.start(receiving))?;
    // Playing starts when the player and the platform are there.
    engine.block_on(async {
        let mut missing = 2;
        while missing > 0
            && let Some(event) = serving.next_event().await
        {
            missing -= usize::from(matches!(event, streamlink_core::Event::OutputConnected { .. }));
        }
    });
    Ok((serving, receiving))
}

/// Collects what the tap of a flow hands over, without the first bytes of each packet.
#[allow(clippy::type_complexity)]
fn collect(
    flow: &FlowHandle,
    skip: usize,
) -> Result<(std::sync::mpsc::Receiver<bytes::Bytes>, TapCallback), Box<dyn Error>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let calls = flow.tap("tap")?.for_each(move |packet| {
        let _ = sender.send(packet.data().slice(skip..)); // read until the sender is gone
    });
    Ok((receiver, calls))
}

/// Sends the clip in real time as MPEG-TS over RTP (RFC 2250), and pushes it into two flows.
fn play(target: &str, app: &AppSource, lens: &AppSource) -> std::io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(target)?;
    let start = Instant::now();
    let mut sent = 0u64;
    for (sequence, payload) in CLIP.chunks(PAYLOAD).enumerate() {
        let due = Duration::from_secs_f64(sent as f64 * 8.0 / CLIP_RATE.as_bps() as f64);
        thread::sleep(due.saturating_sub(start.elapsed()));
        let mut packet = vec![0x80, 33];
        packet.extend((sequence as u16).to_be_bytes());
        packet.extend(((due.as_secs_f64() * 90_000.0) as u32).to_be_bytes());
        packet.extend(0x5eed_u32.to_be_bytes());
        packet.extend(payload);
        socket.send(&packet)?;
        lens.push(Packet::rtsp(0, packet, Instant::now())).map_err(std::io::Error::other)?;
        app.push(Packet::datagram(payload, Instant::now())).map_err(std::io::Error::other)?;
        sent += payload.len() as u64;
    }
    Ok(())
}

/// Collects payloads until nothing comes any more.
fn receive(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 2048];
    let mut started = false;
    loop {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                started = true;
                bytes.extend_from_slice(buffer.get(RTP_HEADER..n).unwrap_or_default());
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if started {
                    return Ok(bytes);
                }
            }
            Err(e) => return Err(e),
        }
    }
}
