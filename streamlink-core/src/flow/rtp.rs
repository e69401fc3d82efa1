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

/// Forward error correction of an RTP output (SMPTE ST 2022-1). As text: `5,10` (columns, rows), with the parity of rows
/// `5,10,row`; also as ffmpeg's `prompeg` has it, `l=5:d=10`, which is with rows.
///
/// The packets form matrices, row by row. The parity of each column is sent to the port of the media plus two, and that of
/// each row to the port plus four. A receiver recovers any packet that is the only missing one of its column or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fec {
    columns: u8,
    rows: u8,
    with_rows: bool,
}

impl Fec {
    const FORM: &str = "columns (1 to 20) and rows (4 to 20), such as `5,10` or `5,10,row`, of at most 100 packets";

    /// Returns the parity of columns, for a matrix of 1 to 20 columns (L) and 4 to 20 rows (D): a burst of as many lost
    /// packets as there are columns is recovered.
    ///
    /// # Errors
    /// When one of them is out of range, or the matrix has more than 100 packets.
    pub fn new(columns: u8, rows: u8) -> Result<Self, ConfigErrorKind> {
        let size = u16::from(columns) * u16::from(rows);
        if (1..=20).contains(&columns) && (4..=20).contains(&rows) && size <= 100 {
            Ok(Self { columns, rows, with_rows: false })
        } else {
            Err(ConfigErrorKind::out_of_range(format_args!("{columns},{rows}"), Self::FORM))
        }
    }

    /// Returns the parity of columns and rows.
    #[must_use]
    pub fn with_rows(self) -> Self {
        Self { with_rows: true, ..self }
    }

    /// Returns the number of columns (L).
    pub fn columns(self) -> u8 {
        self.columns
    }

    /// Returns the number of rows (D).
    pub fn rows(self) -> u8 {
        self.rows
    }

    /// Returns whether the parity of rows is sent, too.
    pub fn has_rows(self) -> bool {
        self.with_rows
    }
}

impl FromStr for Fec {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let bad = || ConfigErrorKind::malformed(s, Self::FORM);
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| bad());
        if let Some((columns, rows)) = s.split_once(':') {
            let columns = columns.strip_prefix("l=").ok_or_else(bad)?;
            let rows = rows.strip_prefix("d=").ok_or_else(bad)?;
            return Ok(Self::new(number(columns)?, number(rows)?)?.with_rows());
        }
        match s.split(',').collect::<Vec<_>>()[..] {
            [columns, rows] => Self::new(number(columns)?, number(rows)?),
            [columns, rows, "row"] => Ok(Self::new(number(columns)?, number(rows)?)?.with_rows()),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Fec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.columns, self.rows)?;
        if self.with_rows { f.write_str(",row") } else { Ok(()) }
    }
}

/// Last of the ports of an RTP session with forward error correction, from the port of the media on.
const FEC_PORTS: u16 = 4;

/// Returns the problem of forward error correction at a port, if there are no ports for it.
fn check_fec_ports(port: u16) -> Option<(&'static str, ConfigErrorKind)> {
    let problem = || ConfigErrorKind::Conflict(format!("needs the ports {port} plus 2 and plus 4, up to 65535"));
    port.checked_add(FEC_PORTS).is_none().then(|| ("fec", problem()))
}

/// Settings of an RTP source.
#[derive(Clone, Debug)]
pub(crate) struct RtpInput {
    pub(crate) udp: UdpInput,
    pub(crate) payload_types: PayloadTypes,
    pub(crate) reorder_window: Duration,
    /// Receives forward error correction.
    pub(crate) fec: bool,
}

pub(crate) const REORDER: std::ops::RangeInclusive<u64> = 0..=1_000;
pub(crate) const DEFAULT_REORDER: Duration = Duration::from_millis(50);

impl RtpInput {
    pub(crate) fn new(udp: UdpInput) -> Self {
        Self { udp, payload_types: PayloadTypes::ALL, reorder_window: DEFAULT_REORDER, fec: false }
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        let fec = self.fec.then(|| check_fec_ports(self.udp.listen.bind.port())).flatten();
        self.udp.check().or(fec)
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

    /// Sets whether forward error correction (SMPTE ST 2022-1) is received (off), at the port of the source plus two
    /// (columns) and plus four (rows). The size of the matrix follows from what is received.
    ///
    /// A gap in the sequence is then held open until its FEC packets have come: for the time of two matrices. Packets that
    /// arrive in order are not delayed.
    pub fn fec(mut self, receive: bool) -> Self {
        self.draft.settings.fec = receive;
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
            "preserve" => Ok(Self::Preserve),
            "random" => Ok(Self::Random),
            _ => number(s, 0..=u32::MAX, "an SSRC").map(Rewrite::Ssrc),
        }
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserve => f.write_str("preserve"),
            Self::Random => f.write_str("random"),
            Self::Ssrc(ssrc) => ssrc.fmt(f),
        }
    }
}

/// Settings of an RTP output.
#[derive(Clone, Debug)]
pub(crate) struct RtpOutput {
    pub(crate) udp: UdpOutput,
    pub(crate) rewrite: Rewrite,
    pub(crate) fec: Option<Fec>,
}

impl RtpOutput {
    pub(crate) fn new(destination: HostPort) -> Self {
        Self { udp: UdpOutput::new(destination), rewrite: Rewrite::Preserve, fec: None }
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        self.fec?;
        self.udp.destinations().find_map(|destination| check_fec_ports(destination.port()))
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

    /// Sends forward error correction (none).
    pub fn fec(mut self, fec: Fec) -> Self {
        self.draft.settings.fec = Some(fec);
        self
    }
}
