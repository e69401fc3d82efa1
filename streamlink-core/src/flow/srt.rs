//! SRT: the settings of sources and outputs (draft-sharabayko-srt-01; option names and ranges as in libsrt's
//! `API-socket-options.md`).

use super::{
    address::{Call, Listen},
    bitrate::Bitrate,
    endpoint::{Calling, EndpointBuilder, Listening},
    name::check_text,
    secret::{KeyLength, Passphrase},
    settings::{Entries, Settings, boolean, check_millis, millis, number, store},
};
use crate::error::Problem;
use std::{fmt, str::FromStr, time::Duration};

/// The SRT latency: how long the receiver holds packets back so that lost ones can still be repeated.
///
/// 0–10 000 ms, 120 ms by default. As a rule, four round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latency(u16);

impl Latency {
    /// 120 ms: both ends in one country.
    pub const SAME_COUNTRY: Self = Self(120);
    /// 200 ms: both ends on one continent.
    pub const SAME_CONTINENT: Self = Self(200);
    /// 1000 ms: between continents.
    pub const INTERCONTINENTAL: Self = Self(1000);
    /// The longest latency, in milliseconds.
    pub const MAX_MILLIS: u16 = 10_000;

    /// A latency of so many milliseconds.
    ///
    /// # Errors
    /// Above [`Latency::MAX_MILLIS`].
    pub fn from_millis(millis: u16) -> Result<Self, Problem> {
        match millis {
            0..=Self::MAX_MILLIS => Ok(Self(millis)),
            _ => Err(Problem::out_of_range(format!("{millis} ms"), "0 to 10000 milliseconds")),
        }
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u16 {
        self.0
    }

    /// As a duration.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::SAME_COUNTRY
    }
}

