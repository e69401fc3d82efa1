//! Remote outputs at the flow's handle.

use crate::{
    common::{soon, until},
    rig::{Rig, runner_of},
};
use std::time::Duration;
use streamlink_core::{Bitrate, Engine, Event, Flow, FlowHandle, Output, Source, State};
use streamlink_moq::Node;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_outputs_change_while_the_flow_runs() {
    let rig = Rig::start().await;
    let nodes = rig.nodes(["n1"]).await;
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
    soon("an event of the remote output", retrying).await;
    flow.remove_output("nowhere").await.unwrap();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        assert!(!matches!(event, Event::RegionNotice { .. }), "the node reports that the output has ended: {event}");
    }
    until("the end of the output", || nodes[0].state().exclusive.is_empty()).await;
}

/// Returns how many copies of the media each relay has sent to the nodes within 3 s, by its own counters, and each link of
/// a node has received.
async fn copies(rig: &Rig, flow: &FlowHandle, node: &Node) -> Vec<(f64, f64)> {
    let look = async || {
        let mut figures = Vec::new();
        for (relay, link) in rig.relays.iter().zip(node.links()) {
            let received = link.stats().map_or(0, |stats| stats.bytes_received);
            figures.push((relay.traffic().await, received));
        }
        (figures, flow.stats().sources[0].bytes)
    };
    let (before, sent_before) = look().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (after, sent) = look().await;
    let sent = (sent - sent_before) as f64;
    let mut copies = Vec::new();
    for (((in_before, out_before), received_before), ((came, went), received)) in before.into_iter().zip(after) {
        let out_of_relay = (went - out_before) as f64 / (came - in_before) as f64;
        let at_node = (received - received_before) as f64 / sent;
        println!("a relay sends {out_of_relay:.2} of what it gets, a link receives {at_node:.2} of the media");
        copies.push((out_of_relay, at_node));
    }
    copies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_receives_one_copy_for_each_leg_however_many_outputs() {
    let rig = Rig::start().await;
    let mut nodes = rig.nodes(["n1"]).await;
    let outputs = (0..6).map(|n| Output::from(Output::srt_listener(format!("o{n}"), "127.0.0.1:0")).region("eu"));
    let (flow, _generator) = rig.generated("match-day", outputs.collect()).await;
    until("all outputs", || nodes[0].state().shared.len() == 6).await;
    let received = |node: &Node| -> Vec<u64> {
        node.links().iter().map(|link| link.stats().map_or(0, |stats| stats.bytes_received)).collect()
    };
    let carries = |node: &Node| received(node).iter().all(|bytes| *bytes > 200_000);
    until("media over both relays", || carries(&nodes[0])).await;
    for (out_of_relay, at_node) in copies(&rig, &flow, &nodes[0]).await {
        assert!((0.9..1.2).contains(&out_of_relay), "{out_of_relay}");
        assert!((0.8..1.5).contains(&at_node), "{at_node}");
    }
    // A standby for the players is another receiver: two copies leave each relay, one for each node.
    nodes.push(rig.node("n2"));
    until("all outputs at both nodes", || nodes.iter().all(|node| node.state().shared.len() == 6)).await;
    until("media at both nodes", || nodes.iter().all(carries)).await;
    for (out_of_relay, at_node) in copies(&rig, &flow, &nodes[1]).await {
        assert!((1.8..2.3).contains(&out_of_relay), "{out_of_relay}");
        assert!((0.8..1.5).contains(&at_node), "{at_node}");
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
    println!("{}", soon("the end of the connection", lost).await);
    // It comes back from another port, and is not disconnected once more.
    until("the player again", || players().iter().any(|player| player.peer != peer)).await;
    assert!(flow.kick_player("players", peer).await.is_err(), "it has gone");
    let again = players()[0].peer;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(players().first().map(|player| player.peer), Some(again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_that_waits_is_named_once() {
    let mut rig = Rig::start().await;
    let output = Output::from(Output::srt_listener("players", "127.0.0.1:0")).region("eu");
    let (flow, _generator) = rig.generated("match-day", vec![output]).await;
    let mut events = flow.events();
    let mut told = async |begin: &str| loop {
        match events.next().await {
            Some(event @ Event::RegionWaiting { .. }) => {
                let text = event.to_string();
                println!("{text}");
                assert_eq!(text.matches("region").count(), 1, "{text}");
                if text.starts_with(begin) {
                    return;
                }
            }
            Some(_) => {}
            None => panic!("the flow ended"),
        }
    };
    let reason = || flow.stats().outputs[0].last_error.as_ref().map(|error| error.text.to_string()).unwrap_or_default();
    soon("silence of the nodes", told("1 output waits for region `eu`: no node answers")).await;
    assert_eq!(reason(), "waiting for region `eu`: no node answers");
    for relay in rig.relays.drain(..) {
        relay.shut_down().await;
    }
    soon("loss of the relays", told("1 output waits for region `eu`: no relay answers: ")).await;
    assert!(reason().starts_with("waiting for region `eu`: no relay answers: "), "{}", reason());
}
