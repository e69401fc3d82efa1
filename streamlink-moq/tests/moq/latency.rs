//! Latency that a hop adds.

use crate::common::{
    Certificate, RelayProcess,
    hop::{Edge, Ingest, PACE, Ts, push_paced},
};
use std::time::{Duration, Instant};
use streamlink_core::MediaFamily;
use streamlink_moq::PublishSettings;

/// Measures the time from a push into the flow here to its arrival at the tap there, over one relay as a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_adds_milliseconds() {
    let is_long = std::env::var_os("STREAMLINK_MOQ_LONG").is_some();
    let certificate = Certificate::new();
    let relay = RelayProcess::start(&certificate);
    let relays = [relay.address()];
    let family = MediaFamily::Datagrams;
    let ingest = Ingest::start(&relays, &certificate, "live/cam", family, PublishSettings::new()).await;
    let mut edge = Edge::start(&relays, &certificate, "live/cam", family).await;
    let out = edge.collect();
    let mut ts = Ts::new();
    ingest.source.push(ts.datagram()).unwrap();
    edge.legs(1).await;
    let mut pushed: Vec<Instant> = Vec::new();
    let make = || {
        pushed.push(Instant::now());
        ts.datagram()
    };
    let time = Duration::from_secs(if is_long { 30 } else { 3 });
    let sent = push_paced(&ingest.source, make, PACE, time).await;
    let out = out.finish_after(&edge, u64::try_from(sent.len()).unwrap() + 1).await;
    let arrived = out.iter().skip(1).map(|(at, _)| *at);
    let mut added: Vec<Duration> = arrived.zip(&pushed).map(|(at, pushed)| at.duration_since(*pushed)).collect();
    added.sort_unstable();
    let at = |percent: usize| added[(added.len() - 1) * percent / 100];
    println!("a hop adds {:?} at the median, {:?} at 99 %, {:?} at most", at(50), at(99), at(100));
    assert_eq!(added.len(), sent.len());
    if is_long {
        assert!(at(50) <= Duration::from_millis(3) && at(99) <= Duration::from_millis(20));
    }
}
