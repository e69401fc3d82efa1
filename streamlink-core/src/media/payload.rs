//! Problems of the payload of datagrams at endpoints that carry MPEG-TS without RTP.

use std::fmt;

/// Reason for which the payload of datagrams is left out or altered at a UDP source or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "kind", content = "detail", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PayloadProblem {
    /// It is not MPEG-TS: left out.
    NotTransportStream,
    /// Datagrams of a source begin or end within transport packets: these are put together and sent on whole.
    Unaligned,
    /// The transport packets of a source have another size than 188 bytes, in bytes: 204 with parity, or 192 with a time
    /// before them. They are sent on without either.
    PacketSize(u16),
    /// A UDP source is sent RTP packets with MPEG-TS (payload type 33): they pass as those of an RTP source.
    Rtp,
    /// RTP of another payload type than 33 (MPEG-TS): left out.
    PayloadType(u8),
}

impl PayloadProblem {
    /// Returns the stable name of the problem, for metrics: lower case, with underscores.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotTransportStream => "not_transport_stream",
            Self::Unaligned => "unaligned",
            Self::PacketSize(_) => "packet_size",
            Self::Rtp => "rtp",
            Self::PayloadType(_) => "payload_type",
        }
    }
}

impl fmt::Display for PayloadProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTransportStream => f.write_str("not MPEG-TS, left out"),
            Self::Unaligned => f.write_str("datagrams end within transport packets, which are put together"),
            Self::PacketSize(size) => write!(f, "transport packets of {size} bytes, sent on as 188"),
            Self::Rtp => f.write_str("MPEG-TS in RTP, received as from an RTP source"),
            Self::PayloadType(kind) => write!(f, "RTP of payload type {kind} and not 33 (MPEG-TS), left out"),
        }
    }
}
