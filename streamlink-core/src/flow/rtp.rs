//! RTP settings of sources and outputs (RTP over UDP: RFC 3550; MPEG-TS over RTP: RFC 2250).

use super::{
    address::HostPort,
    builder::{endpoint_builder, listener_setters, local_end_setters, output_setters},
    settings::{check_millis, number},
    udp::{UdpInput, UdpOutput, udp_input_setters, udp_output_setters},
};
use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr, time::Duration};

/// A set of RTP payload types (0–127). The empty set admits all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadTypes(u128);

impl PayloadTypes {
    /// All payload types.
    pub const ALL: Self = Self(0);
    /// MPEG-TS (payload type 33).
    pub const MPEG_TS: Self = Self(1 << 33);

    /// Returns the set with one more payload type.
    ///
    /// # Errors
    /// When the payload type is above 127.
    pub fn with(self, payload_type: u8) -> Result<Self, ConfigErrorKind> {
        match payload_type {
            0..=127 => Ok(Self(self.0 | 1 << payload_type)),
            n => Err(ConfigErrorKind::out_of_range(n, "0 to 127")),
        }
    }

    /// Returns whether packets of this type pass.
    pub const fn admits(self, payload_type: u8) -> bool {
        self.0 == 0 || (payload_type < 128 && self.0 >> payload_type & 1 == 1)
    }
}

impl FromStr for PayloadTypes {
    type Err = ConfigErrorKind;
    /// Reads numbers separated by commas: `33,96`.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let bad = |_| ConfigErrorKind::malformed(s, "payload types such as `33,96`");
        let mut set = Self::ALL;
        for payload_type in s.split(',') {
            set = set.with(payload_type.trim().parse().map_err(bad)?)?;
        }
        Ok(set)
    }
}

impl fmt::Display for PayloadTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = (0..128).filter(|pt| self.0 >> pt & 1 == 1).map(|pt| pt.to_string()).collect();
        f.write_str(&members.join(","))
    }
}

/// Settings of an RTP source.
#[derive(Clone, Debug)]
pub(crate) struct RtpInput {
    pub(crate) udp: UdpInput,
    pub(crate) payload_types: PayloadTypes,
    pub(crate) reorder_window: Duration,
}

pub(crate) const REORDER: std::ops::RangeInclusive<u64> = 0..=1_000;
pub(crate) const DEFAULT_REORDER: Duration = Duration::from_millis(50);

impl RtpInput {
    pub(crate) fn new(udp: UdpInput) -> Self {
        Self { udp, payload_types: PayloadTypes::ALL, reorder_window: DEFAULT_REORDER }
    }
}

endpoint_builder! {
    /// Builder of an RTP source. Made by [`Source::rtp`](crate::Source::rtp).
    RtpSourceBuilder: RtpInput
}
listener_setters!(RtpSourceBuilder, udp.listen);
udp_input_setters!(RtpSourceBuilder, udp);

impl RtpSourceBuilder {
    /// Sets the payload types that pass (all); packets of others are dropped and counted.
    pub fn payload_types(mut self, types: PayloadTypes) -> Self {
        self.draft.settings.payload_types = types;
        self
    }

    /// Sets the time that a gap in the sequence is held open for packets that arrive out of order (50 ms; 0–1000).
    /// Packets that arrive in order are never delayed; 0 switches reordering off.
    pub fn reorder_window(mut self, window: Duration) -> Self {
        self.draft.try_set("reorder", check_millis(window, REORDER), |s, v| s.reorder_window = v);
        self
    }
}

/// Treatment of the source's sequence numbers and SSRC by an RTP output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rewrite {
    /// Sends every packet unaltered, as SMPTE ST 2022-7 receivers need.
    #[default]
    Preserve,
    /// Sets a random SSRC, and sequence numbers without the source's gaps and restarts.
    Random,
    /// Sets this SSRC, and sequence numbers without the source's gaps and restarts.
    Ssrc(u32),
}

impl FromStr for Rewrite {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        match s {
            "preserve" => Ok(Rewrite::Preserve),
            "random" => Ok(Rewrite::Random),
            _ => number(s, 0..=u32::MAX, "an SSRC").map(Rewrite::Ssrc),
        }
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rewrite::Preserve => f.write_str("preserve"),
            Rewrite::Random => f.write_str("random"),
            Rewrite::Ssrc(ssrc) => ssrc.fmt(f),
        }
    }
}

/// Settings of an RTP output.
#[derive(Clone, Debug)]
pub(crate) struct RtpOutput {
    pub(crate) udp: UdpOutput,
    pub(crate) rewrite: Rewrite,
}

impl RtpOutput {
    pub(crate) fn new(destination: HostPort) -> Self {
        Self { udp: UdpOutput::new(destination), rewrite: Rewrite::Preserve }
    }
}

endpoint_builder! {
    /// Builder of an RTP output. Made by [`Output::rtp`](crate::Output::rtp).
    RtpOutputBuilder: RtpOutput
}
output_setters!(RtpOutputBuilder);

local_end_setters!(RtpOutputBuilder, udp.local);
udp_output_setters!(RtpOutputBuilder, udp);

impl RtpOutputBuilder {
    /// Sets whether sequence numbers and SSRC are kept (the default) or rewritten.
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.draft.settings.rewrite = rewrite;
        self
    }
}
