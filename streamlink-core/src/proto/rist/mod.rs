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

/// Returns the smoothed round trip, with another measurement.
fn smoothed(before: Option<Duration>, measured: Duration) -> Duration {
    before.map_or(measured, |before| (before * 7 + measured) / 8)
}
