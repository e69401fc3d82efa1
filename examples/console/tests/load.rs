//! A console with 200 flows and 1000 outputs, of which 20 flows carry 2 Mb/s to 5 outputs each: reads and durable changes
//! stay quick, and no packet is lost. It is a program of its own, so that no other test takes its time.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "console/support.rs"]
#[expect(dead_code, reason = "the other tests of the console need more of it")]
mod support;

use serde_json::json;
use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::{Scope, sleep},
    time::{Duration, Instant},
};
use streamlink_tests::{eventually, rig::free_port};
use support::Console;

const FLOWS: usize = 200;
const CARRYING: usize = 20;
const OUTPUTS: usize = 5;
const READS: usize = 600;
const CHANGES: usize = 60;
/// Pause between two reads.
const PAUSE: Duration = Duration::from_millis(50);
/// Limit of 99 of 100 reads, above what as many requests take that read nothing: on a machine that is busy with something
/// else, all of them wait.
const READ_LIMIT: Duration = Duration::from_millis(50);
/// Limit of every durable change, above the slowest request that reads nothing.
const CHANGE_LIMIT: Duration = Duration::from_millis(150);

#[test]
fn console_stays_quick_with_a_thousand_outputs() {
    let console = Console::start();
    // A socket for each output that carries media, so that none of them has to hold much while nobody reads.
    let sinks: Vec<Sink> = (0..CARRYING * OUTPUTS).map(|_| Sink::new()).collect();
    let idle = UdpSocket::bind("127.0.0.1:0").unwrap();
    let idle = idle.local_addr().unwrap();
    let mut ports = Vec::new();
    for flow in 0..FLOWS {
        let port = free_port();
        ports.push(port);
        let outputs: Vec<_> = (0..OUTPUTS)
            .map(|number| {
                let to = sinks.get(flow * OUTPUTS + number).map_or(idle, Sink::address);
                json!({ "name": format!("o{number}"), "url": format!("rtp://{to}") })
            })
            .collect();
        let body = json!({
            "name": format!("flow-{flow}"), "max_bandwidth": "20M", "outputs": outputs,
            "sources": [{ "name": "in", "url": format!("rtp://127.0.0.1:{port}") }]
        });
        console.post("/api/v1/flows", &body).of(201);
    }
    let ports = &ports[..CARRYING];
    let is_over = AtomicBool::new(false);
    let sent = AtomicU32::new(0);
    let mut probes = Vec::new();
    let mut reads = Vec::new();
    let mut changes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| send(ports, &sent, &is_over));
        receive(scope, &sinks, &is_over);
        // Whatever fails, the senders and receivers end.
        let over = Over(&is_over);
        eventually("media in all flows that carry some", || {
            let flows = console.get("/api/v1/flows").of(200);
            let connected = flows["flows"].as_array()?.iter().filter(|flow| flow["state"] == "connected").count();
            (connected == CARRYING).then_some(())
        });
        let mut next = Instant::now();
        for at in 0..READS {
            let path = match at % 4 {
                0 => "/api/v1/flows".to_owned(),
                1 => format!("/api/v1/flows/flow-{}", at % FLOWS),
                2 => "/api/v1/events?limit=100".to_owned(),
                _ => format!("/api/v1/flows/flow-{}/samples", at % CARRYING),
            };
            let start = Instant::now();
            assert_eq!(console.get("/healthz").status, 200);
            probes.push(start.elapsed());
            let start = Instant::now();
            console.get(&path).of(200);
            reads.push(start.elapsed());
            if at.is_multiple_of(READS / CHANGES) {
                let start = Instant::now();
                let patch = json!({ "description": format!("change {at}") });
                console.patch(&format!("/api/v1/flows/flow-{}/outputs/o0", at % FLOWS), &patch).of(200);
                changes.push(start.elapsed());
            }
            next += PAUSE;
            sleep(next.saturating_duration_since(Instant::now()));
        }
        over.0.store(true, Ordering::SeqCst);
    });
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent > 2000, "{sent} packets sent to each flow");
    for (number, sink) in sinks.iter().enumerate() {
        let flow = number / OUTPUTS;
        assert_eq!(sink.gaps.load(Ordering::SeqCst), 0, "gaps behind output {number} of flow {flow}");
        eventually(&format!("the last packet behind output {number} of flow {flow}"), || {
            sink.drain();
            (sink.next.load(Ordering::SeqCst) == sent).then_some(())
        });
    }
    probes.sort_unstable();
    reads.sort_unstable();
    changes.sort_unstable();
    let percentile = |times: &[Duration], part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    let read = percentile(&reads, 99);
    let change = *changes.last().unwrap();
    let (probe, slowest_probe) = (percentile(&probes, 99), *probes.last().unwrap());
    println!(
        "{sent} packets to each output; reads p50 {:?}, p99 {read:?}; changes p50 {:?}, slowest {change:?}; requests that \
         read nothing p50 {:?}, p99 {probe:?}, slowest {slowest_probe:?}",
        percentile(&reads, 50),
        percentile(&changes, 50),
        percentile(&probes, 50)
    );
    assert!(read < READ_LIMIT + probe, "99 of 100 reads took up to {read:?}, and {probe:?} without reading");
    assert!(
        change < CHANGE_LIMIT + slowest_probe,
        "the slowest change took {change:?}, and the slowest request without a change {slowest_probe:?}"
    );
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends RTP of 2 Mb/s to each port, for two minutes at most. The time stamp is the number of the packet.
fn send(ports: &[u16], sent: &AtomicU32, is_over: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let mut packet = vec![0u8; 1328];
    packet[0] = 0x80;
    packet[1] = 96;
    let mut next = Instant::now();
    for number in 0u32.. {
        if is_over.load(Ordering::SeqCst) || Instant::now() > end {
            return;
        }
        let [.., high, low] = number.to_be_bytes();
        packet[2..4].copy_from_slice(&[high, low]);
        packet[4..8].copy_from_slice(&number.to_be_bytes());
        for port in ports {
            socket.send_to(&packet, ("127.0.0.1", *port)).unwrap();
        }
        sent.store(number + 1, Ordering::SeqCst);
        next += Duration::from_micros(5300);
        sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Takes what comes to all sinks until it is over.
fn receive<'scope>(scope: &'scope Scope<'scope, '_>, sinks: &'scope [Sink], is_over: &'scope AtomicBool) {
    scope.spawn(move || {
        while !is_over.load(Ordering::SeqCst) {
            for sink in sinks {
                sink.drain();
            }
            sleep(Duration::from_millis(10));
        }
    });
}

/// Receiver of what one output sends.
struct Sink {
    socket: UdpSocket,
    /// Number of the packet that follows the last one.
    next: AtomicU32,
    gaps: AtomicU32,
}

impl Sink {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, next: AtomicU32::new(0), gaps: AtomicU32::new(0) }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn drain(&self) {
        let mut packet = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut packet) {
            assert_eq!(length, 1328);
            let number = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
            if self.next.swap(number + 1, Ordering::SeqCst) != number {
                self.gaps.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
