//! Links that are cut, slow and lossy. `STREAMLINK_MOQ_LONG` makes the runs longer and asserts the figures.

use crate::common::{
    Certificate, InProcessRelay,
    hop::{Carried, Edge, Hop, Ingest, event},
    impair::Impaired,
};
use std::time::Duration;
use streamlink_moq::MoqEvent;

fn is_long() -> bool {
    std::env::var_os("STREAMLINK_MOQ_LONG").is_some()
}

/// Carries 6 Mb/s over two relays, while something happens to the networks before them.
async fn carry(
    time: Duration,
    prepare: impl FnOnce(&[Impaired; 2]),
    happen: impl AsyncFnOnce(&[Impaired; 2], &Edge, &Ingest),
) -> Carried {
    let certificate = Certificate::new();
    let relays = [InProcessRelay::start(&certificate).await, InProcessRelay::start(&certificate).await];
    let networks = [Impaired::start(&relays[0].address()).await, Impaired::start(&relays[1].address()).await];
    prepare(&networks);
    let hop = Hop::start(&[networks[0].address(), networks[1].address()], &certificate).await;
    hop.carry(time, async |ingest, edge| happen(&networks, edge, ingest).await).await
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

/// Links to both relays that carry less than the media for some seconds delay them: the rest of a group does not wait until
/// there is room for all that is newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrow_links_to_relays_delay_and_lose_nothing() {
    let certificate = Certificate::new();
    let relays = [InProcessRelay::start(&certificate).await, InProcessRelay::start(&certificate).await];
    let networks = [Impaired::start(&relays[0].address()).await, Impaired::start(&relays[1].address()).await];
    for network in &networks {
        network.round_trip(Duration::from_millis(40));
    }
    let narrow = networks.each_ref().map(Impaired::address);
    let hop = Hop::start_between(&narrow, &relays.each_ref().map(InProcessRelay::address), &certificate).await;
    let run = hop
        .carry(Duration::from_secs(12), async |_, _| {
            for rate in [0, 5_200_000, 0] {
                for network in &networks {
                    network.narrow(rate);
                }
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
        })
        .await;
    println!("longest silence {:?}", run.silence());
    assert_eq!((run.stats.lost, run.stats.lost_groups), (0, 0), "{:?}", run.stats);
    run.assert_whole();
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
