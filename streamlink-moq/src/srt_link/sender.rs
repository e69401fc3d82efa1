//! Sending end of a link over SRT: a flow of the ingest engine as RTP packets, to all nodes that call for it.

use super::{SrtLink, SrtTarget, link_bandwidth, link_name, packets::Packer};
use crate::{Error, event::Throttle, node::random_number};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use crypto_box::aead::{OsRng, rand_core::RngCore};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, BandwidthPolicy, Bitrate, CryptoMode, Engine, Event, Events, Flow, FlowHandle, KeyLength, MediaFamily,
    MemberStats, Output, Packet, Passphrase, PeerLimits, PeerText, PushError, RegionReporter, Source, Tap,
};
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

/// Name of the source that the flow is pushed into.
const SOURCE: &str = "flow";
/// Name of the listener that nodes call.
const OUTPUT: &str = "nodes";
/// Interval of packets without media, while there is none.
const ALIVE: Duration = Duration::from_secs(1);
/// Maximum number of connections of nodes for one flow.
const MAX_CONNECTIONS: u32 = 512;
/// Maximum number of connections from one address: that of a node with a thousand flows.
const MAX_FROM_ADDRESS: u32 = 8192;
/// Share of the rate that retransmissions may take, in percent.
const OVERHEAD: u8 = 100;

/// Engine of the listeners of a cluster, which share their port.
pub(crate) struct Hub(Engine);

impl Hub {
    /// Returns an engine without flows, on the present tokio runtime.
    pub(crate) fn new() -> Result<Self, Error> {
        let limits = PeerLimits::new().connections(MAX_FROM_ADDRESS);
        let engine = Engine::builder().peer_limits(limits).on(tokio::runtime::Handle::current());
        engine.map(Self).map_err(|error| failure(&error))
    }
}

/// Listener of one flow. Dropping it ends its connections.
pub(crate) struct SrtSender {
    target: SrtTarget,
    handle: FlowHandle,
    events: Events,
    refusals: Throttle,
    lags: Throttle,
    _hub: Arc<Hub>,
}

impl SrtSender {
    /// Listens for the nodes of a region.
    ///
    /// # Errors
    /// [`Error::Srt`] when the port cannot be used, or the system has no random numbers.
    pub(crate) async fn start(hub: Arc<Hub>, link: &SrtLink, flow: &str) -> Result<Self, Error> {
        let target = SrtTarget {
            addresses: link.addresses.clone(),
            stream_id: format!("{:016x}", random_number()?),
            passphrase: random_passphrase()?,
            latency: link.latency,
        };
        let output = Output::srt_listener(OUTPUT, &link.bind.to_string())
            .stream_id(&target.stream_id)
            .encryption(target.passphrase.clone(), KeyLength::Aes256)
            .crypto_mode(CryptoMode::AesGcm)
            .latency(target.latency)
            .overhead(OVERHEAD)
            .max_players(MAX_CONNECTIONS)
            .allow(link.allow.clone());
        // What a node is to get is the flow's own limit; here nothing is left out.
        let flow = Flow::builder(link_name(flow, &target.stream_id), link_bandwidth(Bitrate::mbps(1)))
            .bandwidth_policy(BandwidthPolicy::Warn)
            .source(Source::app_datagrams(SOURCE))
            .output(output)
            .build()
            .map_err(|errors| failure(&errors))?;
        let handle = hub.0.start(flow).await.map_err(|error| failure(&error))?;
        let events = handle.events();
        let refusals = Throttle::default();
        Ok(Self { target, handle, events, refusals, lags: Throttle::default(), _hub: hub })
    }

    /// Returns what a node needs to call.
    pub(crate) fn target(&self) -> &SrtTarget {
        &self.target
    }

    /// Follows the maximum bandwidth of the flow, by which buffers are sized.
    pub(crate) fn set_bandwidth(&self, flow: Bitrate) {
        let _ = self.handle.set_max_bandwidth(link_bandwidth(flow)); // fails only when it has ended
    }

