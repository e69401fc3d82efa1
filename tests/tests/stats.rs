//! Statistics compared with observations from outside of the library: on the wire, or in a real program's recording.

use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use streamlink_core::{EndpointStats, Latency, Output, Packet, PlayerStats, RtmpKind, Source, StreamKey};
use streamlink_tests::{
    clip, eventually,
    lossy::{Lossy, watched_srt},
    media::{make, play},
    peer::Peer,
    rig::{Recording, Rig, text},
    rtp::{Sender, Sink},
    wire::Wire,
};

/// Equal within a percent, and more exactly where numbers are small.
#[track_caller]
fn agree(what: &str, counted: u64, seen: u64) {
    println!("{what}: counted {counted}, seen {seen}");
    assert!(seen > 0 && counted.abs_diff(seen) * 100 <= seen, "{what}: counted {counted}, seen {seen}");
}

/// The statistics of the source, the output and its player, when they stand still.
fn at_rest(rig: &Rig) -> (EndpointStats, EndpointStats, Option<PlayerStats>) {
    let mut last = 0;
    eventually("the end", || {
        // Statistics of players are brought up to date once a second.
        std::thread::sleep(Duration::from_millis(1200));
        let now = rig.running.stats().outputs[0].packets;
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(())
    });
    let mut stats = rig.running.stats();
    (stats.sources.remove(0), stats.outputs[0].clone(), stats.outputs[0].players.first().cloned())
}

