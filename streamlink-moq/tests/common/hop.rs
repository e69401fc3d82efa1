//! A flow that goes over relays: its source here, its sink there.

#![allow(dead_code)] // each test binary uses a part

use super::{Certificate, soon, until};
use sha2::{Digest, Sha256};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Bitrate, Engine, Flow, FlowHandle, MediaFamily, Output, Packet, Source, Tap};
use streamlink_moq::{
    Incoming, IncomingStats, MoqEvent, MoqEvents, Publication, PublishSettings, RelayAddress, Relays, SubscribeSettings,
};
use tokio::task::JoinHandle;

fn source(family: MediaFamily, name: &str) -> Source {
    match family {
        MediaFamily::Datagrams => Source::app_datagrams(name).into(),
        MediaFamily::Rtp => Source::app_rtp(name).into(),
        MediaFamily::Rtmp => Source::app_rtmp(name).into(),
        MediaFamily::Rtsp => Source::app_rtsp(name).into(),
        other => panic!("no app source of family {other}"),
    }
}

pub(crate) async fn flow(engine: &Engine, name: &str, family: MediaFamily) -> FlowHandle {
    let flow = Flow::builder(name, Bitrate::mbps(200)).source(source(family, "in")).output(Output::tap("out"));
    engine.start(flow.build().expect("flow")).await.expect("flow")
}

/// The side of the source: an engine, a flow with an app source, and its publication.
pub(crate) struct Ingest {
    engine: Engine,
    pub(crate) flow: FlowHandle,
    pub(crate) source: AppSource,
    pub(crate) relays: Arc<Relays>,
    pub(crate) publication: Publication,
}

impl Ingest {
    pub(crate) async fn start(
        relays: &[RelayAddress],
        certificate: &Certificate,
        path: &str,
        family: MediaFamily,
        settings: PublishSettings,
    ) -> Self {
        let engine = Engine::on(tokio::runtime::Handle::current()).expect("engine");
        let flow = flow(&engine, "ingest", family).await;
        let source = flow.app_source("in").expect("source");
        let relays = Arc::new(Relays::connect(relays, &certificate.settings(), None).expect("relays"));
        let publication = Publication::of_flow(&relays, path, &flow, "out", &settings).expect("publication");
        Self { engine, flow, source, relays, publication }
    }
}

/// The side of the outputs: an engine, and a flow whose source is fed from relays.
pub(crate) struct Edge {
    engine: Engine,
    pub(crate) flow: FlowHandle,
    pub(crate) relays: Arc<Relays>,
    pub(crate) incoming: Incoming,
    pub(crate) tap: Option<Tap>,
}

impl Edge {
    pub(crate) async fn start(
        relays: &[RelayAddress],
        certificate: &Certificate,
        path: &str,
        family: MediaFamily,
    ) -> Self {
        let engine = Engine::on(tokio::runtime::Handle::current()).expect("engine");
        let flow = flow(&engine, "edge", family).await;
        let tap = flow.tap("out").expect("tap");
        let relays = Arc::new(Relays::connect(relays, &certificate.settings(), None).expect("relays"));
        let incoming = Incoming::open(&relays, path, SubscribeSettings::new()).expect("incoming");
        incoming.feed(flow.app_source("in").expect("source")).expect("family");
        Self { engine, flow, relays, incoming, tap: Some(tap) }
    }

    /// Waits until so many legs receive.
    pub(crate) async fn legs(&self, count: usize) {
        let up = || self.incoming.stats().legs.iter().filter(|leg| leg.path.is_some()).count();
        until("legs", || up() == count).await;
    }

    /// Collects the packets of the flow until it is stopped.
    pub(crate) fn collect(&mut self) -> Collected {
        let mut tap = self.tap.take().expect("tap");
        let flow = self.flow.clone();
        let task = tokio::spawn(async move {
            let mut packets = Vec::new();
            while let Some(packet) = tap.next().await {
                packets.push((Instant::now(), packet));
            }
            packets
        });
        Collected { flow, task }
    }
}

/// Packets that came out.
pub(crate) struct Collected {
    flow: FlowHandle,
    task: JoinHandle<Vec<(Instant, Packet)>>,
}

impl Collected {
    /// Stops the flow and returns its packets with the times at which they came.
    pub(crate) async fn finish(self) -> Vec<(Instant, Packet)> {
        self.flow.stop().await;
        soon("the rest of the packets", self.task).await.expect("collector")
    }

    /// Waits until the sink has had so many packets, then ends.
    pub(crate) async fn finish_after(self, edge: &Edge, packets: u64) -> Vec<(Instant, Packet)> {
        until("all packets", || edge.incoming.stats().packets >= packets).await;
        self.finish().await
    }
}

/// Interval of the datagrams of 6 Mb/s.
pub(crate) const PACE: Duration = Duration::from_micros(1754);

/// MPEG-TS of 6 Mb/s on its way over relays, to an edge with a leg over each of them.
pub(crate) struct Hop {
    pub(crate) ingest: Ingest,
    pub(crate) edge: Edge,
    out: Collected,
    ts: Ts,
    first: Packet,
}

impl Hop {
    /// Waits until all legs receive. The first datagram describes the flow, so that they subscribe.
    pub(crate) async fn start(relays: &[RelayAddress], certificate: &Certificate) -> Self {
        Self::start_between(relays, relays, certificate).await
    }

