//! Treatment of media above the maximum bandwidth of a flow.

use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr};

/// Treatment of media above the flow's maximum bandwidth. As text: `drop`, `disconnect` or `warn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BandwidthPolicy {
    /// Drops whole packets, of RTMP whole frames; of RTMP and RTSP all pictures up to the next key frame.
    #[default]
    Drop,
    /// Disconnects the source.
    Disconnect,
    /// Everything passes; an event and the counters tell. SRT outputs without a maximum of their own pace by what comes
    /// in; queues stay those of the maximum bandwidth, and an output that falls behind more than that loses the oldest.
    Warn,
}

impl BandwidthPolicy {
    /// All policies.
    pub const ALL: &'static [Self] = &[Self::Drop, Self::Disconnect, Self::Warn];

    /// Returns the name, as in `drop`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Disconnect => "disconnect",
            Self::Warn => "warn",
        }
    }
}

impl fmt::Display for BandwidthPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BandwidthPolicy {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|policy| policy.name() == s);
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, "drop, disconnect or warn"))
    }
}
