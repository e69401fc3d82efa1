//! A region whose node is another engine in this process: real sockets, with a link that carries packets, outputs and
//! reports between the two as a network would, as JSON.

use std::{collections::HashMap, sync::Arc, time::Duration};
use streamlink_core::{
    Bitrate, EndpointStats, Engine, Event, Flow, FlowHandle, LossReason, MemberStats, Output, OutputEdit, Packet,
    RegionFlow, RegionLink, RegionOutput, RegionReporter, RegionTask, RegionUpdate, RtmpKind, Source, State, StreamKey,
};
use streamlink_tests::{
    PATIENCE, eventually,
    rig::free_port,
    rtp::{Sender, Sink, sequence},
};

/// Link to a node in this process.
struct Loopback {
    node: Engine,
}

/// Flow at the node.
struct NodeFlow {
    handle: FlowHandle,
    /// Numbers and configurations of the outputs there, by their names.
    running: HashMap<String, (u64, String)>,
}

impl RegionLink for Loopback {
    fn run(&self, flow: RegionFlow) -> RegionTask {
        let node = self.node.clone();
        // A node is another process: what it does is no task of the engine that it serves.
        Box::pin(async move {
            let served = tokio::spawn(serve(node, flow)).await;
            served.unwrap_or_else(|error| Err(LossReason::Internal(error.to_string())))
        })
    }
}

async fn serve(node: Engine, mut flow: RegionFlow) -> Result<(), LossReason> {
    let first = flow.updates.next().await.ok_or(LossReason::Closed)?;
    let source = Source::from_url("in", &format!("app://{}", flow.family.to_string().to_ascii_lowercase()));
    let there = Flow::builder(&flow.name, first.max_bandwidth).source(source).build().map_err(internal)?;
    let handle = node.start(there).await.map_err(internal)?;
    let source = handle.app_source("in").map_err(internal)?;
    let mut events = handle.events();
    let mut node = NodeFlow { handle, running: HashMap::new() };
    node.apply(&first, &flow.reporter).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut leg = MemberStats::new("loopback");
    leg.connected_for = Some(Duration::ZERO);
    loop {
        tokio::select! {
            batch = flow.tap.next_batch() => {
                let Some(batch) = batch else { break };
                leg.packets += batch.len() as u64;
                let _ = source.push_all(batch.iter().cloned()); // what is refused is counted there
            }
            update = flow.updates.next() => match update {
                Some(update) => node.apply(&update, &flow.reporter).await?,
                None => break,
            },
            event = events.next() => if let Some(event) = event { node.report_event(&event, &flow.reporter) },
            _ = ticks.tick() => {
                node.report(&flow.reporter);
                flow.reporter.legs(vec![leg.clone()]);
            }
        }
    }
    node.handle.stop().await;
    node.report(&flow.reporter); // the last counters
    Ok(())
}

fn internal(error: impl ToString) -> LossReason {
    LossReason::Internal(error.to_string())
}

impl NodeFlow {
    /// Makes the node run the outputs of an update, and nothing else.
    async fn apply(&mut self, update: &RegionUpdate, reporter: &RegionReporter) -> Result<(), LossReason> {
        let wanted =
            |name: &str, id: u64| update.outputs.iter().any(|output| output.name() == name && output.id() == id);
        let gone: Vec<String> =
            self.running.iter().filter(|(name, (id, _))| !wanted(name, *id)).map(|(name, _)| name.clone()).collect();
        if !gone.is_empty() {
            self.report(reporter); // the last counters of those that go
        }
        for name in gone {
            self.handle.remove_output(&name).await.map_err(internal)?;
            let (id, _) = self.running.remove(&name).expect("it runs");
            reporter.removed(id);
        }
        for output in &update.outputs {
            self.run(output).await?;
        }
        Ok(())
    }

    async fn run(&mut self, output: &RegionOutput) -> Result<(), LossReason> {
        let json = output.output().to_json();
        let read = Output::from_json(&json).map_err(internal)?;
        match self.running.get(output.name()) {
            None => self.handle.add_output(read).await.map_err(internal)?,
            Some((_, known)) if *known != json => {
                self.handle.replace_output(output.name(), read).await.map_err(internal)?
            }
            Some(_) => {}
        }
        self.running.insert(output.name().to_owned(), (output.id(), json));
        Ok(())
    }