    /// Returns the task that sends the packets of the flow.
    ///
    /// # Errors
    /// [`Error::Srt`] when the listener has ended.
    pub(crate) fn feed(
        &self,
        family: MediaFamily,
        tap: Tap,
        reporter: RegionReporter,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        let source = self.handle.app_source(SOURCE).map_err(|error| failure(&error))?;
        let number = random_number()?;
        let ssrc = u32::try_from(number >> 32).unwrap_or_default();
        Ok(feed(source, Packer::new(family, ssrc, Instant::now()), tap, reporter))
    }

    /// Waits for the next event of the listener.
    ///
    /// If the future is dropped before it is ready, nothing is lost.
    pub(crate) async fn next_event(&mut self) -> Event {
        match self.events.next().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Tells an event of the listener at the flow's handle.
    pub(crate) fn tell(&mut self, event: Event, reporter: &RegionReporter) {
        let now = Instant::now();
        match event {
            Event::OutputConnected { peer: Some(peer), .. } => reporter.leg_connected(&format!("srt://{peer}")),
            Event::OutputLost { peer: Some(peer), reason, .. } => reporter.leg_lost(&format!("srt://{peer}"), reason),
            Event::PeerRefused { peer, reason, detail, .. } => {
                if let Some(count) = self.refusals.count(now) {
                    let detail = if detail.is_empty() { String::new() } else { format!(", {detail}") };
                    let times = if count == 1 { String::new() } else { format!(" ({count} events)") };
                    reporter.notice(format!("media over SRT: {peer} refused: {reason}{detail}{times}"));
                }
            }
            Event::OutputLagging { dropped, .. } if self.lags.count(now).is_some() => {
                reporter.notice(format!("media over SRT: {dropped} packets dropped so far for connections that lag"));
            }
            _ => {}
        }
    }

    /// Returns the statistics of the connections.
    pub(crate) fn legs(&self) -> Vec<MemberStats> {
        let outputs = self.handle.stats().outputs;
        let legs = outputs.into_iter().flat_map(|output| output.players).map(|player| {
            let mut leg = MemberStats::new(format!("srt://{}", player.peer));
            leg.connected_for = Some(player.connected_for);
            leg.is_active = true;
            leg.packets = player.packets;
            leg.bytes = player.bytes;
            leg.lost = player.lost;
            leg.retransmitted = player.retransmitted;
            leg.dropped = player.dropped;
            leg.round_trip = player.round_trip;
            leg
        });
        legs.collect()
    }
}

fn failure(reason: &impl fmt::Display) -> Error {
    Error::Srt(PeerText::new(reason.to_string()))
}

/// Returns a passphrase of 256 random bits.
fn random_passphrase() -> Result<Passphrase, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(&mut *bytes).map_err(|error| failure(&error))?;
    let text = URL_SAFE_NO_PAD.encode(*bytes);
    Passphrase::new(text).map_err(|error| failure(&error))
}

/// Sends the packets of a tap until it has ended.
async fn feed(source: AppSource, mut packer: Packer, mut tap: Tap, reporter: RegionReporter) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(ALIVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_idle = true;
    let mut ready = Vec::new();
    let mut left_out = Throttle::default();
    loop {
        tokio::select! {
            batch = tap.next_batch() => {
                let Some(batch) = batch else { return Ok(()) };
                let before = packer.left_out;
                packer.pack(&batch, &mut ready);
                is_idle = false;
                if packer.left_out > before && left_out.count(Instant::now()).is_some() {
                    let packets = packer.left_out;
                    reporter.notice(format!("media over SRT: {packets} packets cannot be carried, and are left out"));
                }
            }
            _ = ticks.tick() => {
                if is_idle {
                    packer.alive(Instant::now(), &mut ready);
                }
                is_idle = true;
            }
        }
        let now = Instant::now();
        let pushed = source.push_all(ready.drain(..).map(|packet| Packet::datagram(packet, now)));
        if pushed == Err(PushError::Closed) {
            return Err(Error::Closed);
        }
    }
}
