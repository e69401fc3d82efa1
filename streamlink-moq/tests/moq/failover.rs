//! Two legs: no relay's death is seen.

use crate::{
    carriage::rtp,
    common::{
        Certificate, InProcessRelay, RelayProcess,
        hop::{Edge, Hop, Ingest, Ts, event},
        until,
    },
};
use std::time::{Duration, Instant};
use streamlink_core::{MediaFamily, Packet};
use streamlink_moq::{MoqEvent, PublishSettings};

/// Runs a flow over two relays, each killed in turn and started again at once. Prints the longest silence, and those that
/// the way adds to the pauses of the sender: of the time after kills, and of the time before them.
async fn kill_in_turn(kills: u32, every: Duration) {
    let certificate = Certificate::new();
    let mut relays = [RelayProcess::start(&certificate), RelayProcess::start(&certificate)];
    let addresses = [relays[0].address(), relays[1].address()];
    let hop = Hop::start(&addresses, &certificate).await;
    let began = Instant::now();
    let first_kill = began + every;
    let end = began + every * (kills + 1);
    let run = hop
        .carry(end - began, async |_, edge| {
            let mut events = edge.incoming.events();
            for kill in 0..kills {
                tokio::time::sleep_until((first_kill + every * kill).into()).await;
                let index = usize::try_from(kill % 2).unwrap();
                relays[index].kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                relays[index].restart();
                let relay = addresses[index].to_string();
                let is_down =
                    |event: &MoqEvent| matches!(event, MoqEvent::LegDown { relay: down, .. } if *down == relay);
                event(&mut events, "end of the leg", is_down).await;
                let begun = Instant::now();
                edge.legs(2).await;
                println!("leg {index} back after {:?}", begun.elapsed());
            }
        })
        .await;
    run.assert_whole();
    let stats = &run.stats;
    assert_eq!((stats.lost, stats.lost_groups, stats.restarts), (0, 0, 0), "{stats:?}");
    // A leg is back about 1.3 s after its relay was killed. The rest of the time, nothing happens: as long a time with the
    // same load of the machine.
    let half = every / 2;
    let around = (0..kills).map(|kill| first_kill + every * kill);
    let killed = around.clone().map(|kill| run.added_silence(kill, kill + half)).max().unwrap_or_default();
    let quiet = around.map(|kill| run.added_silence(kill - half, kill)).max().unwrap_or_default();
    println!("longest silence {:?}; the way adds {killed:?} after kills, {quiet:?} before", run.silence());
    if std::env::var_os("STREAMLINK_MOQ_LONG").is_some() {
        assert!(killed <= quiet + Duration::from_millis(50), "{killed:?} {quiet:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_killed_in_turn_lose_nothing() {
    if std::env::var_os("STREAMLINK_MOQ_LONG").is_some() {
        kill_in_turn(24, Duration::from_secs(5)).await;
    } else {
        kill_in_turn(3, Duration::from_secs(4)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_relays_away_for_a_moment_lose_nothing() {
    let certificate = Certificate::new();
    let mut relays = [RelayProcess::start(&certificate), RelayProcess::start(&certificate)];
    let hop = Hop::start(&[relays[0].address(), relays[1].address()], &certificate).await;
    let run = hop
        .carry(Duration::from_secs(6), async |_, _| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for relay in &mut relays {
                relay.kill();
                relay.restart();
            }
        })
        .await;
    run.assert_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingest_node_killed_of_two_loses_nothing() {
    let certificate = Certificate::new();
    let relays = [InProcessRelay::start(&certificate).await, InProcessRelay::start(&certificate).await];
    let addresses = [relays[0].address(), relays[1].address()];
    let family = MediaFamily::Rtp;
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let settings = PublishSettings::new().instance(name);
        nodes.push(Ingest::start(&addresses, &certificate, "live/cam", family, settings).await);
    }
    let mut edge = Edge::start(&addresses, &certificate, "live/cam", family).await;
    let out = edge.collect();
    let mut sent = Vec::new();
    let mut numbers = 65_000..u32::MAX;
    let mut push = async |nodes: &[Ingest], count: usize, lost_by: &dyn Fn(u32, usize) -> bool| {
        for number in numbers.by_ref().take(count) {
            let packet = rtp((number % 65_536) as u16);
            for (index, node) in nodes.iter().enumerate() {
                if !lost_by(number, index) {
                    node.source.push(packet.clone()).unwrap();
                }
            }
            sent.push(packet);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    push(&nodes, 20, &|_, _| false).await;
    edge.legs(2).await;
    let paths = || {
        let mut paths: Vec<_> = edge.incoming.stats().legs.iter().filter_map(|leg| leg.path.clone()).collect();
        paths.sort();
        paths
    };
    until("a leg for each node", || paths() == ["live/cam/a", "live/cam/b"]).await;
    // Each node loses other packets.
    push(&nodes, 700, &|number, node| number % 20 == 3 + u32::try_from(node).unwrap()).await;
    drop(nodes.remove(0));
    push(&nodes, 1000, &|_, _| false).await;
    until("both legs at the other node", || paths() == ["live/cam/b", "live/cam/b"]).await;
    let first = out.finish_after(&edge, 0).await;
    let stats = edge.incoming.stats();
    // Packets before the first subscription may be missing, and nothing after that.
    let begin = sent.iter().position(|packet| packet.data() == first[0].1.data()).unwrap();
    assert!(begin < 20, "{begin}");
    let sent = &sent[begin..];
    assert!(first.iter().map(|(_, packet)| packet.data()).eq(sent.iter().map(Packet::data)), "{stats:?}");
    assert_eq!((stats.lost, stats.restarts), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leg_down_and_up_is_told() {
    let certificate = Certificate::new();
    let mut relays = [RelayProcess::start(&certificate), RelayProcess::start(&certificate)];
    let addresses = [relays[0].address(), relays[1].address()];
    let family = MediaFamily::Datagrams;
    let ingest = Ingest::start(&addresses, &certificate, "live/cam", family, PublishSettings::new()).await;
    let edge = Edge::start(&addresses, &certificate, "live/cam", family).await;
    let mut sent = ingest.publication.events();
    let mut received = edge.incoming.events();
    ingest.source.push(Ts::new().datagram()).unwrap();
    edge.legs(2).await;
    relays[1].kill();
    let relay = addresses[1].to_string();
    let is_lost = |event: &MoqEvent| matches!(event, MoqEvent::RelayLost { relay: lost, .. } if *lost == relay);
    event(&mut sent, "loss of the relay at the publisher", is_lost).await;
    let is_down = |event: &MoqEvent| matches!(event, MoqEvent::LegDown { relay: down, .. } if *down == relay);
    let down = event(&mut received, "end of the leg", is_down).await;
    let MoqEvent::LegDown { reason, .. } = &down else { panic!("{down:?}") };
    assert!(!reason.is_empty());
    let legs = edge.incoming.stats().legs;
    assert!(legs[1].last_error.is_some() && legs[0].path.is_some(), "{legs:?}");
    assert!(serde_json::to_string(&edge.incoming.stats()).unwrap().contains("last_error"));
    relays[1].restart();
    let is_up = |event: &MoqEvent| matches!(event, MoqEvent::LegUp { relay: up, .. } if *up == relay);
    event(&mut received, "return of the leg", is_up).await;
}