    fn report(&self, reporter: &RegionReporter) {
        for stats in self.handle.stats().outputs {
            let Some((id, _)) = self.running.get(&stats.name) else { continue };
            let json = serde_json::to_string(&stats).expect("JSON");
            reporter.output(*id, "node-1", serde_json::from_str::<EndpointStats>(&json).expect("statistics"));
        }
    }

    fn report_event(&self, event: &Event, reporter: &RegionReporter) {
        let json = serde_json::to_value(event).expect("JSON");
        let name = json.get("output").or_else(|| json.get("endpoint")).and_then(|name| name.as_str());
        if let Some((id, _)) = name.and_then(|name| self.running.get(name)) {
            reporter.event(*id, serde_json::from_value(json).expect("an event"));
        }
    }
}

/// Engine with the region `eu`, and the engine of its node.
fn engines() -> (Engine, Engine) {
    let node = Engine::builder().workers(2).build().unwrap();
    let link = Arc::new(Loopback { node: node.clone() });
    (Engine::builder().workers(2).remote_region("eu", link).build().unwrap(), node)
}

fn output(flow: &FlowHandle, name: &str) -> EndpointStats {
    flow.stats().outputs.into_iter().find(|output| output.name == name).expect("the output")
}

fn connected(flow: &FlowHandle, name: &str) -> EndpointStats {
    eventually("a connected output", || Some(output(flow, name)).filter(|output| output.state == State::Connected))
}

