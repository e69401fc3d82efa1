//! RIST settings of sources and outputs (VSF TR-06-1, simple profile).

use super::{
    address::HostPort,
    builder::{endpoint_builder, listener_setters, local_end_setters, output_setters},
    settings::check_millis,
    udp::{UdpInput, UdpOutput, check_ttl},
};
use crate::error::ConfigErrorKind;
use std::time::Duration;

/// Range of the latency, in milliseconds.
pub(crate) const LATENCY: std::ops::RangeInclusive<u64> = 10..=10_000;
const DEFAULT_LATENCY: Duration = Duration::from_secs(1);

/// Settings of a RIST source.
#[derive(Clone, Debug)]
pub(crate) struct RistInput {
    pub(crate) udp: UdpInput,
    pub(crate) latency: Duration,
}

/// Settings of a RIST output.
#[derive(Clone, Debug)]
pub(crate) struct RistOutput {
    pub(crate) udp: UdpOutput,
    pub(crate) latency: Duration,
}

/// Checks the port of the media, behind which RTCP has the next one.
fn check_port(port: u16) -> Result<(), ConfigErrorKind> {
    if port.is_multiple_of(2) {
        Ok(())
    } else {
        Err(ConfigErrorKind::Conflict(format!(
            "port {port} is odd: RIST has its media on an even port, and RTCP on the next"
        )))
    }
}

impl RistInput {
    pub(crate) fn new(udp: UdpInput) -> Self {
        Self { udp, latency: DEFAULT_LATENCY }
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        let bind = self.udp.listen.bind;
        if bind.ip().is_multicast() {
            let problem = "RIST is received at an address of this machine, not from a multicast group";
            return Some(("bind", ConfigErrorKind::Conflict(problem.into())));
        }
        check_port(bind.port()).err().map(|problem| ("bind", problem))
    }
}

impl RistOutput {
    pub(crate) fn new(destination: HostPort) -> Self {
        Self { udp: UdpOutput::new(destination), latency: DEFAULT_LATENCY }
    }

    /// Returns the field and problem of settings that contradict each other.
    pub(crate) fn check(&self) -> Option<(&'static str, ConfigErrorKind)> {
        check_port(self.udp.destination.port()).err().map(|problem| ("destination", problem))
    }
}

endpoint_builder! {
    /// Builder of a RIST source. Made by [`Source::rist`](crate::Source::rist).
    RistSourceBuilder: RistInput
}
listener_setters!(RistSourceBuilder, udp.listen);

impl RistSourceBuilder {
    /// Sets the time for which a missing packet is asked for, and the packets behind it are held, at most 2048 of them
    /// (1000 ms; 10–10 000). A few round trips at least. Packets that arrive in order are not delayed.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.draft.try_set("latency", check_millis(latency, LATENCY), |s, v| s.latency = v);
        self
    }

    /// Sets the time that the sender may be silent before the source counts as lost (5000 ms; 1000–60 000).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        let timeout = check_millis(timeout, super::silence::IDLE_TIMEOUT);
        self.draft.try_set("idle_timeout", timeout, |s, v| s.udp.idle_timeout = v);
        self
    }
}

endpoint_builder! {
    /// Builder of a RIST output. Made by [`Output::rist`](crate::Output::rist).
    RistOutputBuilder: RistOutput
}
output_setters!(RistOutputBuilder);
local_end_setters!(RistOutputBuilder, udp.local);

impl RistOutputBuilder {
    /// Sets the time for which packets are kept to be sent again (1000 ms; 10–10 000): at least the latency of the
    /// receiver.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.draft.try_set("latency", check_millis(latency, LATENCY), |s, v| s.latency = v);
        self
    }

    /// Sets the interface that the packets leave from: a name or an address (by default the system's choice).
    pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
        self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s.udp.interface = Some(v));
        self
    }

    /// Sets the time to live, or hop limit, of the packets (64; 1–255).
    pub fn ttl(mut self, hops: u8) -> Self {
        self.draft.try_set("ttl", check_ttl(hops), |s, v| s.udp.ttl = v);
        self
    }
}
