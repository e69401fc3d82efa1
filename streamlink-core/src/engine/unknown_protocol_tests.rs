//! A protocol that only its drivers know: the engine opens it, runs it, changes it and ends it like any other.

use super::*;
use crate::{
    endpoint::{
        AppSource, FlowMedia, SourceContext, Status,
        driver::{
            ListenerEntry, OpenOutput, OpenSource, Opened, OutputDrive, OutputDriver, OutputOpening, RouteId,
            SharedPort, SourceDrive, SourceDriver, SourceOpening, StartedOutput, StartedSource, Task,
        },
    },
    error::ErrorKind,
    flow::{Allowlist, Bitrate, Output, OutputKind, Source, SourceKind},
    media::{MediaFamily, Packet},
    router::{Ring, State},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{collections::HashMap, net::SocketAddr, time::Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Address at which opening an endpoint fails.
const TAKEN: u16 = 1;

/// Protocol whose peers are in the process: it hands on every packet, with the name of its output.
#[derive(Debug)]
struct Memory;

/// Port of the protocol. Its only peer is at [`Memory::peer`].
#[derive(Debug, Default)]
struct MemoryPort {
    routes: Mutex<HashMap<RouteId, CancellationToken>>,
    log: Mutex<Vec<String>>,
    closed: CancellationToken,
}

/// Packets that left the process, each with the name of its output.
static SENT: Mutex<Option<mpsc::UnboundedSender<(String, Bytes)>>> = Mutex::new(None);
/// Last port that was opened.
static PORT: Mutex<Option<Arc<MemoryPort>>> = Mutex::new(None);

impl Memory {
    fn peer() -> SocketAddr {
        ([192, 0, 2, 1], 9).into()
    }

    fn drivers() -> Drivers {
        fn source(_: &SourceKind) -> &dyn SourceDriver {
            &Memory
        }
        fn output(_: &OutputKind) -> &dyn OutputDriver {
            &Memory
        }
        Drivers { source, output }
    }
}

impl SharedPort for MemoryPort {
    fn edit(&self, route: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        let admits = allow.admits(Memory::peer().ip());
        self.log.lock().unwrap().push(format!("edit {route}: {admits}, {max_peers:?}"));
    }

    fn kick(&self, _: RouteId, peer: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(async move { peer == Memory::peer() })
    }

    fn remove(&self, route: RouteId) -> Task {
        let stop = self.routes.lock().unwrap().remove(&route);
        self.log.lock().unwrap().push(format!("remove {route}"));
        Box::pin(async move {
            if let Some(stop) = stop {
                stop.cancel();
            }
        })
    }

    fn release(self: Arc<Self>) -> Task {
        Box::pin(async move { self.closed.cancel() })
    }
}

/// Sends what a ring holds until it is stopped.
async fn send(ring: Arc<Ring>, name: String, stop: CancellationToken) {
    let mut reader = ring.reader();
    let mut window = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            ready = reader.ready() => if ready.is_err() { return },
        }
        reader.read(&mut window);
        for packet in window.drain(..).flat_map(|batch| batch.packets().to_vec()) {
            let sent = SENT.lock().unwrap().clone();
            let _ = sent.unwrap().send((name.clone(), packet.data().clone())); // the test may be over
        }
    }
}

impl SourceDriver for Memory {
    fn open(&self, opening: &SourceOpening<'_>) -> Result<Box<dyn OpenSource>, Error> {
        assert!(!opening.is_merged);
        Ok(Box::new(Self))
    }
}

impl OpenSource for Memory {
    fn start(self: Box<Self>, _: &EngineResources, _: &FlowMedia, _: SourceContext) -> StartedSource {
        let call = |context: SourceContext| -> Task {
            Box::pin(async move {
                let source = AppSource::new(MediaFamily::Datagrams, context.clone());
                while !context.stop.is_cancelled() {
                    source.push(Packet::datagram(Bytes::from_static(b"media"), Instant::now())).unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
        };
        StartedSource { input_address: None, drive: SourceDrive::Caller(Box::new(call)) }
    }
}

impl OutputDriver for Memory {
    fn open<'a>(&'a self, opening: OutputOpening<'a>) -> Opened<'a> {
        Box::pin(async move {
            let name = opening.status.name();
            if name == "wrong" {
                let address = SocketAddr::from(([192, 0, 2, 2], TAKEN));
                return Err(opening.label.bind(address, io::ErrorKind::AddrInUse.into()));
            }
            Ok(Box::new(OpenMemory(name)) as _)
        })
    }
}

struct OpenMemory(String);

impl OpenOutput for OpenMemory {
    fn start(self: Box<Self>, _: &EngineResources, flow: &FlowMedia, status: Arc<Status>) -> StartedOutput {
        let stop = CancellationToken::new();
        let task = send(flow.ring.clone(), self.0.clone(), stop.clone());
        if self.0 == "caller" {
            return StartedOutput::new(OutputDrive::Task { stop, task: Box::pin(task) });
        }
        status.counters.set_state(State::Connected, Instant::now());
        let port = Arc::new(MemoryPort::default());
        port.routes.lock().unwrap().insert(7, stop);
        *PORT.lock().unwrap() = Some(port.clone());
        tokio::spawn(task);
        let drive = OutputDrive::Listener(ListenerEntry::new(port, 7));
        StartedOutput { url: Some("memory://here".to_owned().into()), ..StartedOutput::new(drive) }
    }
}

#[test]
fn engine_runs_a_protocol_that_only_its_drivers_know() {
    let (sender, mut sent) = mpsc::unbounded_channel();
    *SENT.lock().unwrap() = Some(sender);
    let builder = EngineBuilder { drivers: Memory::drivers(), ..Engine::builder().workers(2) };
    let engine = builder.build().unwrap();
    engine.block_on(async {
        // The settings are those of another protocol; drivers decide what becomes of them.
        let flow = Flow::builder("f", Bitrate::mbps(20))
            .source(Source::srt_caller("in", "example.com:9"))
            .output(Output::srt_listener("listener", "127.0.0.1:9"))
            .build()
            .unwrap();
        let running = engine.start(flow).await.unwrap();
        assert_eq!(running.playback_urls(), [("listener".to_owned(), "memory://here".to_owned())]);
        assert_eq!(sent.recv().await.unwrap(), ("listener".to_owned(), Bytes::from_static(b"media")));
        assert_eq!(running.stats().outputs[0].state, State::Connected);
        let port = PORT.lock().unwrap().take().unwrap();

        running.add_output(Output::srt_caller("caller", "example.com:9")).await.unwrap();
        while sent.recv().await.unwrap().0 != "caller" {}
        let error = running.add_output(Output::srt_listener("wrong", "127.0.0.1:10")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddressInUse);
        assert!(error.to_string().contains("output `wrong`"), "{error}");

        running.kick_player("listener", Memory::peer()).await.unwrap();
        assert!(running.kick_player("listener", ([192, 0, 2, 9], 9).into()).await.is_err());
        let edit = OutputEdit::new().allow("10.0.0.0/8".parse().unwrap()).max_players(3);
        running.edit_output("listener", edit).unwrap();
        running.remove_output("caller").await.unwrap();
        running.stop().await;
        assert_eq!(*port.log.lock().unwrap(), ["edit 7: false, Some(3)", "remove 7"]);
        assert!(port.closed.is_cancelled(), "the port was released");
    });
}
