//! RIST simple profile (VSF TR-06-1): RTP with retransmission. The media goes to an even port, RTCP to the next one.
//!
//! A receiver asks for missing packets in RTCP, and the sender sends them again with the lowest bit of the SSRC set. Both
//! ends report each 100 ms, and measure the round trip with RIST's echo packets.

mod receiver;
mod rtcp;
mod sender;
#[cfg(test)]
mod tests;

pub(crate) use receiver::RistReceiver;
pub(crate) use sender::RistSender;

use std::time::Duration;

/// Interval of reports: 100 ms at most (section 5.2.1).
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Number of reports from one echo request to the next.
const REPORTS_PER_ECHO: u32 = 5;
/// Round trip that is assumed before it is measured.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(50);
/// Longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
/// Bit of the SSRC that marks a retransmission (section 5.3.3).
const RETRANSMISSION: u32 = 1;

/// Types of what is in a tunnel of the main and advanced profiles (VSF TR-06-2 section 5.3): keep-alive, packets with the
/// short header, whole IP packets, authentication, and those of later versions.
const TUNNELED: [u16; 5] = [0x88b5, 0x88b6, 0x0800, 0x888e, 0xcce0];

/// Returns whether a datagram is one of the main or advanced profile: in a GRE tunnel (RFC 2784 and 2890).
pub(crate) fn is_tunneled(datagram: &[u8]) -> bool {
    let Some([flags, version, kind @ ..]) = datagram.first_chunk::<4>() else { return false };
    // Checksum, key and sequence number may be there; version 0 is the only one. RIST uses some of the reserved bits.
    flags & 0x4f == 0 && version & 7 == 0 && TUNNELED.contains(&u16::from_be_bytes(*kind))
}

/// Returns the smoothed round trip, with another measurement.
fn smoothed(before: Option<Duration>, measured: Duration) -> Duration {
    before.map_or(measured, |before| (before * 7 + measured) / 8)
}
