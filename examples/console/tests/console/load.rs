//! Many flows and outputs: reads and durable changes stay quick.
//!
//! The small version always runs. `STREAMLINK_CONSOLE_LOAD=1` makes it 200 flows with 1000 outputs, of which 20 carry
//! 2 Mb/s to 5 outputs each, and holds the limits; they are for a release build on a machine that does nothing else.

use crate::support::Console;
use serde_json::json;
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use streamlink_tests::{eventually, rig::free_port};

struct Size {
    flows: usize,
    carrying: usize,
    reads: usize,
    changes: usize,
    /// Limits of the 99th percentile of reads, and of the slowest change.
    limits: Option<(Duration, Duration)>,
}

#[test]
fn console_stays_quick_under_load() {
    let size = match std::env::var_os("STREAMLINK_CONSOLE_LOAD") {
        Some(_) => Size {
            flows: 200,
            carrying: 20,
            reads: 600,
            changes: 60,
            limits: Some((Duration::from_millis(50), Duration::from_millis(150))),
        },
        None => Size { flows: 10, carrying: 2, reads: 40, changes: 5, limits: None },
    };
    let console = Console::start();
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sink = sink.local_addr().unwrap();
    let mut ports = Vec::new();
    for flow in 0..size.flows {
        let port = free_port();
        ports.push(port);
        let outputs: Vec<_> =
            (0..5).map(|n| json!({ "name": format!("o{n}"), "url": format!("rtp://{sink}") })).collect();
        let body = json!({
            "name": format!("flow-{flow}"), "max_bandwidth": "20M", "outputs": outputs,
            "sources": [{ "name": "in", "url": format!("rtp://127.0.0.1:{port}") }]
        });
        console.post("/api/v1/flows", &body).of(201);
    }
    let is_over = AtomicBool::new(false);
    let mut reads = Vec::new();
    let mut changes = Vec::new();
    std::thread::scope(|scope| {
        let ports = &ports[..size.carrying];
        let is_over = &is_over;
        scope.spawn(move || send(ports, is_over));
        // Whatever fails, the sender ends.
        let _over = Over(is_over);
        eventually("media in all flows that carry some", || {
            let flows = console.get("/api/v1/flows").of(200);
            let connected = flows["flows"].as_array()?.iter().filter(|flow| flow["state"] == "connected").count();
            (connected == size.carrying).then_some(())
        });
        let mut next = Instant::now();
        for at in 0..size.reads {
            let path = match at % 4 {
                0 => "/api/v1/flows".to_owned(),
                1 => format!("/api/v1/flows/flow-{}", at % size.flows),
                2 => "/api/v1/events?limit=100".to_owned(),
                _ => format!("/api/v1/flows/flow-{}/samples", at % size.carrying),
            };
            let start = Instant::now();
            console.get(&path).of(200);
            reads.push(start.elapsed());
            if at % (size.reads / size.changes) == 0 {
                let start = Instant::now();
                let patch = json!({ "description": format!("change {at}") });
                console.patch(&format!("/api/v1/flows/flow-{}/outputs/o0", at % size.flows), &patch).of(200);
                changes.push(start.elapsed());
            }
            next += Duration::from_millis(50);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let lost = console.get("/api/v1/stats").of(200);
        let carried =
            lost["flows"].as_array().unwrap().iter().filter(|flow| flow["sources"][0]["packets"].as_u64() > Some(0));
        assert_eq!(carried.count(), size.carrying);
    });
    reads.sort_unstable();
    changes.sort_unstable();
    let percentile = |times: &[Duration], part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    let read = percentile(&reads, 99);
    let change = *changes.last().unwrap();
    println!(
        "{} flows: reads p50 {:?}, p99 {read:?}; changes p50 {:?}, slowest {change:?}",
        size.flows,
        percentile(&reads, 50),
        percentile(&changes, 50)
    );
    if let Some((reads, changes)) = size.limits {
        assert!(read < reads, "99 of 100 reads within {read:?}");
        assert!(change < changes, "all changes within {change:?}");
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends RTP of 2 Mb/s to each port, for two minutes at most.
fn send(ports: &[u16], is_over: &AtomicBool) {
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
        packet[4..8].copy_from_slice(&(number * 475).to_be_bytes());
        for port in ports {
            // A flow that is being changed may have no socket for a moment.
            let _ = socket.send_to(&packet, ("127.0.0.1", *port));
        }
        next += Duration::from_micros(5300);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