    /// Starts with other ways to the relays than from them.
    pub(crate) async fn start_between(to: &[RelayAddress], from: &[RelayAddress], certificate: &Certificate) -> Self {
        let family = MediaFamily::Datagrams;
        let ingest = Ingest::start(to, certificate, "live/cam", family, PublishSettings::new()).await;
        let mut edge = Edge::start(from, certificate, "live/cam", family).await;
        let out = edge.collect();
        let mut ts = Ts::new();
        let first = ts.datagram();
        ingest.source.push(first.clone()).expect("push");
        edge.legs(from.len()).await;
        Self { ingest, edge, out, ts, first }
    }

    /// Pushes for a time, while something happens to this, and waits for what comes of it.
    pub(crate) async fn carry(self, time: Duration, happen: impl AsyncFnOnce(&Ingest, &Edge)) -> Carried {
        let Self { ingest, edge, out, mut ts, first } = self;
        let source = ingest.source.clone();
        let pushing = tokio::spawn(async move { push_paced(&source, || ts.datagram(), PACE, time).await });
        happen(&ingest, &edge).await;
        let sent: Vec<Packet> = [first].into_iter().chain(pushing.await.expect("pushing")).collect();
        let count = u64::try_from(sent.len()).expect("count");
        let settled = async {
            // Until all is there, or nothing more comes.
            let mut last = (0, Instant::now());
            while last.0 < count && last.1.elapsed() < Duration::from_secs(4) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let packets = edge.incoming.stats().packets;
                if packets != last.0 {
                    last = (packets, Instant::now());
                }
            }
        };
        soon("the rest", settled).await;
        let out = out.finish().await;
        let stats = edge.incoming.stats();
        println!("{} of {} packets, {stats:?}", out.len(), sent.len());
        Carried { sent, out, stats }
    }
}

/// What was sent, and what has come.
pub(crate) struct Carried {
    pub(crate) sent: Vec<Packet>,
    pub(crate) out: Vec<(Instant, Packet)>,
    pub(crate) stats: IncomingStats,
}

impl Carried {
    /// Checks that all has come, byte for byte.
    pub(crate) fn assert_whole(&self) {
        let digests = (digest(self.out.iter().map(|(_, packet)| packet)), digest(self.sent.iter()));
        assert_eq!(digests.0, digests.1, "{:?}", self.stats);
    }

    /// Returns the longest silence.
    pub(crate) fn silence(&self) -> Duration {
        self.out.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    /// Returns the longest silence within a time that the way has added: pauses of the sender, such as those of a machine
    /// that is busy, do not count. All must have come.
    pub(crate) fn added_silence(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.out.windows(2).zip(self.sent.windows(2));
        let within = gaps.filter(|(came, _)| came[0].0 >= from && came[1].0 <= to);
        let added = |(came, sent): (&[(Instant, Packet)], &[Packet])| {
            (came[1].0 - came[0].0).saturating_sub(sent[1].arrival() - sent[0].arrival())
        };
        within.map(added).max().unwrap_or_default()
    }
}

/// Returns the SHA-256 of the bytes of packets.
pub(crate) fn digest<'a>(packets: impl Iterator<Item = &'a Packet>) -> String {
    let mut hasher = Sha256::new();
    for packet in packets {
        hasher.update(packet.data());
    }
    format!("{:x}", hasher.finalize())
}

/// Waits for an event.
pub(crate) async fn event(events: &mut MoqEvents, name: &str, is_it: impl Fn(&MoqEvent) -> bool) -> MoqEvent {
    soon(name, async {
        loop {
            let event = events.next().await.expect("event");
            if is_it(&event) {
                return event;
            }
        }
    })
    .await
}

/// Makes MPEG-TS: datagrams of seven transport packets with tables, video, SCTE-35, KLV and null packets.
pub(crate) struct Ts {
    count: u64,
}

impl Ts {
    pub(crate) fn new() -> Self {
        Self { count: 0 }
    }

    pub(crate) fn datagram(&mut self) -> Packet {
        let mut data = Vec::with_capacity(7 * 188);
        for _ in 0..7 {
            data.extend(self.packet());
        }
        Packet::datagram(data, Instant::now())
    }

    fn packet(&mut self) -> [u8; 188] {
        let count = self.count;
        self.count += 1;
        let mut packet = [0xff; 188];
        let pid: u16 = match count % 100 {
            0 => 0,
            1 => 0x1000,
            2 => 0x1f0, // SCTE-35
            3 => 0x1f1, // KLV
            n if n % 10 == 9 => 0x1fff,
            _ => 0x100,
        };
        let [high, low] = pid.to_be_bytes();
        let continuity = u8::try_from(count % 16).unwrap();
        packet[..4].copy_from_slice(&[0x47, high, low, 0x10 | continuity]);
        let mut random = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in &mut packet[4..] {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = random.to_be_bytes()[0];
        }
        if count.is_multiple_of(100) {
            let pat = [0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0, 0x2a, 0xb1, 0x04, 0xb2];
            packet[1] |= 0x40;
            packet[4..4 + pat.len()].copy_from_slice(&pat);
        }
        if count % 2000 == 4 {
            // A random access point of video.
            packet[1] |= 0x40;
            packet[3] |= 0x30;
            packet[4..10].copy_from_slice(&[1, 0x40, 0, 0, 1, 0xe0]);
        }
        packet
    }
}

/// Pushes packets at a pace, and returns them.
pub(crate) async fn push_paced(
    source: &AppSource,
    mut make: impl FnMut() -> Packet,
    every: Duration,
    time: Duration,
) -> Vec<Packet> {
    let mut sent = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let start = Instant::now();
    while start.elapsed() < time {
        tick.tick().await;
        while every * u32::try_from(sent.len()).unwrap() < start.elapsed() {
            let packet = make();
            source.push(packet.clone()).expect("push");
            sent.push(packet);
        }
    }
    sent
}
