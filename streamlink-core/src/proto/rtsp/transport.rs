//! The `Transport` header (RFC 2326 section 12.39).

use std::net::IpAddr;

/// One transport of a `Transport` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) profile: Profile,
    /// Interleaved in the connection, instead of over UDP.
    pub(crate) tcp: bool,
    pub(crate) multicast: bool,
    /// Channels for RTP and RTCP.
    pub(crate) interleaved: Option<(u8, u8)>,
    /// Ports of the client for RTP and RTCP.
    pub(crate) client_port: Option<(u16, u16)>,
    pub(crate) server_port: Option<(u16, u16)>,
    /// Address that the server sends from, if it is not that of the connection.
    pub(crate) source: Option<IpAddr>,
    /// Multicast group: address, RTP and RTCP ports, and TTL.
    pub(crate) group: Option<(IpAddr, (u16, u16), u8)>,
    pub(crate) record: bool,
}

/// Profile of RTP. Packets of both are passed on alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// RFC 3551.
    #[default]
    Avp,
    /// With feedback (RFC 4585), which is never sent.
    Avpf,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Avp => "RTP/AVP",
            Self::Avpf => "RTP/AVPF",
        }
    }
}

/// Parses `a-b`, or `a`, which stands for `a` and the next number.
fn pair<T: std::str::FromStr + Copy>(text: &str, next: impl Fn(T) -> Option<T>) -> Option<(T, T)> {
    let (first, second) = text.split_once('-').unwrap_or((text, ""));
    let first = first.trim().parse().ok()?;
    let second = second.trim().parse().ok().or_else(|| next(first))?;
    Some((first, second))
}

impl Transport {
    /// Parses the transports of a header, in the order of preference. Unknown transports are left out.
    pub(crate) fn parse_all(header: &str) -> Vec<Self> {
        header.split(',').take(16).filter_map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(';');
        let (profile, lower) = match parts.next()?.trim().to_ascii_uppercase().as_str() {
            "RTP/AVP" => (Profile::Avp, None),
            "RTP/AVP/UDP" => (Profile::Avp, Some(false)),
            "RTP/AVP/TCP" => (Profile::Avp, Some(true)),
            "RTP/AVPF" => (Profile::Avpf, None),
            "RTP/AVPF/UDP" => (Profile::Avpf, Some(false)),
            "RTP/AVPF/TCP" => (Profile::Avpf, Some(true)),
            _ => return None,
        };
        let mut transport = Self { profile, ..Self::default() };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "multicast" => transport.multicast = true,
                "interleaved" => transport.interleaved = pair(value, |a: u8| a.checked_add(1)),
                "client_port" => transport.client_port = pair(value, |a: u16| a.checked_add(1)),
                "server_port" => transport.server_port = pair(value, |a: u16| a.checked_add(1)),
                "source" => transport.source = value.trim_matches(['[', ']']).parse().ok(),
                "mode" => transport.record = value.to_ascii_lowercase().contains("record"),
                _ => {}
            }
        }
        // Without a lower transport, which stands for UDP, channels are meant for the connection.
        let has_channels_only = transport.interleaved.is_some() && transport.client_port.is_none();
        transport.tcp = lower.unwrap_or(has_channels_only && !transport.multicast);
        Some(transport)
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.profile.name())?;
        if let Some((ip, (a, b), ttl)) = self.group {
            return write!(f, ";multicast;destination={ip};port={a}-{b};ttl={ttl}");
        }
        f.write_str(if self.tcp { "/TCP;unicast" } else { ";unicast" })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtsp_transports_in_odd_forms_are_read() {
        for (text, seen) in [
            ("RTP/AVP/TCP;unicast;interleaved=10-11;ssrc=00001234", "RTP/AVP/TCP;unicast;interleaved=10-11"),
            ("rtp/avp/tcp; Unicast; Interleaved = 0-1", "RTP/AVP/TCP;unicast;interleaved=0-1"),
            ("RTP/AVP;interleaved=4", "RTP/AVP/TCP;unicast;interleaved=4-5"),
            ("RTP/AVP/UDP;unicast;client_port=5000", "RTP/AVP;unicast;client_port=5000-5001"),
            (
                "RTP/AVP;client_port=5000-;server_port=6970-6971",
                "RTP/AVP;unicast;client_port=5000-5001;server_port=6970-6971",
            ),
            ("RTP/AVPF;unicast;client_port=5000-5003", "RTP/AVPF;unicast;client_port=5000-5003"),
            ("RTP/AVP/TCP;mode=\"RECORD\"", "RTP/AVP/TCP;unicast;mode=record"),
            ("RTP/AVP/TCP;MODE=Record ;append", "RTP/AVP/TCP;unicast;mode=record"),
            ("RTP/AVP/TCP;unicast;mode=\"PLAY\"", "RTP/AVP/TCP;unicast"),
            ("RTP/AVP;client_port=none;interleaved=300-301", "RTP/AVP;unicast"),
        ] {
            let read: Vec<String> = Transport::parse_all(text).iter().map(ToString::to_string).collect();
            assert_eq!(read, [seen], "{text}");
        }
        let source = |text: &str| Transport::parse_all(text)[0].source;
        assert_eq!(source("RTP/AVP;source=192.0.2.7"), "192.0.2.7".parse().ok());
        assert_eq!(source("RTP/AVP;source=\"[2001:db8::1]\""), "2001:db8::1".parse().ok());
        assert_eq!(source("RTP/AVP;source=camera.example"), None);
        assert_eq!(Transport::parse_all("RAW/RAW/UDP;unicast,RTP/SAVP;unicast, RTP/AVP;unicast").len(), 1);
    }
}
