//! The table of all settings. A new setting is one row here and its field in the settings of its protocol: names, ranges
//! and defaults in errors, in `docs/settings.md`, in the C ABI and in hosts' forms come from it.

use super::{
    address::{Call, Listen, LocalEnd, check_congestion},
    rist,
    rtmp::{self, RtmpPlayServer, RtmpPublishServer, RtmpRelay},
    rtp::{self, PayloadTypes, RtpInput, RtpOutput},
    rtsp::{self, RtspOptions},
    secret::{CryptoMode, KeyLength, Passphrase, StreamKey},
    setting::{Given, Setting, SettingScope, SettingValue},
    silence::{IDLE_TIMEOUT, Silence},
    srt::{self, SrtCaller, SrtOptions},
    udp::{UdpInput, UdpOutput as UdpOutputSettings},
};
use crate::{error::ConfigErrorKind, media::ProgramChoice};
use SettingScope::*;
use SettingValue::{Boolean, Choice, Form, Number, Text};
use std::{ops::RangeInclusive, time::Duration};

/// One row of the table.
pub(crate) struct Row {
    pub(crate) setting: Setting,
    /// `None` for what the URL or the JSON document itself consists of.
    pub(crate) access: Option<Access>,
}

/// Access to the field of a setting.
pub(crate) struct Access {
    /// Sets the field from text.
    pub(crate) set: fn(&mut dyn Fields, Given<'_>) -> Result<(), ConfigErrorKind>,
    /// Returns the field as text; `None` if it is not set.
    pub(crate) get: fn(&mut dyn Fields) -> Option<String>,
}

/// Groups of fields that an endpoint may have.
pub(crate) trait Fields {
    fn scope(&self) -> SettingScope;
    fn listen(&mut self) -> Option<&mut Listen>;
    fn call(&mut self) -> Option<&mut Call>;
    /// Local end of a caller or of an RTP output.
    fn local(&mut self) -> Option<&mut LocalEnd>;
    fn srt(&mut self) -> Option<&mut SrtOptions>;
    /// Caller that may be a group of connections.
    fn group_caller(&mut self) -> Option<&mut SrtCaller>;
    fn rtsp(&mut self) -> Option<&mut RtspOptions>;
    /// Settings of a source for the time without media.
    fn silence(&mut self) -> Option<&mut Silence>;
    /// Stream key of an RTMP endpoint.
    fn key(&mut self) -> Option<&mut Option<StreamKey>>;
    fn chunk_size(&mut self) -> Option<&mut u32>;
    fn relay(&mut self) -> Option<&mut RtmpRelay>;
    /// RTMP source that listens.
    fn publish(&mut self) -> Option<&mut RtmpPublishServer>;
    fn play(&mut self) -> Option<&mut RtmpPlayServer>;
    fn rtp_input(&mut self) -> Option<&mut RtpInput>;
    fn rtp_output(&mut self) -> Option<&mut RtpOutput>;
    /// Settings of a source of datagrams: UDP, and a part of RTP.
    fn udp_input(&mut self) -> Option<&mut UdpInput>;
    /// Settings of an output of datagrams: UDP, and a part of RTP.
    fn udp_output(&mut self) -> Option<&mut UdpOutputSettings>;
    fn rist_latency(&mut self) -> Option<&mut Duration>;
}

/// Returns the access to a field of one group: how it is read as text, and how it is set.
macro_rules! field {
    ($group:ident, |$get:ident| $read:expr, |$set:ident, $given:ident| $write:expr) => {
        Some(Access {
            set: |fields, $given| {
                let Some($set) = fields.$group() else { return Err(ConfigErrorKind::UnknownField) };
                $write;
                Ok(())
            },
            get: |fields| {
                let $get = fields.$group()?;
                $read
            },
        })
    };
}

/// Returns a value as text.
fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// Returns an optional value as text.
fn option(value: &Option<impl ToString>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

/// Appends to the query for the server.
fn add_query(fields: &mut dyn Fields, given: Given<'_>) -> Result<(), ConfigErrorKind> {
    if let Some(rtsp) = fields.rtsp() {
        return rtsp.add_query(given.text);
    }
    let key = fields.key().ok_or(ConfigErrorKind::UnknownField)?;
    rtmp::add_query(key, given.text)
}

const fn range(range: &RangeInclusive<u64>) -> SettingValue {
    Number { min: *range.start(), max: *range.end() }
}

#[allow(clippy::too_many_arguments)]
const fn setting(
    name: &'static str,
    method: &'static str,
    scopes: &'static [SettingScope],
    value: SettingValue,
    unit: &'static str,
    default: &'static str,
    summary: &'static str,
) -> Setting {
    Setting { name, aliases: &[], method, value, unit, default, secret: false, scopes, summary }
}

const SRT: &[SettingScope] = &[SrtListenerSource, SrtCallerSource, SrtListenerOutput, SrtCallerOutput];
const RTSP: &[SettingScope] = &[RtspListenerSource, RtspCallerSource, RtspListenerOutput, RtspCallerOutput];
const RTMP_CALLERS_AND_RTSP_CALLERS: &[SettingScope] =
    &[RtmpPullSource, RtmpOutput, RtmpPushOutput, RtspCallerSource, RtspCallerOutput];
const CALLERS: &[SettingScope] =
    &[RtmpPullSource, SrtCallerSource, RtspCallerSource, RtmpOutput, RtmpPushOutput, SrtCallerOutput, RtspCallerOutput];
const LISTENERS: &[SettingScope] = &[
    RtmpSource,
    SrtListenerSource,
    RtpSource,
    UdpSource,
    RistSource,
    RtspListenerSource,
    RtmpPullOutput,
    SrtListenerOutput,
    RtspListenerOutput,
];
const CALLERS_AND_DATAGRAMS: &[SettingScope] = &[
    RtmpPullSource,
    SrtCallerSource,
    RtspCallerSource,
    RtmpOutput,
    RtmpPushOutput,
    SrtCallerOutput,
    RtspCallerOutput,
    RtpOutput,
    UdpOutput,
    RistOutput,
];
/// Outputs that serve players.
const SERVING_OUTPUTS: &[SettingScope] = &[RtmpPullOutput, SrtListenerOutput, RtspListenerOutput];
/// Listeners with connections.
const SERVERS: &[SettingScope] =
    &[RtmpSource, SrtListenerSource, RtspListenerSource, RtmpPullOutput, SrtListenerOutput, RtspListenerOutput];
const OUTPUTS: &[SettingScope] = &[
    RtmpOutput,
    RtmpPushOutput,
    RtmpPullOutput,
    SrtListenerOutput,
    SrtCallerOutput,
    RtpOutput,
    UdpOutput,
    RistOutput,
    RtspListenerOutput,
    RtspCallerOutput,
    TapOutput,
];
const ENDPOINTS: &[SettingScope] = &[
    RtmpSource,
    RtmpPullSource,
    SrtListenerSource,
    SrtCallerSource,
    RtpSource,
    UdpSource,
    RistSource,
    RtspListenerSource,
    RtspCallerSource,
    AppSource,
    RtmpOutput,
    RtmpPushOutput,
    RtmpPullOutput,
    SrtListenerOutput,
    SrtCallerOutput,
    RtpOutput,
    UdpOutput,
    RistOutput,
    RtspListenerOutput,
    RtspCallerOutput,
    TapOutput,
];
const NETWORK_ENDPOINTS: &[SettingScope] = &[
    RtmpSource,
    RtmpPullSource,
    SrtListenerSource,
    SrtCallerSource,
    RtpSource,
    UdpSource,
    RistSource,
    RtspListenerSource,
    RtspCallerSource,
    RtmpOutput,
    RtmpPushOutput,
    RtmpPullOutput,
    SrtListenerOutput,
    SrtCallerOutput,
    RtpOutput,
    UdpOutput,
    RistOutput,
    RtspListenerOutput,
    RtspCallerOutput,
];

const NAME: SettingValue = Text { min: 1, max: 128 };
const KEY: SettingValue = Text { min: 1, max: StreamKey::MAX_LEN as u64 };

/// Every setting.
#[rustfmt::skip]
pub(crate) static TABLE: &[Row] = &[
    // The flow.
    Row {
        setting: setting("name", "Flow::builder", &[Flow], NAME, "", "", "Name that identifies the flow in logs, events and statistics."),
        access: None,
    },
    Row {
        setting: setting("max_bandwidth", "Flow::builder", &[Flow], Form("a bit rate above 0, such as `20M`"), "bit/s", "", "Maximum bit rate of the source."),
        access: None,
    },
    Row {
        setting: setting("bandwidth_policy", "bandwidth_policy", &[Flow], Choice(&["drop", "disconnect", "warn"]), "", "drop", "Treatment of media above the maximum bandwidth."),
        access: None,
    },
    Row {
        setting: setting("coalesce", "coalesce", &[Flow], Number { min: 0, max: 20 }, "ms", "5", "Maximum time that packets of RTP and RTSP sources may wait for more, so that they leave together. Steady packets of RTP and UDP sources wait until about 16 have come; in flows with fewer than 8 outputs, and those of RIST and RTSP sources, for no more than 1 ms."),
        access: None,
    },
    Row {
        setting: setting("entry_wait", "entry_wait", &[Flow], Number { min: 0, max: 60_000 }, "ms", "3000", "Maximum time that a late player or a failover waits for a picture from which decoding can start."),
        access: None,
    },
    Row {
        setting: setting("failover", "failover", &[Flow], Form("an object"), "", "", "Rules for the change between the sources."),
        access: None,
    },
    Row {
        setting: setting("sources", "source", &[Flow], Form("a list of objects"), "", "", "Sources of the flow, the backups behind the first; in Rust, `backup` adds these."),
        access: None,
    },
    Row {
        setting: setting("outputs", "output", &[Flow], Form("a list of objects"), "", "", "Outputs of the flow."),
        access: None,
    },
    Row {
        setting: setting("policy", "Failover::new", &[Failover], Choice(&["stay", "prefer", "merge"]), "", "stay", "Condition for a switch between the sources."),
        access: None,
    },
    Row {
        setting: setting("hold", "FailoverPolicy::Prefer", &[Failover], Number { min: 0, max: 3_600_000 }, "ms", "5000", "Time for which the first source has delivered before the flow returns to it."),
        access: None,
    },
    Row {
        setting: setting("window", "FailoverPolicy::Merge", &[Failover], Number { min: 100, max: 500 }, "ms", "200", "Maximum delay of one merged path behind another."),
        access: None,
    },
    Row {
        setting: setting("loss_threshold", "Failover::loss_threshold", &[Failover], Number { min: 50, max: 60_000 }, "ms", "500", "Time without media after which the active source counts as lost."),
        access: None,
    },
    Row {
        setting: setting("cold", "Failover::cold", &[Failover], Boolean, "", "false", "Connects backups only when they are needed; all of them are callers."),
        access: None,
    },
    // Every endpoint.
    Row {
        setting: setting("name", "", ENDPOINTS, NAME, "", "", "Name that identifies the endpoint, unique in its flow; the first argument of its constructor."),
        access: None,
    },
    Row {
        setting: setting("url", "from_url", ENDPOINTS, Text { min: 1, max: 8192 }, "", "", "Address of the endpoint; its query may hold the other settings.").secret(),
        access: None,
    },
    Row {
        setting: setting("description", "description", ENDPOINTS, Text { min: 0, max: 1024 }, "", "", "Description for people."),
        access: None,
    },
    Row {
        setting: setting("enabled", "enabled", ENDPOINTS, Boolean, "", "true", "Whether the endpoint takes part in the flow; a disabled one holds its configuration and name only, without sockets."),
        access: None,
    },
    Row {
        setting: setting("region", "region", OUTPUTS, NAME, "", "", "Region from which the output sends: a name that the engine maps to a local address or interface, or to other machines."),
        access: None,
    },
    Row {
        setting: setting("mode", "", NETWORK_ENDPOINTS, Choice(&["listener", "caller", "rendezvous"]), "", "", "Role of the endpoint; by default it listens if the host is missing or a wildcard, and calls otherwise. `rendezvous` is for SRT: both ends call."),
        access: None,
    },
    // Listeners.
    Row {
        setting: setting("allow", "allow", LISTENERS, Form("CIDR blocks separated by `;`"), "", "", "Peers that are admitted; by default everyone."),
        access: field!(listen, |s| (!s.allow.is_empty()).then(|| s.allow.to_string()), |s, v| s.allow = v.parse()?),
    },
    Row {
        setting: setting("max_players", "max_players", SERVERS, Number { min: 1, max: 1_000_000 }, "peers", "", "Maximum number of peers at the same time.").aliases(&["max_peers"]),
        access: field!(listen, |s| option(&s.max_peers), |s, v| s.max_peers = Some(v.number()?)),
    },
    // Sources with connections.
    Row {
        setting: setting("idle_timeout", "idle_timeout", &[RtmpSource, RtmpPullSource, RtspListenerSource, RtspCallerSource], range(&IDLE_TIMEOUT), "ms", "10000", "Time without media after which the source is lost."),
        access: field!(silence, |s| s.idle_timeout.map(|timeout| timeout.as_millis().to_string()), |s, v| s.idle_timeout = Some(v.millis()?)),
    },
    Row {
        setting: setting("idle_timeout", "idle_timeout", &[SrtListenerSource, SrtCallerSource], range(&IDLE_TIMEOUT), "ms", "5000", "Time without media after which the source is lost; `peeridletimeo` is that without packets."),
        access: field!(silence, |s| s.idle_timeout.map(|timeout| timeout.as_millis().to_string()), |s, v| s.idle_timeout = Some(v.millis()?)),
    },
    Row {
        setting: setting("takeover", "takeover", &[RtmpSource, SrtListenerSource, RtspListenerSource], Choice(&["never", "idle", "always"]), "", "idle", "Admission of another publisher while one is connected."),
        access: field!(silence, |s| option(&s.takeover), |s, v| s.takeover = Some(v.parse()?)),
    },
    // SRT.
    Row {
        setting: setting("latency", "latency", SRT, Number { min: 0, max: 10_000 }, "ms", "120", "Latency in both directions: also `SameCountry` (120), `SameContinent` (200) or `Intercontinental` (1000)."),
        access: field!(srt, |s| (s.receive_latency == s.peer_latency).then(|| s.receive_latency.to_string()), |s, v| {
            s.receive_latency = v.parse()?;
            s.peer_latency = s.receive_latency;
        }),
    },
    Row {
        setting: setting("rcvlatency", "receive_latency", SRT, Number { min: 0, max: 10_000 }, "ms", "120", "Latency of received packets; the larger of both ends' values is used."),
        access: field!(srt, |s| (s.receive_latency != s.peer_latency).then(|| s.receive_latency.to_string()), |s, v| s.receive_latency = v.parse()?),
    },
    Row {
        setting: setting("peerlatency", "peer_latency", SRT, Number { min: 0, max: 10_000 }, "ms", "120", "Minimum latency of packets that the peer receives."),
        access: field!(srt, |s| (s.receive_latency != s.peer_latency).then(|| s.peer_latency.to_string()), |s, v| s.peer_latency = v.parse()?),
    },
    Row {
        setting: setting("passphrase", "encryption", SRT, Text { min: 10, max: 79 }, "", "", "Passphrase of the encryption; a peer with another, or without one, is refused.").secret(),
        access: field!(srt, |s| s.passphrase.as_ref().map(|p| p.reveal().to_owned()), |s, v| s.passphrase = Some(Passphrase::new(v.text)?)),
    },
    Row {
        setting: setting("pbkeylen", "encryption", SRT, Choice(&["16", "24", "32"]), "bytes", "16", "Length of the AES key."),
        access: field!(srt, |s| text(s.key_length), |s, v| s.key_length = v.parse::<KeyLength>()?),
    },
    Row {
        setting: setting("cryptomode", "crypto_mode", SRT, Choice(&["auto", "aes-ctr", "aes-gcm"]), "", "auto", "Mode of the encryption, also as libsrt's numbers 0, 1 and 2; `auto` takes that of the caller, which is `aes-ctr` by default."),
        access: field!(srt, |s| text(s.crypto_mode), |s, v| s.crypto_mode = v.parse::<CryptoMode>()?),
    },
    Row {
        setting: setting("streamid", "stream_id", SRT, Text { min: 1, max: 512 }, "", "", "Stream id, which a caller sends, and by which listeners that share a port are told apart.").secret(),
        access: field!(srt, |s| s.stream_id.clone(), |s, v| s.stream_id = Some(srt::stream_id(v.text)?)),
    },
    Row {
        setting: setting("peeridletimeo", "peer_idle_timeout", SRT, range(&srt::IDLE_TIMEOUT), "ms", "5000", "Time that the peer may be silent before the connection is lost."),
        access: field!(srt, |s| text(s.peer_idle_timeout.as_millis()), |s, v| s.peer_idle_timeout = v.millis()?),
    },
    Row {
        setting: setting("payloadsize", "payload_size", SRT, Number { min: 188, max: 1456 }, "bytes", "1456", "Largest payload of one packet; an output leaves out what is larger, and says so."),
        access: field!(srt, |s| text(s.payload_size), |s, v| s.payload_size = v.number()?),
    },
    Row {
        setting: setting("maxbw", "max_bandwidth", SRT, Form("a bit rate such as `20M`"), "bit/s", "", "Maximum rate of a connection, retransmissions included; by default that of the flow plus the overhead."),
        access: field!(srt, |s| option(&s.max_bandwidth), |s, v| s.max_bandwidth = Some(v.parse()?)),
    },
    Row {
        setting: setting("oheadbw", "overhead", SRT, Number { min: 5, max: 100 }, "percent", "25", "Share of the input rate that retransmissions may take beside it."),
        access: field!(srt, |s| text(s.overhead_percent), |s, v| s.overhead_percent = v.number()?),
    },
    Row {
        setting: setting("tlpktdrop", "packet_drop", SRT, Boolean, "", "true", "Drops packets that are too late, instead of waiting for them."),
        access: field!(srt, |s| text(s.packet_drop), |s, v| s.packet_drop = v.boolean()?),
    },
    Row {
        setting: setting("groupconnect", "group_connect", &[SrtListenerSource, SrtListenerOutput], Boolean, "", "true", "Admits groups of connections (bonding) of libsrt's types broadcast and backup."),
        access: field!(srt, |s| text(s.group_connect), |s, v| s.group_connect = v.boolean()?),
    },
    Row {
        setting: setting("nodes", "nodes", &[SrtCallerSource, SrtCallerOutput], Form("hosts and ports separated by commas, such as `a.example.com:9000,b.example.com:9000?weight=50`"), "", "", "Addresses of the peer that make the caller a group of connections (bonding), beside the address itself."),
        access: field!(srt, |s| srt::nodes_text(&s.nodes), |s, v| s.nodes = srt::nodes(v.text)?),
    },
    Row {
        setting: setting("type", "group_type", &[SrtCallerSource, SrtCallerOutput], Choice(&["broadcast", "backup"]), "", "broadcast", "Type of the group of connections; with `backup` the heaviest node is used, and the next one when it fails.").aliases(&["grouptype"]),
        access: field!(srt, |s| option(&s.group_type), |s, v| s.group_type = Some(v.parse()?)),
    },
    Row {
        setting: setting("weight", "weight", &[SrtCallerSource, SrtCallerOutput], Number { min: 0, max: 65_535 }, "", "0", "Weight of the address itself in a group of the type `backup`."),
        access: field!(srt, |s| text(s.weight), |s, v| s.weight = v.number()?),
    },
    Row {
        setting: setting("packetfilter", "packet_filter", SRT, Form("libsrt's form `fec,cols:10,rows:5,layout:staircase,arq:onreq`, of which all but `fec` may be missing"), "", "", "Forward error correction; a listener without it uses what its caller asks for."),
        access: field!(srt, |s| option(&s.packet_filter), |s, v| s.packet_filter = Some(v.parse()?)),
    },
    Row {
        setting: setting("program", "program", &[SrtListenerSource, SrtCallerSource], Form("a program number from 1 to 65535, or the name of a service"), "", "", "Program of the transport stream that is remultiplexed to RTMP; by default the best one that has a picture."),
        access: field!(srt, |s| (s.program != ProgramChoice::Best).then(|| s.program.to_string()), |s, v| s.program = v.parse()?),
    },
    // RTP, and MPEG-TS over UDP.
    Row {
        setting: setting("iface", "interface", &[RtpSource, UdpSource], Form("name or address of an interface"), "", "", "Interface that receives a multicast group; by default the system's choice.").aliases(&["localaddr"]),
        access: field!(udp_input, |s| option(&s.interface), |s, v| s.interface = Some(v.parse()?)),
    },
    Row {
        setting: setting("source", "multicast_source", &[RtpSource, UdpSource], Form("an IP address"), "", "", "Only sender of the multicast group that is received (RFC 4607).").aliases(&["sources"]),
        access: field!(udp_input, |s| option(&s.multicast_source), |s, v| {
            let address = v.text.parse().map_err(|_| ConfigErrorKind::malformed(v.text, "an address"));
            s.multicast_source = Some(address?);
        }),
    },
    Row {
        setting: setting("pt", "payload_types", &[RtpSource], Form("payload types (0 to 127) separated by commas"), "", "", "Payload types that pass; by default all."),
        access: field!(rtp_input, |s| (s.payload_types != PayloadTypes::ALL).then(|| s.payload_types.to_string()), |s, v| s.payload_types = v.parse()?),
    },
    Row {
        setting: setting("reorder", "reorder_window", &[RtpSource], range(&rtp::REORDER), "ms", "50", "Time that a gap in the sequence is held open for packets that arrive out of order."),
        access: field!(rtp_input, |s| text(s.reorder_window.as_millis()), |s, v| s.reorder_window = v.millis()?),
    },
    Row {
        setting: setting("idle_timeout", "idle_timeout", &[RtpSource, UdpSource, RistSource], range(&IDLE_TIMEOUT), "ms", "5000", "Time without accepted media after which the source is lost."),
        access: field!(udp_input, |s| text(s.idle_timeout.as_millis()), |s, v| s.idle_timeout = v.millis()?),
    },
    Row {
        setting: setting("fec", "fec", &[RtpSource], Boolean, "", "false", "Receives forward error correction (SMPTE ST 2022-1) at the port plus 2 (columns) and plus 4 (rows)."),
        access: field!(rtp_input, |s| text(s.fec), |s, v| s.fec = v.boolean()?),
    },
    Row {
        setting: setting("fec", "fec", &[RtpOutput], Form("columns and rows, such as `5,10`, with the parity of rows `5,10,row` or `l=5:d=10`"), "", "", "Forward error correction (SMPTE ST 2022-1): 1 to 20 columns, 4 to 20 rows, at most 100 packets."),
        access: field!(rtp_output, |s| option(&s.fec), |s, v| s.fec = Some(v.parse()?)),
    },
    Row {
        setting: setting("second", "second", &[RtpOutput, UdpOutput], Form("host and port, such as `example.com:5004`"), "", "", "Second destination, which is sent the same packets (of RTP, as SMPTE ST 2022-7 wants them)."),
        access: field!(udp_output, |s| option(&s.second), |s, v| s.second = Some(v.parse()?)),
    },
    Row {
        setting: setting("iface", "interface", &[RtpOutput, UdpOutput, RistOutput], Form("name or address of an interface"), "", "", "Interface that a multicast group is sent on, or RIST leaves from; by default the system's choice."),
        access: field!(udp_output, |s| option(&s.interface), |s, v| s.interface = Some(v.parse()?)),
    },
    Row {
        setting: setting("ttl", "ttl", &[RtpOutput, UdpOutput, RistOutput], Number { min: 1, max: 255 }, "hops", "64", "Time to live, or hop limit, of the packets."),
        access: field!(udp_output, |s| text(s.ttl), |s, v| s.ttl = v.number()?),
    },
    Row {
        setting: setting("ssrc", "rewrite", &[RtpOutput], Form("preserve, random, or an SSRC as a number"), "", "preserve", "Sequence numbers and SSRC: those of the source, or new ones."),
        access: field!(rtp_output, |s| text(s.rewrite), |s, v| s.rewrite = v.parse()?),
    },
    Row {
        setting: setting("pace", "pace", &[RtpOutput, UdpOutput], Choice(&["none", "pcr"]), "", "none", "Departure of the packets: as they come, or MPEG-TS at the times of its program clock references."),
        access: field!(udp_output, |s| text(s.pace), |s, v| s.pace = v.parse()?),
    },
    // RIST.
    Row {
        setting: setting("latency", "latency", &[RistSource, RistOutput], range(&rist::LATENCY), "ms", "1000", "Time for which missing packets are asked for, and for which sent ones are kept.").aliases(&["buffer"]),
        access: field!(rist_latency, |s| text(s.as_millis()), |s, v| *s = v.millis()?),
    },
    // RTSP.
    Row {
        setting: setting("transport", "transport", RTSP, Choice(&["auto", "udp", "tcp"]), "", "auto", "Transport of the media."),
        access: field!(rtsp, |s| text(s.transport), |s, v| s.transport = v.parse()?),
    },
    Row {
        setting: setting("gop_cache", "gop_cache", RTSP, Boolean, "", "true", "Lets a late player start at the last key frame."),
        access: field!(rtsp, |s| text(s.gop_cache), |s, v| s.gop_cache = v.boolean()?),
    },
    Row {
        setting: setting("backchannel", "back_channel", &[RtspCallerSource], Boolean, "", "false", "Sets up the tracks that lead to the camera (ONVIF back channels), which are left out otherwise."),
        access: field!(rtsp, |s| text(s.back_channel), |s, v| s.back_channel = v.boolean()?),
    },
    Row {
        setting: setting("symmetric", "symmetric", RTSP, Boolean, "", "false", "Takes the peer's UDP ports from its first datagrams, for peers behind address translation (RFC 4961)."),
        access: field!(rtsp, |s| text(s.symmetric), |s, v| s.symmetric = v.boolean()?),
    },
    Row {
        setting: setting("multicast", "multicast", &[RtspListenerOutput], Form("a multicast group with an even port, such as `239.1.1.1:5000`"), "", "", "Multicast group that players may ask for."),
        access: field!(rtsp, |s| option(&s.multicast), |s, v| s.multicast = Some(rtsp::check_group(v.text)?)),
    },
    Row {
        setting: setting("iface", "interface", &[RtspListenerOutput], Form("name or address of an interface"), "", "", "Interface that the multicast group is sent on; by default the system's choice."),
        access: field!(rtsp, |s| option(&s.interface), |s, v| s.interface = Some(v.parse()?)),
    },
    Row {
        setting: setting("ttl", "ttl", &[RtspListenerOutput], Number { min: 1, max: 255 }, "hops", "16", "Time to live, or hop limit, of packets to the multicast group."),
        access: field!(rtsp, |s| text(s.ttl), |s, v| s.ttl = v.number()?),
    },
    // RTMP.
    Row {
        setting: setting("key", "key", &[RtmpSource, RtmpPullOutput], KEY, "", "", "Stream key, also the last part of the path; a random one is generated if there is none.").secret(),
        // It is written as a part of the path.
        access: field!(key, |_s| None, |s, v| *s = Some(StreamKey::new(v.text)?)),
    },
    Row {
        setting: setting("key", "", &[RtmpPullSource, RtmpOutput, RtmpPushOutput], KEY, "", "", "Stream key, also the last part of the path; an argument of the constructor.").secret(),
        access: field!(key, |s| s.as_ref().map(|key| key.reveal().to_owned()), |s, v| *s = Some(StreamKey::new(v.text)?)),
    },
    Row {
        setting: setting("failover", "failover", &[RtmpSource], Boolean, "", "false", "Adds a second input address on the same port: a backup with a generated stream key of its own, named like the source with `-backup` behind it."),
        access: field!(publish, |s| text(s.failover), |s, v| s.failover = v.boolean()?),
    },
    Row {
        setting: setting("chunk_size", "chunk_size", &[RtmpOutput, RtmpPushOutput], Number { min: 4096, max: 40_960 }, "bytes", "4096", "Size of the chunks that are sent."),
        access: field!(chunk_size, |s| text(s), |s, v| *s = v.number()?),
    },
    Row {
        setting: setting("second", "second", &[RtmpOutput], Form("an address, a space and a stream key"), "", "", "Second destination, which is sent the same media at the same time.").secret(),
        access: field!(relay, |s| s.second.as_ref().map(rtmp::second_as_text), |s, v| s.second = Some(rtmp::parse_second(v.text)?)),
    },
    Row {
        setting: setting("relay", "Output::rtmp", &[RtmpOutput, RtmpPushOutput], Boolean, "", "false", "Makes the redundant relay of an address with one destination."),
        access: None,
    },
    Row {
        setting: setting("gop_cache", "gop_cache", &[RtmpPullOutput], Number { min: 0, max: *rtmp::GOP_CACHE.end() as u64 }, "bytes", "16777216", "Maximum size of the last group of pictures, which late players start with; 0: off."),
        access: field!(play, |s| text(s.gop_cache), |s, v| s.gop_cache = v.number()?),
    },
    Row {
        setting: setting("coalesce", "coalesce", &[RtmpPullOutput], range(&rtmp::COALESCE), "ms", "0", "Time that messages may wait for more, so that they are written together."),
        access: field!(play, |s| text(s.coalesce.as_millis()), |s, v| s.coalesce = v.millis()?),
    },
    Row {
        setting: setting("slow_timeout", "slow_timeout", &[RtmpPullOutput], range(&rtmp::SLOW_TIMEOUT), "ms", "10000", "Time that a player may lag behind before it is disconnected."),
        access: field!(play, |s| text(s.slow_timeout.as_millis()), |s, v| s.slow_timeout = v.millis()?),
    },
    // Callers.
    Row {
        setting: setting("query", "query", RTMP_CALLERS_AND_RTSP_CALLERS, Text { min: 0, max: 4096 }, "", "", "Query for the server, percent-encoded: for names that are settings; all other names of the URL's query go there by themselves.").secret(),
        access: Some(Access { set: add_query, get: |_| None }),
    },
    Row {
        setting: setting("bind", "bind", CALLERS_AND_DATAGRAMS, Form("local address and port, such as `192.0.2.5:6000` or `:6000`"), "", "", "Local address and port; by default those of the region, and a port that the system picks."),
        access: field!(local, |s| s.bind_text(), |s, v| s.set_bind(v.text)?),
    },
    Row {
        setting: setting("local_port", "bind", CALLERS_AND_DATAGRAMS, Number { min: 1, max: 65_535 }, "", "", "Local port; by default one that the system picks."),
        access: field!(local, |s| s.port.filter(|_| s.address.is_none()).map(|port| port.to_string()), |s, v| s.port = Some(v.number()?)),
    },
    Row {
        setting: setting("dscp", "dscp", CALLERS_AND_DATAGRAMS, Number { min: *LocalEnd::DSCP.start() as u64, max: *LocalEnd::DSCP.end() as u64 }, "", "", "Differentiated services code point of the packets (RFC 2474)."),
        access: field!(local, |s| option(&s.dscp), |s, v| s.dscp = Some(v.number()?)),
    },
    Row {
        setting: setting("dscp", "dscp", SERVING_OUTPUTS, Number { min: *LocalEnd::DSCP.start() as u64, max: *LocalEnd::DSCP.end() as u64 }, "", "", "Differentiated services code point of the packets to players (RFC 2474)."),
        access: field!(listen, |s| option(&s.dscp), |s, v| s.dscp = Some(v.number()?)),
    },
    Row {
        setting: setting("iface", "interface", CALLERS, Form("name or address of an interface"), "", "", "Local interface; by default that of the region, or the system's choice.").aliases(&["interface"]),
        access: field!(local, |s| option(&s.interface), |s, v| s.interface = Some(v.parse()?)),
    },
    Row {
        setting: setting("congestion", "congestion", RTMP_CALLERS_AND_RTSP_CALLERS, Form("a congestion control of the kernel, such as `bbr` or `cubic`"), "", "", "Congestion control of TCP; by default the system's."),
        access: field!(local, |s| s.congestion.clone(), |s, v| s.congestion = Some(check_congestion(v.text)?)),
    },
    Row {
        setting: setting("congestion", "congestion", &[RtmpPullOutput, RtspListenerOutput], Form("a congestion control of the kernel, such as `bbr` or `cubic`"), "", "", "Congestion control of the TCP connections to players; by default the system's."),
        access: field!(listen, |s| s.congestion.clone(), |s, v| s.congestion = Some(check_congestion(v.text)?)),
    },
    Row {
        setting: setting("tls_fingerprint", "tls_fingerprint", RTMP_CALLERS_AND_RTSP_CALLERS, Form("SHA-256 fingerprints separated by `,`: 64 hexadecimal digits each, with or without colons"), "", "", "Only certificates that are accepted with TLS; by default the roots of the engine and of the system decide."),
        access: field!(call, |s| text(&s.tls_fingerprints).filter(|text| !text.is_empty()), |s, v| s.tls_fingerprints = v.parse()?),
    },
    Row {
        setting: setting("connect_timeout", "connect_timeout", CALLERS, range(&Call::CONNECT_TIMEOUT), "ms", "3000", "Maximum time that a peer may take to answer."),
        access: field!(call, |s| text(s.connect_timeout.as_millis()), |s, v| s.connect_timeout = v.millis()?),
    },
    Row {
        setting: setting("reconnect_min", "reconnect", CALLERS, Number { min: 100, max: 30_000 }, "ms", "500", "First delay before another attempt to connect; it doubles from attempt to attempt."),
        access: field!(call, |s| text(s.reconnect.start.as_millis()), |s, v| s.reconnect.start = v.millis()?),
    },
    Row {
        setting: setting("reconnect_max", "reconnect", CALLERS, Number { min: 1_000, max: 300_000 }, "ms", "30000", "Longest delay before another attempt to connect."),
        access: field!(call, |s| text(s.reconnect.cap.as_millis()), |s, v| s.reconnect.cap = v.millis()?),
    },
];

#[cfg(test)]
mod tests;
