//! The `Transport` header (RFC 2326 section 12.39).

use std::net::IpAddr;

/// One transport of a `Transport` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Interleaved in the connection, instead of over UDP.
    pub(crate) tcp: bool,
    pub(crate) multicast: bool,
    /// Channels for RTP and RTCP.
    pub(crate) interleaved: Option<(u8, u8)>,
    /// Ports of the client for RTP and RTCP.
    pub(crate) client_port: Option<(u16, u16)>,
    pub(crate) server_port: Option<(u16, u16)>,
    /// Multicast group: address, RTP and RTCP ports, and TTL.
    pub(crate) group: Option<(IpAddr, (u16, u16), u8)>,
    pub(crate) record: bool,
}

/// Parses `a-b`, or `a`, which stands for `a` and the next number.
fn pair<T: std::str::FromStr + Copy>(text: &str, next: impl Fn(T) -> Option<T>) -> Option<(T, T)> {
    match text.split_once('-') {
        Some((a, b)) => Some((a.parse().ok()?, b.parse().ok()?)),
        None => {
            let first = text.parse().ok()?;
            Some((first, next(first)?))
        }
    }
}

impl Transport {
    /// Parses the transports of a header, in the order of preference. Unknown transports are left out.
    pub(crate) fn parse_all(header: &str) -> Vec<Transport> {
        header.split(',').take(16).filter_map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(';');
        let tcp = match parts.next()?.trim().to_ascii_uppercase().as_str() {
            "RTP/AVP/TCP" => true,
            "RTP/AVP" | "RTP/AVP/UDP" => false,
            _ => return None,
        };
        let mut transport = Transport { tcp, ..Transport::default() };
        for part in parts {
            let (key, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
            match key.to_ascii_lowercase().as_str() {
                "multicast" => transport.multicast = true,
                "interleaved" => transport.interleaved = pair(value, |a: u8| a.checked_add(1)),
                "client_port" => transport.client_port = pair(value, |a: u16| a.checked_add(1)),
                "server_port" => transport.server_port = pair(value, |a: u16| a.checked_add(1)),
                "mode" => transport.record = value.trim_matches('"').eq_ignore_ascii_case("record"),
                _ => {}
            }
        }
        Some(transport)
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((ip, (a, b), ttl)) = self.group {
            return write!(f, "RTP/AVP;multicast;destination={ip};port={a}-{b};ttl={ttl}");
        }
        f.write_str(if self.tcp { "RTP/AVP/TCP;unicast" } else { "RTP/AVP;unicast" })?;
        if let Some((a, b)) = self.interleaved {
            write!(f, ";interleaved={a}-{b}")?;
        }
        if let Some((a, b)) = self.client_port {
            write!(f, ";client_port={a}-{b}")?;
        }
        if let Some((a, b)) = self.server_port {
            write!(f, ";server_port={a}-{b}")?;
        }
        if self.record { f.write_str(";mode=record") } else { Ok(()) }
    }
}
