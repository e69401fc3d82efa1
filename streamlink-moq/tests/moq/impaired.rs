//! Links that are cut, slow and lossy. `STREAMLINK_MOQ_LONG` makes the runs longer and asserts the figures.

use crate::common::{
    Certificate, InProcessRelay,
    hop::{Edge, Ingest, Ts, digest, event, push_paced},
    impair::Impaired,
    soon,
};
use std::time::{Duration, Instant};
use streamlink_core::{MediaFamily, Packet};
use streamlink_moq::{IncomingStats, MoqEvent, PublishSettings};

fn is_long() -> bool {
    std::env::var_os("STREAMLINK_MOQ_LONG").is_some()
}

/// Result of a run.
struct Run {
    sent: Vec<Packet>,
    out: Vec<(Instant, Packet)>,
    stats: IncomingStats,
}

impl Run {
    /// Returns the longest silence.
    fn silence(&self) -> Duration {
        self.out.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    fn assert_whole(&self) {
        let digests = (digest(self.out.iter().map(|(_, packet)| packet)), digest(self.sent.iter()));
        assert_eq!(digests.0, digests.1, "{:?}", self.stats);
    }
}

/// Carries 6 Mb/s over two relays, while something happens to the networks before them.
async fn carry(
    time: Duration,
    prepare: impl FnOnce(&[Impaired; 2]),
    happen: impl AsyncFnOnce(&[Impaired; 2], &Edge, &Ingest),
) -> Run {
    let certificate = Certificate::new();
    let relays = [InProcessRelay::start(&certificate).await, InProcessRelay::start(&certificate).await];
    let networks = [Impaired::start(&relays[0].address()).await, Impaired::start(&relays[1].address()).await];
    prepare(&networks);
    let addresses = [networks[0].address(), networks[1].address()];
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
    happen(&networks, &edge, &ingest).await;
    let sent: Vec<Packet> = [first].into_iter().chain(pushing.await.unwrap()).collect();
    let count = u64::try_from(sent.len()).unwrap();
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
    Run { sent, out, stats }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_cut_off_in_turn_lose_nothing() {
    let cuts: &[(usize, u64)] = if is_long() { &[(0, 2), (1, 2), (0, 10), (1, 10)] } else { &[(0, 2), (1, 2)] };
    let time = if is_long() { 45 } else { 10 };
    let happen = async |networks: &[Impaired; 2], edge: &Edge, _: &Ingest| {
        for (relay, seconds) in cuts {
            tokio::time::sleep(Duration::from_secs(1)).await;
            networks[*relay].lose(10_000);
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            networks[*relay].lose(0);
            edge.legs(2).await;
        }
    };
    let run = carry(Duration::from_secs(time), |_| {}, happen).await;
    println!("longest silence {:?} with cuts of {cuts:?}", run.silence());
    run.assert_whole();
    assert_eq!((run.stats.lost, run.stats.lost_groups), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_links_cut_for_a_moment_lose_nothing() {
    let happen = async |networks: &[Impaired; 2], edge: &Edge, _: &Ingest| {
        let mut events = edge.incoming.events();
        let told = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                println!("{event:?}");
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        for network in networks {
            network.lose(10_000);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for network in networks {
            network.lose(0);
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        told.abort();
    };
    let run = carry(Duration::from_secs(8), |_| {}, happen).await;
    println!("longest silence {:?} with all links cut for 2 s", run.silence());
    run.assert_whole();
}

/// At 150 ms and 1 % loss, the legs need some seconds before they carry 6 Mb/s; after that nothing is lost within the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_and_lossy_links_lose_nothing_once_they_are_warm() {
    if !is_long() {
        return; // takes a minute on an idle machine
    }
    let slow = |networks: &[Impaired; 2]| {
        for network in networks {
            network.round_trip(Duration::from_millis(150));
            network.lose(100);
        }
    };
    let mut warm = (0, 0);
    let happen = async |_: &[Impaired; 2], edge: &Edge, _: &Ingest| {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let stats = edge.incoming.stats();
        warm = (stats.lost, stats.lost_groups);
    };
    let run = carry(Duration::from_secs(40), slow, happen).await;
    println!("longest silence {:?} at 150 ms with loss; lost while cold: {warm:?}", run.silence());
    assert_eq!((run.stats.lost, run.stats.lost_groups), warm);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_a_link_is_told() {
    let time = Duration::from_secs(9);
    let happen = async |networks: &[Impaired; 2], _: &Edge, ingest: &Ingest| {
        let mut events = ingest.publication.events();
        networks[1].lose(500);
        let relay = networks[1].address().to_string();
        let is_high = |event: &MoqEvent| matches!(event, MoqEvent::LossHigh { relay: of, .. } if *of == relay);
        event(&mut events, "high loss", is_high).await;
        let stats = ingest.publication.stats();
        assert!(stats.relays[1].is_loss_high, "{stats:?}");
    };
    let run = carry(time, |_| {}, happen).await;
    assert!(run.stats.legs.iter().all(|leg| leg.malformed == 0), "{:?}", run.stats);
}
