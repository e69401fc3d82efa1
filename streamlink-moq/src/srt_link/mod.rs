//! Media of a region over SRT, for paths that lose more than QUIC makes up for.
//!
//! The ingest engine listens, and the nodes of the region call: each of them calls all addresses of the ingest engine as
//! one broadcast group (bonding), so that every packet goes over each path, and the first copy counts. What a node needs
//! (addresses, stream id, passphrase, latency) is part of the description of the flow's outputs, which is sealed for the
//! region. Outputs, heartbeats and reports stay on the relays.
//!
//! | part | owner |
//! |---|---|
//! | port of the ingest engine | [`Hub`], one for all flows and regions of a cluster, while any flow needs it |
//! | listener of a flow | [`SrtSender`], with a stream id and a passphrase of its own, until the flow leaves the region |
//! | callers of a flow at a node | [`SrtIncoming`], one group for each publisher of the flow |

mod packets;
mod receiver;
mod sender;

pub(crate) use receiver::{SrtIncoming, SrtMedia};
pub(crate) use sender::{Hub, SrtSender};

use crate::Error;
use std::{fmt, net::SocketAddr};
use streamlink_core::{Allowlist, Bitrate, HostPort, Latency, Passphrase, PeerText};

/// Maximum number of addresses of an ingest engine: that of the members of a group.
const MAX_ADDRESSES: usize = 8;
/// Maximum length of a stream id, in bytes.
const MAX_STREAM_ID: usize = 64;

/// Settings of a region whose media goes over SRT.
///
/// The ingest engine listens on one port, and the nodes of the region call it at each of its addresses. Two addresses
/// that are reached over different networks are two legs: either may lose anything that the other brings.
#[derive(Clone, Debug)]
#[must_use]
pub struct SrtLink {
    bind: SocketAddr,
    addresses: Vec<HostPort>,
    latency: Latency,
    allow: Allowlist,
}

impl SrtLink {
    /// Returns the settings of an ingest engine that listens at `bind`, and that nodes reach at `addresses` (1–8), each
    /// as in `ingest-a.example.com:7000`.
    ///
    /// # Errors
    /// [`Error::Settings`] when the port is 0, there is no address or more than 8, or an address is malformed.
    pub fn new(bind: SocketAddr, addresses: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, Error> {
        if bind.port() == 0 {
            return Err(settings("the port on which nodes call for media over SRT is 0"));
        }
        let parsed: Result<Vec<HostPort>, _> = addresses.into_iter().map(|text| text.as_ref().parse()).collect();
        let addresses = parsed.map_err(|error| settings(&format!("an address for media over SRT: {error}")))?;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(settings("1 to 8 addresses for media over SRT are expected"));
        }
        // 8 round trips of 150 ms; within the range of a latency.
        let latency = Latency::from_millis(1200).unwrap_or(Latency::INTERCONTINENTAL);
        Ok(Self { bind, addresses, latency, allow: Allowlist::everyone() })
    }

    /// Sets the latency, for which packets are held back so that lost ones can be sent again (1200 ms; 0–10 000). Nothing
    /// is lost with 4 round trips at up to 2 % loss, with 8 at 10 %, and with 12 at 20 %.
    pub fn latency(mut self, latency: Latency) -> Self {
        self.latency = latency;
        self
    }

    /// Sets the addresses from which nodes may call (any). Whoever does not know the passphrase of a flow is refused in
    /// any case.
    pub fn allow(mut self, allow: Allowlist) -> Self {
        self.allow = allow;
        self
    }
}

/// Media of a flow at one ingest engine, as the nodes of a region call for it. `Debug` hides the passphrase.
#[derive(Clone)]
pub struct SrtTarget {
    /// Addresses of the ingest engine, which are called all at once.
    pub addresses: Vec<HostPort>,
    /// Stream id of the flow.
    pub stream_id: String,
    /// Passphrase of the flow, for AES-256-GCM.
    pub passphrase: Passphrase,
    /// Latency.
    pub latency: Latency,
}

impl PartialEq for SrtTarget {
    fn eq(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.stream_id == other.stream_id
            && self.passphrase.reveal() == other.passphrase.reveal()
            && self.latency == other.latency
    }
}

impl fmt::Debug for SrtTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SrtTarget")
            .field("addresses", &self.addresses)
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

impl SrtTarget {
    /// Returns a target after checking what a description holds.
    pub(crate) fn checked(
        addresses: &[String],
        stream_id: String,
        passphrase: &str,
        latency_ms: u16,
    ) -> Result<Self, &'static str> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err("no address, or more than 8, for media over SRT");
        }
        let parsed: Result<Vec<HostPort>, _> = addresses.iter().map(|text| text.parse()).collect();
        let is_id = (1..=MAX_STREAM_ID).contains(&stream_id.len())
            && stream_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_id {
            return Err("a stream id for media over SRT that is malformed");
        }
        Ok(Self {
            addresses: parsed.map_err(|_| "an address for media over SRT that is malformed")?,
            stream_id,
            passphrase: Passphrase::new(passphrase).map_err(|_| "a passphrase for media over SRT that is malformed")?,
            latency: Latency::from_millis(latency_ms).map_err(|_| "a latency for media over SRT that is malformed")?,
        })
    }

    /// Returns the addresses, for people.
    fn shown(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(HostPort::to_string).collect();
        format!("srt://{}", addresses.join(","))
    }
}

/// Returns the bandwidth of the flows that carry a flow of a bandwidth in RTP packets: buffers are sized by it.
fn link_bandwidth(flow: Bitrate) -> Bitrate {
    Bitrate::bps(flow.as_bps().saturating_add(flow.as_bps() / 4).saturating_add(1_000_000))
}

/// Returns the name of a flow that carries a flow, and is told from others by its stream id.
fn link_name(flow: &str, stream_id: &str) -> String {
    const MAX_NAME: usize = 128;
    let suffix = format!(" (SRT link {stream_id})");
    let end = flow.floor_char_boundary(MAX_NAME.saturating_sub(suffix.len()));
    format!("{}{suffix}", flow.get(..end).unwrap_or_default())
}

fn settings(text: &str) -> Error {
    Error::Settings(PeerText::new(text))
}