/// The value of a metric, of the endpoint or player that a label names.
fn metric(text: &str, name: &str, label: &str) -> u64 {
    let rows = text.lines().filter(|line| line.starts_with(&format!("streamlink_{name}_total{{")));
    let row = rows.into_iter().find(|line| line.contains(label)).unwrap_or_else(|| panic!("{name} {label}: {text}"));
    row.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn srt_stats_match_the_wire_with_losses_and_retransmissions() {
    let latency = Latency::from_millis(1000).unwrap();
    let rig = Rig::start(
        Source::srt_listener("in", "127.0.0.1:0").latency(latency),
        vec![Output::srt_listener("out", "127.0.0.1:0").latency(latency).into()],
    );
    let url = rig.playback();
    let (network_in, way_in) = watched_srt(SocketAddr::from(([127, 0, 0, 1], rig.input_port())), 5, true);
    let (network_out, way_out) = watched_srt(url.trim_start_matches("srt://").parse().unwrap(), 5, false);
    let file = rig.file("played.ts");
    let command =
        format!("exec srt-live-transmit -q 'srt://{}?latency=1000' file://con >'{}'", network_out.address, text(&file));
    let player = Peer::start("sh", &["-c", &command]);
    eventually("the player", || (rig.running.stats().outputs[0].players.len() == 1).then_some(()));
    // It stays when it has sent all, so that what was lost last is sent again.
    let to_us = format!("srt://{}?latency=1000", network_in.address);
    let port = streamlink_tests::rig::free_port();
    let caller = Peer::sends_srt(port, &to_us);
    caller.wait_for_udp(port);
    let mut encoder =
        play(&clip(), &["-map", "0", "-c", "copy", "-f", "mpegts", &format!("udp://127.0.0.1:{port}?pkt_size=1316")]);
    encoder.finish();
    let (source, output, listed) = at_rest(&rig);
    let metrics = rig.engine.metrics();
    let listed = listed.expect("a player");
    network_in.finish();
    network_out.finish();
    let way_in = way_in.lock().unwrap();
    let way_out = way_out.lock().unwrap();

    let bytes = |lengths: &mut dyn Iterator<Item = usize>| lengths.sum::<usize>() as u64;
    assert_eq!(source.lost, 0);
    agree("packets in", source.packets, way_in.arrived.len() as u64);
    agree("bytes in", source.bytes, bytes(&mut way_in.arrived.values().map(|(length, _)| *length)));
    let again = way_in.arrived.values().filter(|(_, repeated)| *repeated).count() as u64;
    agree("recovered", source.recovered, again);
    agree("packets out", output.packets, way_out.sent.len() as u64);
    agree("bytes out", output.bytes, bytes(&mut way_out.sent.values().copied()));
    agree("repeats", output.retransmitted, way_out.repeats);
    agree("packets to the player", listed.packets, way_out.sent.len() as u64);
    agree("repeats to the player", listed.retransmitted, way_out.repeats);
    agree("bytes in the file", fs::metadata(&file).unwrap().len(), listed.bytes);
    // And so say the metrics.
    let peer = format!("peer=\"{}\"", listed.peer);
    assert_eq!(metric(&metrics, "player_bytes", &peer), listed.bytes);
    assert_eq!(metric(&metrics, "player_retransmitted_packets", &peer), listed.retransmitted);
    assert_eq!(metric(&metrics, "recovered_packets", "endpoint=\"in\""), source.recovered);
    drop((caller, player));
    rig.stop();
}

#[test]
fn rtp_stats_match_the_wire() {
    let sink = Sink::new();
    let rig = Rig::start(Source::rtp("in", "127.0.0.1:0"), vec![Output::rtp("out", &sink.address()).into()]);
    let seen = Arc::new(Mutex::new((0u64, 0u64, 0u64)));
    let look = seen.clone();
    let target = rig.input().trim_start_matches("rtp://").parse().unwrap();
    let network = Lossy::watched(target, 5, move |_, passed, packet| {
        let mut seen = look.lock().unwrap();
        if passed {
            seen.0 += 1;
            seen.1 += packet.len() as u64;
        } else {
            seen.2 += 1;
        }
    });
    let sender = Sender::to(&format!("rtp://{}", network.address));
    sender.stream(0..2000);
    let received = sink.drain(Duration::from_secs(1));
    let (source, output, _) = at_rest(&rig);
    let (packets, bytes, lost) = *seen.lock().unwrap();
    assert_eq!((source.packets, source.bytes), (packets, bytes));
    // The last ones may be missing without anybody knowing.
    assert!(lost > 30 && source.lost <= lost && source.lost + 5 >= lost, "{} {lost}", source.lost);
    assert_eq!((output.packets, output.bytes), (packets, bytes));
    assert_eq!(received.len() as u64, packets);
    assert_eq!(received.iter().map(|packet| packet.len() as u64).sum::<u64>(), bytes);
    rig.stop();
}

/// The tags of an FLV file: their types and bodies.
fn bodies(file: &[u8]) -> Vec<(u8, &[u8])> {
    let mut at = 13;
    let mut found = Vec::new();
    while let Some(header) = file.get(at..at + 11) {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        found.push((header[0], &file[at + 11..at + 11 + length]));
        at += 11 + length + 4;
    }
    found
}

/// The tags of an FLV file: how many, and the bytes of their bodies.
fn tags(file: &Path) -> (u64, u64) {
    let file = fs::read(file).unwrap();
    let bodies = bodies(&file);
    (bodies.len() as u64, bodies.iter().map(|(_, body)| body.len() as u64).sum())
}

#[test]
fn rtmp_stats_match_encoder_and_player() {
    let key = StreamKey::new("KEY").unwrap();
    let rig = Rig::start(
        Source::rtmp("in", "127.0.0.1:0", "live").key(key),
        vec![Output::rtmp_pull("out", "127.0.0.1:0", "play").into()],
    );
    let sent = rig.file("sent.flv");
    let played = rig.file("played.flv");
    let mut player = Peer::start("rtmpdump", &["-q", "--live", "-r", &rig.playback(), "-o", text(&played)]);
    eventually("the player", || (rig.running.stats().outputs[0].players.len() == 1).then_some(()));
    make(&clip(), &["-map", "0", "-c", "copy", "-f", "flv"], &sent);
    let mut encoder = play(&sent, &["-map", "0", "-c", "copy", "-f", "flv", &rig.input()]);
    encoder.finish();
    let (source, output, listed) = at_rest(&rig);
    player.signal(libc::SIGINT);
    player.finish(); // now all of it is in the file
    let listed = listed.expect("a player");
    let ((sent_count, sent_bytes), (count, bytes)) = (tags(&sent), tags(&played));
    agree("messages in", source.packets, sent_count);
    agree("bytes in", source.bytes, sent_bytes);
    agree("messages out", output.packets, count);
    agree("bytes out", output.bytes, bytes);
    agree("messages to the player", listed.packets, count);
    agree("bytes to the player", listed.bytes, bytes);
    rig.stop();
}

#[test]
fn rtmp_stats_count_media_without_readers() -> Result<(), Box<dyn Error>> {
    const SOUND_OR_PICTURE: [u8; 2] = [8, 9];
    let rig = Rig::start(Source::rtmp("in", "127.0.0.1:0", "live").key(StreamKey::new("KEY")?), Vec::new());
    let sent = rig.file("sent.flv");
    make(&clip(), &["-map", "0", "-c", "copy", "-f", "flv"], &sent);
    let mut encoder = play(&sent, &["-map", "0", "-c", "copy", "-f", "flv", &rig.input()]);
    eventually("some of it is counted", || (rig.running.stats().sources[0].packets > 50).then_some(()));
    rig.engine.block_on(rig.running.add_output(Output::tap("tap")))?;
    let tap = Recording::start(&rig);
    encoder.finish();
    rig.source_lost();
    let source = rig.running.stats().sources.remove(0);
    let (count, bytes) = tags(&sent);
    agree("messages in", source.packets, count);
    agree("bytes in", source.bytes, bytes);
    assert_eq!(source.media.as_deref(), Some("H.264, AAC"));
    let file = fs::read(&sent)?;
    let whole: Vec<&[u8]> =
        bodies(&file).into_iter().filter(|(kind, _)| SOUND_OR_PICTURE.contains(kind)).map(|(_, body)| body).collect();
    // The last message has come to the tap, and so have all before it, from one of them on.
    let tapped = || -> Vec<Packet> {
        let media = |packet: &Packet| !matches!(packet.rtmp_message(), Some((RtmpKind::Data, _)));
        tap.packets().into_iter().filter(media).collect()
    };
    let last = whole.last().ok_or("an empty file")?;
    eventually("the end", || tapped().last().is_some_and(|packet| packet.data() == last).then_some(()));
    let tapped = tapped();
    assert!(tapped.len() > 50 && tapped.len() < whole.len(), "{} of {}", tapped.len(), whole.len());
    let rest = &whole[whole.len() - tapped.len()..];
    assert!(tapped.iter().map(Packet::data).eq(rest), "{} messages, but not the last ones", tapped.len());
    rig.stop();
    Ok(())
}

/// Number of RTP packets interleaved with RTSP messages (RFC 2326 section 10.12), and their bytes.
fn interleaved(mut said: &[u8]) -> (u64, u64) {
    let mut packets = 0;
    let mut bytes = 0;
    while !said.is_empty() {
        if said[0] == b'$' {
            let Some(header) = said.get(..4) else { break };
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            if header[1] % 2 == 0 && said.len() >= 4 + length {
                packets += 1;
                bytes += length as u64;
            }
            said = said.get(4 + length..).unwrap_or_default();
            continue;
        }
        let Some(end) = said.windows(4).position(|w| w == b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&said[..end]).to_lowercase();
        let body = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        said = said.get(end + 4 + body.unwrap_or(0)..).unwrap_or_default();
    }
    (packets, bytes)
}

#[test]
fn rtsp_stats_match_the_wire() {
    let rig = Rig::start(
        Source::rtsp_listener("in", "127.0.0.1:0", "cam"),
        vec![Output::rtsp_listener("out", "127.0.0.1:0", "play").into()],
    );
    let address = |url: &str| url.trim_start_matches("rtsp://").split('/').next().unwrap().parse().unwrap();
    let way_in = Wire::to(address(&rig.input()));
    let way_out = Wire::to(address(&rig.playback()));
    let file = rig.file("clip.mp4");
    make(&clip(), &["-map", "0", "-c", "copy", "-bsf:a", "aac_adtstoasc"], &file);
    let to_us = format!("rtsp://{}/cam", way_in.address);
    let mut encoder = play(&file, &["-map", "0", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", &to_us]);
    eventually("the publisher", || (rig.running.stats().sources[0].packets > 0).then_some(()));
    let from_us = format!("rtsp://{}/play", way_out.address);
    let arguments = ["-v", "error", "-nostdin", "-rtsp_transport", "tcp", "-i", &from_us];
    let player = Peer::start("ffmpeg", &[&arguments[..], &["-map", "0", "-c", "copy", "-f", "null", "-"]].concat());
    let listed = eventually("a player that gets something", || {
        rig.running.stats().outputs[0].players.first().filter(|player| player.packets > 100).cloned()
    });
    encoder.finish();
    let (source, output, last) = at_rest(&rig);
    let listed = last.unwrap_or(listed);
    let (packets, bytes) = interleaved(&way_in.said()[0]);
    agree("packets in", source.packets, packets);
    agree("bytes in", source.bytes, bytes);
    let (packets, bytes) = interleaved(&way_out.said()[1]);
    agree("packets out", output.packets, packets);
    agree("bytes out", output.bytes, bytes);
    agree("packets to the player", listed.packets, packets);
    drop(player);
    rig.stop();
}

#[test]
fn rtmp_and_rtsp_sources_list_their_tracks() {
    let clip = clip();
    for (source, format) in [
        (Source::from(Source::rtmp("in", "127.0.0.1:0", "live").key(StreamKey::new("KEY").unwrap())), &["flv"][..]),
        (Source::rtsp_listener("in", "127.0.0.1:0", "cam").into(), &["rtsp", "-rtsp_transport", "tcp"]),
        (Source::srt_listener("in", "127.0.0.1:0").into(), &["mpegts"]),
    ] {
        let rig = Rig::start(source, vec![Output::tap("tap").into()]);
        let url = rig.input();
        let encode = ["-map", "0", "-c:v", "copy", "-c:a", "aac", "-ar", "44100", "-ac", "1", "-f"];
        let publisher = play(&clip, &[&encode[..], format, &[&url]].concat());
        let mut seen = Vec::new();
        eventually("two tracks with their bit rates", || {
            seen = rig.running.stats().sources[0].tracks.clone();
            (seen.len() == 2 && seen.iter().all(|track| track.bit_rate > 10_000)).then_some(())
        });
        drop(publisher);
        let [video, audio] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((video.codec, audio.codec), ("H.264", "AAC"), "{url}");
        assert!(seen.iter().all(|track| track.left_out.is_none()), "{seen:?}");
        if url.starts_with("srt") {
            assert_eq!((video.pid, audio.pid, video.program), (256, 257, 1));
        } else {
            let sound = (audio.sample_rate, audio.channels);
            assert!((video.width, video.height) > (100, 100) && sound == (44_100, 1), "{url}: {seen:?}");
            assert_eq!(video.track, Some(0), "{url}");
        }
        // Nothing comes any more.
        eventually("no bit rate", || {
            rig.running.stats().sources[0].tracks.iter().all(|track| track.bit_rate == 0).then_some(())
        });
        rig.stop();
    }
}
