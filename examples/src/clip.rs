//! The clip that examples play into their flows in real time: five seconds of a test picture and a tone.

use crate::Table;
use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Bitrate, FlowHandle, Packet, StreamKey};

/// H.264 and AAC in MPEG-TS, made with ffmpeg.
const CLIP: &[u8] = include_bytes!("../media/clip.ts");
/// The rate at which the clip was made.
const CLIP_RATE: Bitrate = Bitrate::kbps(1100);
/// Bytes of seven transport packets, the usual content of a datagram.
const PAYLOAD: usize = 7 * 188;
/// Presentation of the clip as RTSP announces it: one track, MPEG-TS over RTP (RFC 2250).
const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n";
/// Interval between two tables of rates.
const TABLE_INTERVAL: Duration = Duration::from_millis(500);

/// Splits `rtmp://host:port/app/key`, as a person pastes it into an encoder, into the address and the key.
///
/// # Errors
/// When the URL has no key, or one that is not legal.
pub fn split_key(url: &str) -> Result<(String, StreamKey), Box<dyn Error>> {
    let (address, key) = url.rsplit_once('/').ok_or("an address without a key")?;
    Ok((address.to_owned(), StreamKey::new(key)?))
}

/// Pushes the clip in real time into those of the flows that have an application source called `clip`, and draws the
/// rates of all of them.
///
/// # Errors
/// When a flow refuses the clip, or its presentation.
pub fn play_clip(flows: &[&FlowHandle]) -> Result<(), Box<dyn Error>> {
    let sources: Vec<AppSource> = flows.iter().filter_map(|flow| flow.app_source("clip").ok()).collect();
    for source in &sources {
        if source.family() == streamlink_core::MediaFamily::Rtsp {
            source.set_sdp(SDP)?;
        }
    }
    let mut table = Table::default();
    let start = Instant::now();
    let mut next_table = TABLE_INTERVAL;
    let mut sent = 0;
    for (sequence, payload) in CLIP.chunks(PAYLOAD).enumerate() {
        let due = Duration::from_secs_f64(f64::from(sent) * 8.0 / CLIP_RATE.as_bps() as f64);
        thread::sleep(due.saturating_sub(start.elapsed()));
        for source in &sources {
            let now = Instant::now();
            let packet = match source.family() {
                streamlink_core::MediaFamily::Rtsp => Packet::rtsp(0, rtp_packet(sequence, due, payload), now),
                _ => Packet::datagram(payload, now),
            };
            source.push(packet)?;
        }
        sent += u32::try_from(payload.len())?;
        if due >= next_table {
            next_table += TABLE_INTERVAL;
            let stats: Vec<_> = flows.iter().map(|flow| flow.stats()).collect();
            table.draw_all(&stats);
        }
    }
    Ok(())
}

/// Returns one RTP packet (RFC 3550, section 5.1) of payload type 33.
fn rtp_packet(sequence: usize, time: Duration, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 33];
    packet.extend((sequence as u16).to_be_bytes()); // wraps, as sequence numbers do
    packet.extend(((time.as_secs_f64() * 90_000.0) as u32).to_be_bytes());
    packet.extend(0x5eed_u32.to_be_bytes());
    packet.extend(payload);
    packet
}
