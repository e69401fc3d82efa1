//! A running flow, and the recorded packets of its tap.

use crate::{PATIENCE, eventually};
use std::{
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use streamlink_core::{
    Bitrate, Engine, EngineBuilder, Event, Failover, Flow, FlowHandle, Output, Packet, Source, TapCallback,
};

/// A path as an argument of a program.
///
/// # Panics
/// When it is not UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Range of the ports tried: below those that the system assigns, and so could take from under a test.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// Returns a port that is free over UDP and TCP; another one each time.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Tests of successive processes begin at different ports.
    let first = std::process::id().wrapping_mul(101);
    for _ in 0..count {
        let at = first.wrapping_add(NEXT.fetch_add(1, Relaxed)) % count;
        let port = PORTS.start + u16::try_from(at).expect("less than the count");
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Returns an even port that is free together with the next one, which nobody else is given.
pub fn even_port() -> u16 {
    loop {
        let port = free_port();
        let next = free_port();
        if port.is_multiple_of(2) && next == port + 1 {
            return port;
        }
        free_port(); // the other parity comes first
    }
}

/// A flow on an engine of its own, and a folder for files.
#[derive(Debug)]
pub struct Rig {
    /// The engine.
    pub engine: Engine,
    /// The flow.
    pub running: FlowHandle,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Starts a flow of at most 20 Mb/s.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(source: impl Into<Source>, outputs: Vec<Output>) -> Self {
        Self::start_with(vec![source.into()], Failover::default(), outputs)
    }

    /// Starts a flow of at most 20 Mb/s with backups.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start_with(sources: Vec<Source>, failover: Failover, outputs: Vec<Output>) -> Self {
        Self::start_on(Engine::builder(), sources, failover, outputs)
    }

    /// Starts a flow of at most 20 Mb/s on an engine with settings of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start_on(engine: EngineBuilder, sources: Vec<Source>, failover: Failover, outputs: Vec<Output>) -> Self {
        let engine = engine.workers(2).build().expect("an engine");
        let mut sources = sources.into_iter();
        let first = sources.next().expect("a source");
        let mut flow = Flow::builder("test", Bitrate::mbps(20)).source(first).failover(failover);
        for backup in sources {
            flow = flow.backup(backup);
        }
        for output in outputs {
            flow = flow.output(output);
        }
        let flow = flow.build().expect("a valid flow");
        let running = engine.block_on(engine.start(flow)).expect("a running flow");
        Self { engine, running, folder: tempfile::tempdir().expect("a folder") }
    }

    /// The URL of the source.
    pub fn input(&self) -> String {
        self.running.input_addresses()[0].clone()
    }

    /// The port of the source.
    ///
    /// # Panics
    /// When its URL has none.
    pub fn input_port(&self) -> u16 {
        let url = self.input();
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next().expect("an address");
        authority.rsplit_once(':').expect("a port").1.parse().expect("a number")
    }

    /// The URL of the first output that listens.
    pub fn playback(&self) -> String {
        self.running.playback_urls()[0].1.clone()
    }

    /// Path of a file in the folder of this flow.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for an event.
    ///
    /// # Panics
    /// When it does not come in time.
    #[track_caller]
    pub fn event<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let found = self.engine.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                while let Some(event) = self.running.next_event().await {
                    seen.push(event.clone());
                    if let Some(found) = wanted(event) {
                        return Some(found);
                    }
                }
                None
            })
            .await
        });
        match found {
            Ok(Some(found)) => found,
            _ => panic!("the event did not come; these did: {seen:?}"),
        }
    }

    /// Waits until the source is lost.
    #[track_caller]
    pub fn source_lost(&self) {
        self.event(|e| matches!(e, Event::SourceLost { .. }).then_some(()));
    }

    /// Stops the flow.
    pub fn stop(self) {
        self.engine.block_on(self.running.stop());
    }
}

/// Collects the packets of the tap named `tap`.
#[derive(Debug)]
pub struct Recording {
    packets: Arc<Mutex<Vec<Packet>>>,
    _calls: TapCallback,
}

impl Recording {
    /// Starts to collect.
    ///
    /// # Panics
    /// When the flow has no such tap.
    pub fn start(rig: &Rig) -> Self {
        let packets = Arc::new(Mutex::new(Vec::new()));
        let to = packets.clone();
        let tap = rig.running.tap("tap").expect("a tap");
        let calls = tap.for_each(move |p| to.lock().expect("whole").push(p));
        Self { packets, _calls: calls }
    }

    /// Returns the packets so far.
    ///
    /// # Panics
    /// When a callback has panicked.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().expect("whole").clone()
    }

    /// Returns all packets, once the source is lost and the tap has seen as much as the source.
    #[track_caller]
    pub fn finish_packets(self, rig: &Rig) -> Vec<Packet> {
        rig.source_lost();
        let total = rig.running.stats().sources[0].packets as usize;
        eventually("the tap has everything", || (self.packets().len() >= total).then_some(()));
        self.packets()
    }

    /// Returns the bytes of all packets, one after the other.
    #[track_caller]
    pub fn finish(self, rig: &Rig) -> Vec<u8> {
        self.finish_packets(rig).iter().flat_map(|p| p.data().to_vec()).collect()
    }
}
