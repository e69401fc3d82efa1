//! A cluster of two relays, an ingest engine, and the nodes of a region.

use crate::common::{Certificate, InProcessRelay, PATIENCE, until};
use std::time::{Duration, Instant};
use streamlink_core::{AppSource, Bitrate, Engine, Flow, FlowHandle, Output, Packet, Source};
use streamlink_moq::{
    Cluster, MoqAddress, Node, NodeOptions, RelayAddress, RelayLink, SrtLink,
    membership::Phase,
    seal::{RegionKeys, RegionSecretKey},
};
use tokio::{runtime::Handle, task::JoinHandle};

/// Two relays, and the key of region `eu`.
pub(crate) struct Rig {
    pub(crate) certificate: Certificate,
    pub(crate) relays: Vec<InProcessRelay>,
    pub(crate) key: RegionSecretKey,
    pub(crate) ingest: Engine,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let certificate = Certificate::new();
        let mut relays = Vec::new();
        for _ in 0..2 {
            relays.push(InProcessRelay::start_counting(&certificate).await);
        }
        let key = RegionSecretKey::generate();
        let addresses = relays.iter().map(InProcessRelay::address).collect();
        let ingest = engine(addresses, &certificate, &key, None);
        Self { certificate, relays, key, ingest }
    }

    /// Returns another engine that takes the same flows in.
    pub(crate) fn another_ingest(&self) -> Engine {
        self.ingest_over(self.relay_addresses(), None)
    }

    /// Returns an engine that takes flows in, reaches the relays at addresses, and sends media over SRT if it is to.
    pub(crate) fn ingest_over(&self, relays: Vec<RelayAddress>, srt: Option<SrtLink>) -> Engine {
        engine(relays, &self.certificate, &self.key, srt)
    }

    pub(crate) fn relay_addresses(&self) -> Vec<RelayAddress> {
        self.relays.iter().map(InProcessRelay::address).collect()
    }

    pub(crate) fn address(&self) -> MoqAddress {
        MoqAddress::new(self.relay_addresses(), "live").expect("address")
    }

    pub(crate) fn node(&self, id: &str) -> Node {
        self.node_with(id, |options| options)
    }

    pub(crate) fn node_with(&self, id: &str, change: impl FnOnce(NodeOptions) -> NodeOptions) -> Node {
        let engine = Engine::on(Handle::current()).expect("engine");
        let options = NodeOptions::new("eu", id, self.address(), RegionKeys::new(self.key.clone()));
        Node::start(&engine, change(options.settings(self.certificate.settings()))).expect("node")
    }

    /// Starts nodes, and waits until they know each other.
    pub(crate) async fn nodes<const N: usize>(&self, ids: [&str; N]) -> Vec<Node> {
        let nodes: Vec<Node> = ids.iter().map(|id| self.node(id)).collect();
        let settled = |node: &Node| node.state().phase == Phase::Settled && node.state().peers.len() == N - 1;
        let all = until("settled nodes", || nodes.iter().all(settled));
        if tokio::time::timeout(PATIENCE * 3 / 4, all).await.is_err() {
            let links = nodes.iter().map(|node| node.links().iter().map(RelayLink::status).collect::<Vec<_>>());
            let states = nodes.iter().map(Node::state);
            panic!("not settled: {:#?} {:#?}", states.collect::<Vec<_>>(), links.collect::<Vec<_>>());
        }
        nodes
    }

    /// Starts a flow with generated MPEG-TS datagrams.
    pub(crate) async fn generated(&self, name: &str, outputs: Vec<Output>) -> (FlowHandle, Generator) {
        let flow = Flow::builder(name, Bitrate::mbps(20)).source(Source::app_datagrams("generator"));
        let flow = outputs.into_iter().fold(flow, |flow, output| flow.output(output));
        let handle = self.ingest.start(flow.build().expect("flow")).await.expect("started");
        let source = handle.app_source("generator").expect("source");
        (handle, Generator(tokio::spawn(generate(source))))
    }
}

/// Engine with the region.
fn engine(relays: Vec<RelayAddress>, certificate: &Certificate, key: &RegionSecretKey, srt: Option<SrtLink>) -> Engine {
    let address = MoqAddress::new(relays, "live").expect("address");
    let cluster = Cluster::new(address, certificate.settings()).expect("cluster");
    let link = match srt {
        Some(srt) => cluster.srt_region(key.public_key(), srt),
        None => cluster.region(key.public_key()),
    };
    Engine::builder().remote_region("eu", link).on(Handle::current()).expect("engine")
}

/// Generator of media, which ends with this.
pub(crate) struct Generator(JoinHandle<()>);

impl Drop for Generator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pushes a datagram of seven transport packets each 5 ms (2.1 Mb/s), each with its number.
async fn generate(source: AppSource) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for number in 0_u64.. {
        ticks.tick().await;
        let mut datagram = Vec::with_capacity(1316);
        for packet in 0..7_u64 {
            let counter = u8::try_from((number * 7 + packet) % 16).unwrap_or_default();
            let mut transport = vec![0x47, 0x01, 0x00, 0x10 | counter];
            transport.extend((number * 7 + packet).to_be_bytes());
            transport.resize(188, 0xaa);
            datagram.extend(transport);
        }
        let _ = source.push(Packet::datagram(datagram, Instant::now())); // the flow may have ended
    }
}

/// Node that runs an exclusive output of a flow, by its place in the list.
pub(crate) async fn runner_of(nodes: &[Node], output: &str) -> usize {
    let runs = |node: &Node| node.state().exclusive.iter().any(|running| running == output);
    until("a node that runs the output", || nodes.iter().filter(|node| runs(node)).count() == 1).await;
    nodes.iter().position(runs).expect("a node")
}
