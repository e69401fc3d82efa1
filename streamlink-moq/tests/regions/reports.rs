//! Remote outputs at the flow's handle.

use crate::{
    common::until,
    rig::{Rig, runner_of},
};
use std::time::{Duration, Instant};
use streamlink_core::{Bitrate, Engine, Event, Flow, Output, Source, State};
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_outputs_change_while_the_flow_runs() {
    let rig = Rig::start().await;
    let nodes = rig.nodes(["n1"]).await;
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let _ = udp; // a port that nobody answers at
    let output = Output::from(Output::srt_listener("players", "127.0.0.1:0")).region("eu");
    let (flow, _generator) = rig.generated("match-day", vec![output]).await;
    let mut events = flow.events();
    until("the listener", || nodes[0].state().shared == ["match-day/players"]).await;
    until("its state", || flow.stats().outputs[0].state != State::Idle && flow.stats().outputs[0].url.is_some()).await;

    // Nobody listens there: the node's attempts are events of the flow here.
    let nowhere = Output::from(Output::srt_caller("nowhere", "127.0.0.1:9")).region("eu");
    flow.add_output(nowhere).await.unwrap();
    runner_of(&nodes, "match-day/nowhere").await;
    let retrying = async {
        loop {
            match events.next().await {
                Some(Event::OutputRetrying { output, .. }) if output == "nowhere" => return,
                Some(_) => {}
                None => panic!("the flow ended"),
            }
        }
    };
    crate::common::soon("an event of the remote output", retrying).await;
    let begun = Instant::now();
    flow.remove_output("nowhere").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(2800), "the node had said that the output has ended");
    until("the end of the output", || nodes[0].state().exclusive.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_receives_one_copy_for_each_leg_however_many_outputs() {
    let rig = Rig::start().await;
    let nodes = rig.nodes(["n1"]).await;
    let outputs = (0..6).map(|n| Output::from(Output::srt_listener(format!("o{n}"), "127.0.0.1:0")).region("eu"));
    let (flow, _generator) = rig.generated("match-day", outputs.collect()).await;
    until("all outputs", || nodes[0].state().shared.len() == 6).await;
    let received = || -> Vec<u64> {
        nodes[0].links().iter().map(|link| link.stats().map_or(0, |stats| stats.bytes_received)).collect()
    };
    until("media over both relays", || received().iter().all(|bytes| *bytes > 200_000)).await;
    let before = received();
    let sent_before = flow.stats().sources[0].bytes;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = received();
    let sent = flow.stats().sources[0].bytes - sent_before;
    for (before, after) in before.iter().zip(after) {
        let share = (after - before) as f64 / sent as f64;
        println!("a leg carries {share:.2} of the media");
        assert!((0.8..1.5).contains(&share), "{share}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_player_is_disconnected_through_the_flows_handle() {
    let rig = Rig::start().await;
    let _nodes = rig.nodes(["n1", "n2"]).await;
    let output = Output::from(Output::srt_listener("players", "127.0.0.1:0")).region("eu");
    let (flow, _generator) = rig.generated("match-day", vec![output]).await;
    until("the listener", || flow.stats().outputs[0].url.is_some()).await;
    let url = flow.stats().outputs[0].url.clone().unwrap().to_string();
    let engine = Engine::on(Handle::current()).unwrap();
    let player = Flow::builder("player", Bitrate::mbps(20)).source(Source::from_url("in", &url));
    let player = engine.start(player.output(Output::tap("out")).build().unwrap()).await.unwrap();
    let mut events = player.events();
    let players = || flow.stats().outputs[0].players.clone();
    until("the player", || !players().is_empty() && player.stats().sources[0].packets > 0).await;
    let peer = players()[0].peer;
    flow.kick_player("players", peer).await.unwrap();
    let lost = async {
        loop {
            if let Event::SourceLost { reason, .. } = events.next().await.expect("the player runs") {
                return reason;
            }
        }
    };
    println!("{}", crate::common::soon("the end of the connection", lost).await);
    // It comes back from another port, and is not disconnected once more.
    until("the player again", || players().iter().any(|player| player.peer != peer)).await;
    assert!(flow.kick_player("players", peer).await.is_err(), "it has gone");
    let again = players()[0].peer;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(players().first().map(|player| player.peer), Some(again));
}
