//! Links that are cut, slow and lossy, in a network namespace of their own. Long runs: set `STREAMLINK_MOQ_LONG`. Needs
//! root, `unshare` and `tc`.

use crate::common::{
    Certificate, RelayProcess,
    hop::{Edge, Ingest, Ts, digest, push_paced},
    soon,
};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use streamlink_core::{MediaFamily, Packet};
use streamlink_moq::{IncomingStats, PublishSettings, RelayAddress};

/// Variable that is set inside the namespace.
const INSIDE: &str = "STREAMLINK_MOQ_NETNS";

/// Runs a test of this file again in a network namespace of its own. Returns whether this is the inside.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        sh("ip link set lo up");
        return true;
    }
    if std::env::var_os("STREAMLINK_MOQ_LONG").is_none() {
        return false;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("-n")
        .arg(exe)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} in a namespace");
    false
}

fn sh(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Drops, or lets pass, all packets from and to a relay.
fn cut(relay: &RelayAddress, is_cut: bool) {
    let loss = if is_cut { 100 } else { 0 };
    let handle = relay.port();
    sh(&format!("tc qdisc change dev lo parent 1:{handle:x} netem loss {loss}%"));
}

/// Sends packets from and to each relay through a queue of its own.
fn prepare(relays: &[RelayAddress]) {
    sh("tc qdisc replace dev lo root handle 1: htb default 1 && \
        tc class add dev lo parent 1: classid 1:1 htb rate 10gbit");
    for relay in relays {
        let port = relay.port();
        sh(&format!(
            "tc class add dev lo parent 1: classid 1:{port:x} htb rate 10gbit && \
             tc qdisc add dev lo parent 1:{port:x} netem loss 0% && \
             tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip dport {port} 0xffff flowid 1:{port:x} && \
             tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip sport {port} 0xffff flowid 1:{port:x}"
        ));
    }
}

/// Carries 6 Mb/s over two relays while something happens to the network. Returns the longest silence.
async fn carry(
    time: Duration,
    prepare: impl FnOnce(&[RelayAddress]),
    happen: impl AsyncFnOnce(&[RelayAddress], &Edge),
) -> (Duration, IncomingStats) {
    let certificate = Certificate::new();
    let relays = [RelayProcess::start(&certificate), RelayProcess::start(&certificate)];
    let addresses = [relays[0].address(), relays[1].address()];
    prepare(&addresses);
    let family = MediaFamily::Datagrams;
    let ingest = Ingest::start(&addresses, &certificate, "live/cam", family, PublishSettings::new()).await;
    let mut edge = Edge::start(&addresses, &certificate, "live/cam", family).await;
    let out = edge.collect();
    let mut ts = Ts::new();
    let first = ts.datagram();
    ingest.source.push(first.clone()).unwrap();
    edge.legs(2).await;
    let source = ingest.source.clone();
    let pushing =
        tokio::spawn(async move { push_paced(&source, || ts.datagram(), Duration::from_micros(1754), time).await });
    happen(&addresses, &edge).await;
    let sent: Vec<Packet> = [first].into_iter().chain(pushing.await.unwrap()).collect();
    let count = u64::try_from(sent.len()).unwrap();
    let all = soon("the rest", async {
        while edge.incoming.stats().packets < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if edge.incoming.stats().lost > 0 {
                break;
            }
        }
    });
    all.await;
    let out = out.finish().await;
    let stats = edge.incoming.stats();
    println!("{} of {} packets, {stats:?}", out.len(), sent.len());
    let times: Vec<Instant> = out.iter().map(|(at, _)| *at).collect();
    let silence = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert_eq!(digest(out.iter().map(|(_, packet)| packet)), digest(sent.iter()), "{stats:?}");
    (silence, stats)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_cut_off_in_turn_lose_nothing() {
    if !is_inside("impaired::relays_cut_off_in_turn_lose_nothing") {
        return;
    }
    let happen = async |relays: &[RelayAddress], edge: &Edge| {
        for (relay, seconds) in [(0, 2), (1, 2), (0, 10), (1, 10)] {
            tokio::time::sleep(Duration::from_secs(3)).await;
            cut(&relays[relay], true);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            cut(&relays[relay], false);
            edge.legs(2).await;
        }
    };
    let (silence, _) = carry(Duration::from_secs(48), prepare, happen).await;
    println!("longest silence {silence:?} with cuts of 2 s and 10 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_and_lossy_links_lose_nothing() {
    if !is_inside("impaired::long_and_lossy_links_lose_nothing") {
        return;
    }
    let slow = |_: &[RelayAddress]| sh("tc qdisc replace dev lo root netem delay 75ms loss 1% limit 100000");
    let (silence, _) = carry(Duration::from_secs(40), slow, async |_, _| {}).await;
    println!("longest silence {silence:?} at 150 ms and 1 %");
}
