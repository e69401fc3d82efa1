//! Rules for the change between the sources of a flow.

use super::settings::millis;
use crate::error::ConfigErrorKind;
use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

/// Rules for the change between the sources of a flow.
///
/// The first source that delivers media feeds the flow. It is lost when its connection closes, or when it delivers
/// nothing for the loss threshold; then the first other source that has media takes over, and [`Event::Switched`] reports
/// it. A switch never disconnects an output.
///
/// ```
/// use std::time::Duration;
/// use streamlink_core::{Bitrate, Failover, FailoverPolicy, Flow, Output, Source};
///
/// let policy = FailoverPolicy::Prefer(Duration::from_secs(5));
/// let flow = Flow::builder("match-day", Bitrate::mbps(20))
///     .source(Source::srt_listener("venue", "0.0.0.0:9000"))
///     .backup(Source::srt_caller("spare", "example.com:9000"))
///     .failover(Failover::new(policy).loss_threshold(Duration::from_millis(300)))
///     .output(Output::srt_listener("partner", "0.0.0.0:9001"))
///     .build()?;
/// assert_eq!(flow.sources().len(), 2);
/// # Ok::<(), streamlink_core::ConfigErrors>(())
/// ```
///
/// - RTMP and RTSP continue with a video key frame: with the last one of the backup, whose group of pictures is kept (up
///   to 16 MiB), or else with the next. Timestamps, sequence numbers and sender reports continue; headers and parameter
///   sets are sent again when they differ. RTSP players stay connected if the tracks have the same encoding.
/// - MPEG-TS, over SRT or RTP, continues at a random access point of the video, if the stream marks them and one arrives
///   within the loss threshold; otherwise, as any other payload, with the next packet. The first transport packet of
///   each PID is preceded by one with the discontinuity indicator. PCR, PTS, DTS and SCTE 35 times are shifted so that
///   they continue, unless they do so already. RTP keeps one SSRC with continuous sequence numbers and timestamps; a
///   backup that carries identical packets continues with the next of them, unaltered.
///
/// [`Event::Switched`]: crate::Event::Switched
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Failover {
    pub(crate) policy: FailoverPolicy,
    pub(crate) loss_threshold: Duration,
    pub(crate) cold: bool,
}

/// Conditions for a switch between the sources of a flow.
///
/// As text: `stay`, `prefer` or `prefer:MILLISECONDS` (5000 ms), `merge` or `merge:MILLISECONDS` (200 ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailoverPolicy {
    /// Stays with the backup after a loss. The source that delivers first is active.
    Stay,
    /// Returns to the first source once it has delivered for this time (0–3 600 000 ms).
    Prefer(Duration),
    /// Merges up to 16 sources that carry the same RTP packets, over RTP or SRT, packet by packet (SMPTE ST 2022-7). The
    /// recovery window of 100–500 ms is the maximum delay of one path behind another.
    Merge(Duration),
}

impl FailoverPolicy {
    /// Range of the hold time, in milliseconds.
    pub(crate) const HOLD: RangeInclusive<u64> = 0..=3_600_000;
    /// Range of the recovery window, in milliseconds.
    pub(crate) const WINDOW: RangeInclusive<u64> = 100..=500;
    /// Hold time of `prefer` as text, if none is given.
    pub(crate) const DEFAULT_HOLD: Duration = Duration::from_secs(5);
    /// Recovery window of `merge` as text, if none is given.
    pub(crate) const DEFAULT_WINDOW: Duration = Duration::from_millis(200);
}

impl fmt::Display for FailoverPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("stay"),
            Self::Prefer(hold) => write!(f, "prefer:{}", hold.as_millis()),
            Self::Merge(window) => write!(f, "merge:{}", window.as_millis()),
        }
    }
}

impl FromStr for FailoverPolicy {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let (name, time) = match s.split_once(':') {
            Some((name, time)) => (name, Some(time)),
            None => (s, None),
        };
        match (name, time) {
            ("stay", None) => Ok(Self::Stay),
            ("prefer", None) => Ok(Self::Prefer(Self::DEFAULT_HOLD)),
            ("prefer", Some(hold)) => millis(hold, Self::HOLD).map(Self::Prefer),
            ("merge", None) => Ok(Self::Merge(Self::DEFAULT_WINDOW)),
            ("merge", Some(window)) => millis(window, Self::WINDOW).map(Self::Merge),
            _ => Err(ConfigErrorKind::malformed(s, "stay, prefer[:MILLISECONDS] or merge[:MILLISECONDS]")),
        }
    }
}

impl Failover {
    /// Returns the rules of a policy, with a loss threshold of 500 ms and hot backups.
    pub fn new(policy: FailoverPolicy) -> Self {
        Self { policy, loss_threshold: Duration::from_millis(500), cold: false }
    }

    /// Sets the time without media after which the active source counts as lost (500 ms; 50–60 000).
    pub fn loss_threshold(mut self, threshold: Duration) -> Self {
        self.loss_threshold = threshold;
        self
    }

    /// Makes the backups cold: they connect only when they are needed. All of them must be callers.
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self::new(FailoverPolicy::Stay)
    }
}
