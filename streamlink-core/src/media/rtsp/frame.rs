//! Packets within an RTSP connection: interleaved frames (RFC 2326 section 10.12) on the channels that nearly everybody
//! takes.

use super::is_rtcp;
use crate::media::Packet;

/// The channels of RTP and RTCP of a track: 0 and 1 for the first, and so on.
pub(crate) fn usual_channels(track: usize) -> Option<(u8, u8)> {
    let rtp = u8::try_from(track.checked_mul(2)?).ok()?;
    Some((rtp, rtp.checked_add(1)?))
}

/// What goes before a packet on its usual channel; `None` for one that fits no frame.
pub(crate) fn frame_header(packet: &Packet) -> Option<[u8; 4]> {
    let (rtp, rtcp) = usual_channels(packet.rtsp_track()?.into())?;
    let channel = if is_rtcp(packet.data()) { rtcp } else { rtp };
    let [high, low] = u16::try_from(packet.data().len()).ok()?.to_be_bytes();
    Some([b'$', channel, high, low])
}