impl FromStr for Latency {
    type Err = Problem;
    /// Milliseconds, or one of `SameCountry`, `SameContinent`, `Intercontinental`.
    fn from_str(s: &str) -> Result<Self, Problem> {
        match s {
            "SameCountry" => Ok(Self::SAME_COUNTRY),
            "SameContinent" => Ok(Self::SAME_CONTINENT),
            "Intercontinental" => Ok(Self::INTERCONTINENTAL),
            _ => number(s, 0..=Self::MAX_MILLIS, "milliseconds").map(Self),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What listener and caller share.
#[derive(Clone, Debug)]
pub(crate) struct SrtOptions {
    pub(crate) receive_latency: Latency,
    pub(crate) peer_latency: Latency,
    pub(crate) passphrase: Option<Passphrase>,
    pub(crate) key_length: KeyLength,
    pub(crate) stream_id: Option<String>,
    pub(crate) peer_idle_timeout: Duration,
    pub(crate) payload_size: u16,
    /// `None`: the flow's maximum bandwidth plus the overhead.
    pub(crate) max_bandwidth: Option<Bitrate>,
    pub(crate) overhead_percent: u8,
    pub(crate) packet_drop: bool,
}

const IDLE_TIMEOUT: std::ops::RangeInclusive<u64> = 1_000..=60_000;
const PAYLOAD: std::ops::RangeInclusive<u16> = 188..=1456;
const OVERHEAD: std::ops::RangeInclusive<u8> = 5..=100;
const STREAM_ID_MAX: usize = 512;

impl Default for SrtOptions {
    fn default() -> Self {
        Self {
            receive_latency: Latency::default(),
            peer_latency: Latency::default(),
            passphrase: None,
            key_length: KeyLength::default(),
            stream_id: None,
            peer_idle_timeout: Duration::from_millis(5000),
            payload_size: 1316,
            max_bandwidth: None,
            overhead_percent: 25,
            packet_drop: true,
        }
    }
}

fn stream_id(text: &str) -> Result<String, Problem> {
    check_text(text, 1, STREAM_ID_MAX).map(|()| text.to_owned())
}

impl Settings for SrtOptions {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
        match key {
            "latency" => Some(value.parse().map(|l| (self.receive_latency, self.peer_latency) = (l, l))),
            "rcvlatency" => store(&mut self.receive_latency, value.parse()),
            "peerlatency" => store(&mut self.peer_latency, value.parse()),
            "passphrase" => store(&mut self.passphrase, Passphrase::new(value).map(Some)),
            "pbkeylen" => store(&mut self.key_length, value.parse()),
            "streamid" => store(&mut self.stream_id, stream_id(value).map(Some)),
            "peeridletimeo" => store(&mut self.peer_idle_timeout, millis(value, IDLE_TIMEOUT)),
            "payloadsize" => store(&mut self.payload_size, number(value, PAYLOAD, "bytes")),
            "maxbw" => store(&mut self.max_bandwidth, value.parse().map(Some)),
            "oheadbw" => store(&mut self.overhead_percent, number(value, OVERHEAD, "percent")),
            "tlpktdrop" => store(&mut self.packet_drop, boolean(value)),
            _ => None,
        }
    }

    fn list(&self, out: &mut Entries) {
        let default = Self::default();
        if self.receive_latency == self.peer_latency {
            out.push_unless("latency", self.receive_latency, default.receive_latency);
        } else {
            out.push_unless("rcvlatency", self.receive_latency, default.receive_latency);
            out.push_unless("peerlatency", self.peer_latency, default.peer_latency);
        }
        out.push_some("passphrase", self.passphrase.as_ref().map(Passphrase::reveal));
        out.push_unless("pbkeylen", self.key_length.bytes(), default.key_length.bytes());
        out.push_some("streamid", self.stream_id.as_ref());
        out.push_unless("peeridletimeo", self.peer_idle_timeout.as_millis(), default.peer_idle_timeout.as_millis());
        out.push_unless("payloadsize", self.payload_size, default.payload_size);
        out.push_some("maxbw", self.max_bandwidth);
        out.push_unless("oheadbw", self.overhead_percent, default.overhead_percent);
        out.push_unless("tlpktdrop", self.packet_drop, default.packet_drop);
    }
}

/// The settings of an SRT listener, as source or output.
#[derive(Clone, Debug)]
pub struct SrtListener {
    pub(crate) listen: Listen,
    pub(crate) srt: SrtOptions,
}

/// The settings of an SRT caller, as source or output.
#[derive(Clone, Debug)]
pub struct SrtCaller {
    pub(crate) call: Call,
    pub(crate) srt: SrtOptions,
}

/// Settings of an SRT endpoint. Sealed.
pub trait Srt {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn srt_mut(&mut self) -> &mut SrtOptions;
}

macro_rules! srt_endpoint {
    ($settings:ident, $base:ident) => {
        impl Srt for $settings {
            #[allow(private_interfaces)]
            fn srt_mut(&mut self) -> &mut SrtOptions {
                &mut self.srt
            }
        }
        impl Settings for $settings {
            fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Problem>> {
                self.srt.set(key, value).or_else(|| self.$base.set(key, value))
            }
            fn list(&self, out: &mut Entries) {
                self.srt.list(out);
                self.$base.list(out);
            }
        }
    };
}
srt_endpoint!(SrtListener, listen);
srt_endpoint!(SrtCaller, call);

impl Listening for SrtListener {
    #[allow(private_interfaces)]
    fn listen_mut(&mut self) -> &mut Listen {
        &mut self.listen
    }
}

impl Calling for SrtCaller {
    #[allow(private_interfaces)]
    fn call_mut(&mut self) -> &mut Call {
        &mut self.call
    }
}

impl<R, S: Srt> EndpointBuilder<R, S> {
    /// The latency in both directions (120 ms).
    pub fn latency(self, latency: Latency) -> Self {
        self.receive_latency(latency).peer_latency(latency)
    }

    /// The latency of what this end receives (120 ms); the larger of both ends' wishes holds.
    pub fn receive_latency(self, latency: Latency) -> Self {
        self.with(|s| s.srt_mut().receive_latency = latency)
    }

    /// The latency that the peer shall keep at least for what it receives (120 ms).
    pub fn peer_latency(self, latency: Latency) -> Self {
        self.with(|s| s.srt_mut().peer_latency = latency)
    }

    /// Encrypts with AES; a peer with another passphrase, or with none, is refused.
    pub fn encryption(self, passphrase: Passphrase, length: KeyLength) -> Self {
        self.with(|s| {
            s.srt_mut().passphrase = Some(passphrase);
            s.srt_mut().key_length = length;
        })
    }

    /// The stream id (1–512 bytes): a caller sends it; a listener that shares its port answers to it.
    pub fn stream_id(self, id: impl AsRef<str>) -> Self {
        self.try_with("streamid", stream_id(id.as_ref()), |s, id| s.srt_mut().stream_id = Some(id))
    }

    /// How long the peer may be silent before the connection is lost (5000 ms; 1000–60 000).
    pub fn peer_idle_timeout(self, timeout: Duration) -> Self {
        self.try_with("peeridletimeo", check_millis(timeout, IDLE_TIMEOUT), |s, v| s.srt_mut().peer_idle_timeout = v)
    }

    /// The largest payload of one packet (1316 bytes; 188–1456).
    pub fn payload_size(self, bytes: u16) -> Self {
        let value = match PAYLOAD.contains(&bytes) {
            true => Ok(bytes),
            false => Err(Problem::out_of_range(bytes, "188 to 1456 bytes")),
        };
        self.try_with("payloadsize", value, |s, v| s.srt_mut().payload_size = v)
    }

    /// The most that a connection sends, repeats included (by default the flow's maximum bandwidth plus the overhead,
    /// or the rate that comes in plus the overhead where that is more and [`BandwidthPolicy::Warn`] lets it pass). It
    /// stays when the bandwidth of the running flow is changed; what exceeds it is dropped, with
    /// [`Event::OutputLagging`](crate::Event::OutputLagging).
    ///
    /// [`BandwidthPolicy::Warn`]: crate::BandwidthPolicy::Warn
    pub fn max_bandwidth(self, rate: Bitrate) -> Self {
        self.with(|s| s.srt_mut().max_bandwidth = Some(rate))
    }

    /// The share of the rate that repeats may take beside it (25 %; 5–100).
    pub fn overhead(self, percent: u8) -> Self {
        let value = match OVERHEAD.contains(&percent) {
            true => Ok(percent),
            false => Err(Problem::out_of_range(percent, "5 to 100 percent")),
        };
        self.try_with("oheadbw", value, |s, v| s.srt_mut().overhead_percent = v)
    }

    /// Whether packets that come too late are given up (on), or waited for (off).
    pub fn packet_drop(self, on: bool) -> Self {
        self.with(|s| s.srt_mut().packet_drop = on)
    }
}
