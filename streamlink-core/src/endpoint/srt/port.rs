//! SRT port: one UDP socket and one task for any number of callers of any number of sources and outputs, which are told
//! apart by their stream ids. The handle passes commands to the task.
//!
//! Memory: the places of the port ([`Places`]); a connection is bounded by its terms.

use super::{
    super::{
        EngineResources,
        driver::Task,
        listener::{self, AccessGate, Places, PortProtocol, RouteId},
    },
    route::Route,
    task::PortTask,
};
use crate::{
    flow::Allowlist,
    lock,
    net::{UdpOptions, UdpSocket},
    random::Random,
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Instant};
use tokio::sync::{
    mpsc::{self, error::SendError},
    oneshot,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Requested size of the socket buffers, in bytes.
const SOCKET_BUFFER: usize = 8 << 20;

/// Command to the task of a port.
pub(super) enum Command {
    Add(RouteId, Box<Route>),
    /// The answer tracks the questions to the host that are still open.
    Remove(RouteId, oneshot::Sender<TaskTracker>),
    Edit(RouteId, Allowlist, Option<u32>),
    Kick(RouteId, SocketAddr, oneshot::Sender<bool>),
    #[cfg(test)]
    Panic,
}

/// Handle to a port. The port closes when its last handle is dropped.
pub(super) type Port = listener::Port<SrtPort>;

/// Open SRT port. Its task ends when this is dropped.
#[derive(Debug)]
pub(in crate::endpoint) struct SrtPort(mpsc::UnboundedSender<Command>);

impl Port {
    /// Opens a port. Must be called within the runtime.
    pub(super) fn open(address: SocketAddr, resources: &EngineResources) -> io::Result<Arc<Self>> {
        let access = resources.access_hook.clone().map(|hook| AccessGate::new(hook, "SRT"));
        Self::open_with(address, resources.random.clone(), access, Places::new(resources.peer_limits))
    }

    fn open_with(
        address: SocketAddr,
        random: Random,
        access: Option<AccessGate>,
        places: Places,
    ) -> io::Result<Arc<Self>> {
        let options = UdpOptions {
            receive_buffer: Some(SOCKET_BUFFER),
            send_buffer: Some(SOCKET_BUFFER),
            ..UdpOptions::default()
        };
        let socket = UdpSocket::receiving(address, &options)?;
        let (commands, mut receiver) = mpsc::unbounded_channel();
        let local = socket.local_addr();
        let mut task = PortTask::new(socket, random, access, places);
        let closed = CancellationToken::new();
        let end = closed.clone().drop_guard();
        tokio::spawn(lock::task(async move {
            let result = AssertUnwindSafe(task.run(&mut receiver)).catch_unwind().await;
            if let Err(panic) = result {
                task.fail(&mut receiver, &*panic);
            }
            drop(task); // closes the socket
            drop(end); // the drop guard also fires if the task is aborted
        }));
        Ok(Self::new(local, SrtPort(commands), closed))
    }
}

// A command that cannot be sent finds a task that has ended, and with it all routes.
impl PortProtocol for SrtPort {
    type Route = Route;

    fn add(&self, id: RouteId, route: Route) {
        if let Err(SendError(Command::Add(_, route))) = self.0.send(Command::Add(id, Box::new(route))) {
            route.fail("the SRT port has failed", Instant::now());
        }
    }

    fn edit(&self, id: RouteId, allow: Allowlist, max_peers: Option<u32>) {
        let _ = self.0.send(Command::Edit(id, allow, max_peers));
    }

    fn kick(&self, id: RouteId, peer: SocketAddr) -> BoxFuture<'static, bool> {
        let (done, wait) = oneshot::channel();
        let _ = self.0.send(Command::Kick(id, peer, done));
        Box::pin(async move { wait.await.unwrap_or(false) })
    }

    /// Sends shutdown packets to the callers of the route.
    fn remove(&self, id: RouteId) -> Task {
        let (done, wait) = oneshot::channel();
        let _ = self.0.send(Command::Remove(id, done));
        Box::pin(async move {
            if let Ok(questions) = wait.await {
                // The host may free what its hook uses after a removal.
                questions.wait().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{Event, EventSink, FlowBandwidth, LossReason, Status, listener::Admission},
            rates::FlowRates,
            route::RouteMedia,
        },
        *,
    };
    use crate::{
        flow::{Bitrate, Listen, PeerLimits, SrtOptions},
        proto::srt::Terms,
        router::{Limits, Ring, State},
    };
    use std::time::Duration;

    fn output(name: &str, events: &EventSink) -> (Route, Arc<Status>) {
        let ring = Ring::new(Limits { bytes: 1 << 20, time: Duration::from_secs(1) });
        let status = Status::new(name, None);
        let route = Route {
            stream_id: Some(name.to_owned()),
            admission: Admission::of_output(&Listen::new(([127, 0, 0, 1], 0).into()), status.clone(), events),
            terms: Terms::default(),
            rates: FlowRates::new(&SrtOptions::default(), FlowBandwidth::fixed(Bitrate::mbps(20))),
            dscp: None,
            media: RouteMedia::Output(ring.reader()),
        };
        (route, status)
    }

    #[tokio::test]
    async fn srt_port_whose_task_panics_fails_its_endpoints_and_closes() {
        let events = EventSink::alone("f");
        let mut mailbox = events.subscribe();
        let random = Random::of(|bytes| bytes.fill(7));
        let places = Places::new(PeerLimits::new());
        let port = Port::open_with(([127, 0, 0, 1], 0).into(), random, None, places).unwrap();
        let local = port.local_addr();
        let closed = port.closed().clone();
        let ((first, first_status), (second, second_status)) = (output("first", &events), output("second", &events));
        let entry = port.clone().add(first);
        port.protocol.0.send(Command::Panic).unwrap();
        // These commands reach a task that is about to panic, or one that already has.
        let second_entry = port.clone().add(second);
        let removal = second_entry.remove();
        removal.await;
        assert!(!entry.kick(([127, 0, 0, 1], 1).into()).await);
        closed.cancelled().await;
        let (third, third_status) = output("third", &events);
        let third_entry = port.add(third);
        entry.remove().await;
        for entry in [entry, second_entry, third_entry] {
            entry.release().await;
        }
        for status in [first_status, second_status, third_status] {
            assert_eq!(status.counters.state(), State::Failed, "{}", status.name());
            let event = mailbox.receive().await.unwrap();
            let Event::OutputLost { reason: LossReason::Internal(why), .. } = event else { panic!("{event:?}") };
            assert!(why.contains("SRT port"), "{why}");
        }
        std::net::UdpSocket::bind(local).expect("the socket is closed");
    }
}