fn event<T>(engine: &Engine, flow: &FlowHandle, wanted: impl Fn(Event) -> Option<T>) -> T {
    engine.block_on(async {
        let found = async {
            loop {
                if let Some(found) = wanted(flow.next_event().await.expect("the flow runs")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the event in time")
    })
}

#[test]
fn rtp_output_moves_to_a_remote_region_and_back_while_media_flows() {
    let (engine, node) = engines();
    let local = Sink::new();
    let remote = Sink::new();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::rtp("in", "127.0.0.1:0"))
        .output(Output::rtp("out", &local.address()))
        .output(Output::rtp("twin", &remote.address()).region("eu"))
        .build()
        .unwrap();
    let flow = engine.block_on(engine.start(flow)).unwrap();
    let sender = Sender::to(&flow.input_addresses()[0]);
    assert_eq!(connected(&flow, "twin").node.as_deref(), Some("node-1"));
    sender.stream(0..50);
    let taken: Vec<u16> = remote.take(50).iter().map(|packet| sequence(packet)).collect();
    assert_eq!(taken, (0..50).collect::<Vec<_>>());
    assert_eq!(local.take(50).len(), 50);
    eventually("the counters of the node", || (output(&flow, "twin").packets == 50).then_some(()));
    let region = flow.stats().regions.remove(0);
    assert_eq!((region.state, region.packets, region.dropped), (State::Connected, 50, 0));
    eventually("the leg", || (flow.stats().regions[0].legs[0].packets == 50).then_some(()));
    assert_eq!(node.flow("f").unwrap().stats().outputs.len(), 1);

    // To the region, and back: the same destination, and the other output goes on.
    engine.block_on(flow.replace_output("out", Output::rtp("out", &local.address()).region("eu"))).unwrap();
    connected(&flow, "out");
    assert_eq!(node.flow("f").unwrap().stats().outputs.len(), 2);
    sender.stream(50..100);
    assert_eq!(local.take(50).len(), 50);
    engine.block_on(flow.replace_output("out", Output::rtp("out", &local.address()))).unwrap();
    assert_eq!((output(&flow, "out").node, output(&flow, "out").region), (None, None));
    assert_eq!(node.flow("f").unwrap().stats().outputs.len(), 1, "it has ended at the node");
    sender.stream(100..150);
    assert_eq!((local.take(50).len(), remote.take(100).len()), (50, 100));

    engine.block_on(flow.set_output_enabled("twin", false)).unwrap();
    assert!(node.flow("f").is_none(), "the flow has left the region");
    assert_eq!(output(&flow, "twin").packets, 150, "a disabled output keeps its counters");
    engine.block_on(flow.set_output_enabled("twin", true)).unwrap();
    connected(&flow, "twin");
    sender.stream(150..160);
    assert_eq!(remote.take(10).len(), 10);
    engine.block_on(engine.shutdown());
    assert!(node.flows().is_empty(), "the node has ended the flow");
}

#[test]
fn srt_players_of_a_remote_region_are_those_of_the_flow() {
    let (engine, node) = engines();
    let bind = format!("127.0.0.1:{}", free_port());
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::app_datagrams("in"))
        .output(Output::srt_listener("players", &bind).stream_id("live/cam").region("eu"))
        .build()
        .unwrap();
    let flow = engine.block_on(engine.start(flow)).unwrap();
    let url = eventually("the playback URL", || flow.playback_urls().pop());
    assert_eq!(url, ("players".to_owned(), format!("srt://{bind}?streamid=live/cam")));

    // The player is a flow of its own.
    let player = Flow::builder("player", Bitrate::mbps(20))
        .source(Source::from_url("in", &url.1))
        .output(Output::tap("tap"))
        .build()
        .unwrap();
    let player = engine.block_on(engine.start(player)).unwrap();
    let mut tap = player.tap("tap").unwrap();
    let peer = event(&engine, &flow, |event| match event {
        Event::OutputConnected { output, peer } if output == "players" => peer,
        _ => None,
    });
    let source = flow.app_source("in").unwrap();
    let sent = std::thread::spawn(move || {
        for i in 0..50u8 {
            source.push(Packet::datagram(vec![i; 1316], std::time::Instant::now())).unwrap();
            std::thread::sleep(Duration::from_millis(2)); // a steady stream
        }
    });
    for i in 0..50u8 {
        let packet = engine.block_on(async { tokio::time::timeout(PATIENCE, tap.next()).await }).unwrap().unwrap();
        assert_eq!((packet.data().len(), packet.data()[0]), (1316, i));
    }
    sent.join().unwrap();
    eventually("the player in the statistics", || {
        output(&flow, "players").players.first().filter(|player| player.peer == peer && player.packets >= 50).map(drop)
    });
    assert!(engine.metrics().contains("endpoint=\"players\",protocol=\"SRT\",peer="), "{}", engine.metrics());

    // An edit of the allowlist disconnects the player, at the node.
    let edit = OutputEdit::new().allow("192.0.2.0/24".parse().unwrap());
    flow.edit_output("players", edit).unwrap();
    let lost = event(&engine, &flow, |event| matches!(event, Event::OutputLost { .. }).then_some(event));
    assert!(lost.to_string().contains("output `players`"), "{lost}");
    engine.block_on(engine.shutdown());
    assert!(node.flows().is_empty());
}

#[test]
fn rtmp_player_of_a_remote_region_has_the_key_in_its_url() {
    let (engine, node) = engines();
    let bind = format!("127.0.0.1:{}", free_port());
    let key = StreamKey::new("hunter2hunter2").unwrap();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::app_rtmp("in"))
        .output(Output::rtmp_pull("players", &bind, "live").key(key).region("eu"))
        .build()
        .unwrap();
    let flow = engine.block_on(engine.start(flow)).unwrap();
    let url = eventually("the playback URL", || flow.playback_urls().pop());
    assert_eq!(url.1, format!("rtmp://{bind}/live/hunter2hunter2"));
    let shown = format!("{:?} {}", flow.stats(), serde_json::to_string(&flow.stats()).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");

    let player = Flow::builder("player", Bitrate::mbps(20))
        .source(Source::from_url("in", &url.1))
        .output(Output::tap("tap"))
        .build()
        .unwrap();
    let player = engine.block_on(engine.start(player)).unwrap();
    let mut tap = player.tap("tap").unwrap();
    let source = flow.app_source("in").unwrap();
    let now = std::time::Instant::now;
    let header = vec![0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1, 0, 0];
    source.push(Packet::rtmp(RtmpKind::Video, 0, header.clone(), now())).unwrap();
    let feeding = std::thread::spawn(move || {
        for i in 0..200u32 {
            let key_frame = vec![0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];
            let _ = source.push(Packet::rtmp(RtmpKind::Video, 40 * i, key_frame, std::time::Instant::now()));
            std::thread::sleep(Duration::from_millis(20)); // a steady stream
        }
    });
    // The first video message is the header, although the player came later.
    let first = loop {
        let packet = engine.block_on(async { tokio::time::timeout(PATIENCE, tap.next()).await }).unwrap().unwrap();
        if packet.rtmp_message().is_some_and(|(kind, _)| kind == RtmpKind::Video) {
            break packet;
        }
    };
    assert_eq!(first.data().as_ref(), header);
    engine.block_on(engine.shutdown());
    assert!(node.flows().is_empty());
    feeding.join().unwrap();
}
