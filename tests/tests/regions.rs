//! Outputs of regions on other machines, behind a link that the tests play.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, Applied, Bitrate, EndpointStats, Engine, Event, Flow, FlowHandle, LossReason, MemberStats, Output,
    OutputEdit, Packet, RefusalReason, RegionEgress, RegionFlow, RegionLink, RegionTask, RegionUpdate, Source, State,
};
use streamlink_tests::{PATIENCE, eventually, rig::free_port};
use tokio::sync::oneshot;

/// Run of a link, which the test plays.
struct Run {
    flow: RegionFlow,
    end: Option<oneshot::Sender<Result<(), LossReason>>>,
}

impl Run {
    /// Ends the task of the link.
    fn end(&mut self, result: Result<(), LossReason>) {
        let _ = self.end.take().expect("it runs").send(result); // the flow may have stopped
    }
}

/// Link that hands its runs to the test.
struct Scripted(mpsc::Sender<Run>);

impl RegionLink for Scripted {
    fn run(&self, flow: RegionFlow) -> RegionTask {
        let (end, ended) = oneshot::channel();
        let _ = self.0.send(Run { flow, end: Some(end) }); // the test may be over
        Box::pin(async move { ended.await.unwrap_or(Ok(())) })
    }
}

/// Engine with the region `eu`, and the runs of its link.
fn engine() -> (Engine, mpsc::Receiver<Run>) {
    let (runs, played) = mpsc::channel();
    let builder = Engine::builder().workers(2).region("here", RegionEgress::Address([127, 0, 0, 1].into()));
    (builder.remote_region("eu", Arc::new(Scripted(runs))).build().unwrap(), played)
}

fn next_run(runs: &mpsc::Receiver<Run>) -> Run {
    runs.recv_timeout(PATIENCE).expect("the link is run")
}

fn partner(name: &str) -> Output {
    Output::srt_caller(name, "192.0.2.1:9000").region("eu").into()
}

fn start(engine: &Engine, outputs: Vec<Output>) -> FlowHandle {
    let flow = Flow::builder("f", Bitrate::mbps(20)).source(Source::app_datagrams("in"));
    let flow = outputs.into_iter().fold(flow, |flow, output| flow.output(output));
    engine.block_on(engine.start(flow.build().unwrap())).unwrap()
}

fn push(source: &AppSource, count: usize) {
    for _ in 0..count {
        source.push(Packet::datagram(vec![0x47; 1316], Instant::now())).unwrap();
    }
}

fn update(engine: &Engine, run: &mut Run) -> Option<RegionUpdate> {
    engine.block_on(async { tokio::time::timeout(PATIENCE, run.flow.updates.next()).await.expect("an update") })
}

/// Names of the outputs of the next update that has so many.
fn names(engine: &Engine, run: &mut Run, count: usize) -> Vec<String> {
    loop {
        let update = update(engine, run).expect("outputs");
        if update.outputs.len() == count {
            return update.outputs.iter().map(|output| output.name().to_owned()).collect();
        }
    }
}

fn output(flow: &FlowHandle, name: &str) -> EndpointStats {
    flow.stats().outputs.into_iter().find(|output| output.name == name).expect("the output")
}

fn reported(state: State, packets: u64) -> EndpointStats {
    let mut stats = EndpointStats::default();
    stats.state = state;
    stats.packets = packets;
    stats.bytes = packets.saturating_mul(1316);
    stats.connected_for = Some(Duration::from_secs(9)).filter(|_| state == State::Connected);
    stats
}

fn wait_for_event<T>(flow: &FlowHandle, engine: &Engine, wanted: impl Fn(Event) -> Option<T>) -> T {
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
fn region_tap_is_attached_with_first_output_and_dropped_with_last() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a"), partner("b"), Output::tap("tap").into()]);
    let source = flow.app_source("in").unwrap();
    let mut run = next_run(&runs);
    assert_eq!((run.flow.name.as_str(), run.flow.region.as_str()), ("f", "eu"));
    assert_eq!(run.flow.family, streamlink_core::MediaFamily::Datagrams);
    assert_eq!(names(&engine, &mut run, 2), ["a", "b"]);
    push(&source, 3);
    for _ in 0..3 {
        assert_eq!(engine.block_on(run.flow.tap.next()).unwrap().data().len(), 1316);
    }
    engine.block_on(flow.add_output(partner("c"))).unwrap();
    assert_eq!(names(&engine, &mut run, 3), ["a", "b", "c"]);
    engine.block_on(flow.remove_output("a")).unwrap();
    assert_eq!(names(&engine, &mut run, 2), ["b", "c"]);
    let notice = |event: Event| matches!(event, Event::RegionNotice { .. }).then(|| event.to_string());
    let notice = wait_for_event(&flow, &engine, notice);
    assert!(notice.contains("the end of the removed output `a` was not reported"), "{notice}");
    engine.block_on(flow.remove_output("b")).unwrap();
    let region = &flow.stats().regions[0];
    assert_eq!((region.name.as_str(), region.outputs, region.packets), ("eu", 1, 3));

    // The last one waits for the link to end, which it does when it hears of it.
    let last = flow.clone();
    let removal = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(last.remove_output("c")).unwrap();
    });
    while update(&engine, &mut run).is_some() {}
    run.end(Ok(()));
    removal.join().unwrap();
    assert!(engine.block_on(run.flow.tap.next()).is_none(), "the tap is closed");
    assert!(flow.stats().regions.is_empty());
    assert!(!run.flow.reporter.output(1, "node", EndpointStats::default()), "no report counts any more");
    assert!(runs.try_recv().is_err(), "the link was run once");

    engine.block_on(flow.add_output(partner("d"))).unwrap();
    let mut again = next_run(&runs);
    assert_eq!(names(&engine, &mut again, 1), ["d"]);
    engine.block_on(engine.shutdown());
    assert!(update(&engine, &mut again).is_none());
}

#[test]
fn remote_output_waits_for_its_region_until_it_is_reported() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a")]);
    let waits = output(&flow, "a");
    assert_eq!((waits.state, waits.region.as_deref()), (State::Waiting, Some("eu")));
    let error = waits.last_error.unwrap();
    assert_eq!(
        (error.kind, error.text.as_str()),
        ("waiting_for_region", "waiting for region `eu`: no report from there yet")
    );
    let mut run = next_run(&runs);
    let id = update(&engine, &mut run).unwrap().outputs[0].id();
    let reporter = run.flow.reporter.clone();

    reporter.waiting(Some(LossReason::Unreachable("relay-a".into())));
    let error = output(&flow, "a").last_error.unwrap();
    assert_eq!(error.text, "waiting for region `eu`: cannot connect to relay-a");
    let told = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionWaiting { region, outputs, reason } => Some((region, outputs, reason)),
        _ => None,
    });
    assert_eq!(told, ("eu".to_owned(), 1, LossReason::Unreachable("relay-a".into())));
    reporter.waiting(Some(LossReason::WaitingForRegion("no node answers".into())));
    let error = output(&flow, "a").last_error.unwrap();
    assert_eq!(error.text, "waiting for region `eu`: no node answers");
    let told = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionWaiting { reason: LossReason::WaitingForRegion(_), .. } => Some(event.to_string()),
        _ => None,
    });
    assert_eq!(told, "1 output waits for region `eu`: no node answers");
    assert_eq!(flow.stats().regions[0].waiting.as_deref(), Some("no node answers"));

    let mut stats = reported(State::Connected, 7);
    stats.round_trip = Duration::from_millis(40);
    assert!(reporter.output(id, "node-1", stats.clone()));
    let mut leg = MemberStats::new("relay-a:443");
    leg.connected_for = Some(Duration::from_secs(1));
    leg.packets = 7;
    leg.recent_loss = 231;
    reporter.legs(vec![leg]);
    reporter.leg_lost("relay-b:443", LossReason::TimedOut);
    let shown = output(&flow, "a");
    assert_eq!((shown.name.as_str(), shown.protocol, shown.state), ("a", "SRT", State::Connected));
    assert_eq!((shown.packets, shown.bytes, shown.round_trip), (7, 7 * 1316, Duration::from_millis(40)));
    assert_eq!((shown.node.as_deref(), shown.last_error), (Some("node-1"), None));
    assert!(shown.connected_for.unwrap() >= Duration::from_secs(9));
    let leg = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionLegLost { leg, .. } => Some(leg),
        _ => None,
    });
    assert_eq!(leg, "relay-b:443");
    reporter.leg_lossy("relay-a:443", 231, Duration::from_millis(152));
    let lossy = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionLegLossy { .. } => Some(event),
        _ => None,
    });
    assert_eq!(
        lossy.to_string(),
        "leg relay-a:443 to region `eu` loses 2.31 % of its packets at a round trip of 152 ms, more than QUIC makes up \
         for: its media is better carried over SRT"
    );
    assert_eq!(
        serde_json::to_value(lossy).unwrap(),
        serde_json::json!({ "event": "region_leg_lossy", "region": "eu", "leg": "relay-a:443", "basis_points": 231,
            "round_trip_ms": 152.0 })
    );

    let json: serde_json::Value = serde_json::to_value(flow.stats()).unwrap();
    assert_eq!(json["outputs"][0]["state"], "connected");
    assert_eq!(json["outputs"][0]["node"], "node-1");
    assert_eq!(json["regions"][0]["legs"][0]["address"], "relay-a:443");
    assert_eq!(json["regions"][0]["legs"][0]["recent_loss"], 231);
    let metrics = engine.metrics();
    for line in [
        "streamlink_packets_total{flow=\"f\",role=\"output\",endpoint=\"a\",protocol=\"SRT\"} 7",
        "streamlink_region_connected{flow=\"f\",region=\"eu\"} 1.0",
        "streamlink_region_leg_packets_total{flow=\"f\",region=\"eu\",leg=\"relay-a:443\"} 7",
        "streamlink_region_leg_loss_ratio{flow=\"f\",region=\"eu\",leg=\"relay-a:443\"} 0.0231",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // Nothing is heard any more.
    reporter.waiting(None);
    let lost = wait_for_event(&flow, &engine, |event| match event {
        Event::OutputLost { output, reason, .. } => Some((output, reason)),
        _ => None,
    });
    assert_eq!((lost.0.as_str(), lost.1.kind()), ("a", "waiting_for_region"));
    let silent = output(&flow, "a");
    assert_eq!((silent.state, silent.packets), (State::Waiting, 7));
    assert!(silent.last_error.unwrap().text.contains("no report from there for "));
    assert!(reporter.output(id, "node-1", stats));
    wait_for_event(&flow, &engine, |event| matches!(event, Event::OutputConnected { .. }).then_some(()));
    assert_eq!(output(&flow, "a").state, State::Connected);
    run.end(Ok(()));
}

#[test]
fn remote_output_counters_go_on_when_another_node_takes_over() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a")]);
    let mut run = next_run(&runs);
    let id = update(&engine, &mut run).unwrap().outputs[0].id();
    let reporter = &run.flow.reporter;
    let packets = || (output(&flow, "a").packets, output(&flow, "a").reconnections);
    reporter.output(id, "node-1", reported(State::Connected, 100));
    reporter.output(id, "node-1", reported(State::Connected, 120));
    assert_eq!(packets(), (120, 0));
    reporter.output(id, "node-2", reported(State::Connected, 5));
    assert_eq!(packets(), (125, 1), "another node");
    reporter.output(id, "node-2", reported(State::Connected, 2));
    assert_eq!(packets(), (127, 2), "the node has started the output again");
    reporter.output(id, "node-2", reported(State::Waiting, u64::MAX));
    assert_eq!(packets().0, u64::MAX, "sums do not wrap");
    assert_eq!(output(&flow, "a").state, State::Waiting);

    // A disabled output keeps its counters, and the link hears that it is gone.
    engine.block_on(flow.add_output(partner("b"))).unwrap();
    assert_eq!(names(&engine, &mut run, 2), ["a", "b"]);
    run.flow.reporter.output(id, "node-3", reported(State::Connected, 1));
    let disabled = flow.clone();
    let change = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(disabled.set_output_enabled("a", false)).unwrap(), Applied::Reconnect);
    });
    assert_eq!(names(&engine, &mut run, 1), ["b"]);
    run.flow.reporter.removed(id);
    change.join().unwrap();
    let shown = output(&flow, "a");
    assert_eq!((shown.state, shown.enabled, shown.packets), (State::Idle, false, u64::MAX));
    engine.block_on(flow.set_output_enabled("a", true)).unwrap();
    let again = loop {
        let update = update(&engine, &mut run).unwrap();
        if let Some(output) = update.outputs.iter().find(|output| output.name() == "a") {
            break output.id();
        }
    };
    assert_ne!(again, id);
}

#[test]
fn remote_output_events_are_those_of_the_flow() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a")]);
    let mut run = next_run(&runs);
    let id = update(&engine, &mut run).unwrap().outputs[0].id();
    let reporter = &run.flow.reporter;
    let peer = "198.51.100.7:9000".parse().unwrap();
    assert!(reporter.event(id, Event::OutputConnected { output: "there".into(), peer: Some(peer) }));
    let reason = LossReason::Internal("odd\u{1b}[2J".into());
    assert!(reporter.event(id, Event::OutputLost { output: "there".into(), peer: Some(peer), reason }));
    assert!(!reporter.event(id, Event::FlowStopped), "only events of outputs pass");
    assert!(!reporter.event(id + 1000, Event::OutputConnected { output: "x".into(), peer: None }), "no such output");
    let event = wait_for_event(&flow, &engine, |event| matches!(event, Event::OutputConnected { .. }).then_some(event));
    assert_eq!(event, Event::OutputConnected { output: "a".into(), peer: Some(peer) });
    let event = wait_for_event(&flow, &engine, |event| matches!(event, Event::OutputLost { .. }).then_some(event));
    assert!(event.to_string().contains("output `a`") && !event.to_string().contains('\u{1b}'), "{event}");

    // A flood is cut off, and told.
    for _ in 0..500 {
        let refused = Event::PeerRefused {
            endpoint: String::new(),
            peer,
            reason: RefusalReason::NotAllowed,
            detail: "".into(),
            count: 1,
        };
        reporter.event(id, refused);
    }
    let notice = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionNotice { text, .. } => Some(text),
        _ => None,
    });
    assert!(notice.contains("events of its outputs were left out"), "{notice}");
}

#[test]
fn remote_output_edits_reach_the_link() {
    let (engine, runs) = engine();
    let bind = format!("127.0.0.1:{}", free_port());
    // Its port is not that of this machine, where another output has it.
    let listener = |name: &str| Output::srt_listener(name, &bind).max_players(4);
    let outputs = vec![listener("players").region("eu").into(), listener("local").into()];
    let flow = start(&engine, outputs);
    let mut run = next_run(&runs);
    let first = update(&engine, &mut run).unwrap();
    let id = first.outputs[0].id();
    assert_eq!(first.max_bandwidth, Bitrate::mbps(20));

    let edit = OutputEdit::new().rename("guests").allow("10.0.0.0/8".parse().unwrap()).max_players(2);
    assert_eq!(flow.edit_output("players", edit).unwrap(), Applied::InPlace);
    flow.set_max_bandwidth(Bitrate::mbps(30)).unwrap();
    let edited = loop {
        let update = update(&engine, &mut run).unwrap();
        if update.max_bandwidth == Bitrate::mbps(30) {
            break update;
        }
    };
    assert_eq!((edited.outputs[0].id(), edited.outputs[0].name()), (id, "guests"), "the same output");
    let json = edited.outputs[0].output().to_json();
    let read = Output::from_json(&json).unwrap();
    assert_eq!(read.to_json(), json);
    assert!(json.contains("10.0.0.0/8") && json.contains("\"max_players\": 2") && !json.contains("region"), "{json}");

    // The URL of the node, with what belongs to the output.
    let mut stats = reported(State::Connected, 1);
    stats.url = Some("srt://203.0.113.9:7000".to_owned().into());
    run.flow.reporter.output(id, "node", stats);
    let urls = flow.playback_urls();
    assert!(urls.contains(&("guests".to_owned(), "srt://203.0.113.9:7000".to_owned())), "{urls:?}");
    let configuration = flow.configuration();
    assert_eq!(configuration.outputs[0].region.as_deref(), Some("eu"));
}

#[test]
fn remote_player_is_disconnected_by_its_node() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![Output::from(Output::srt_listener("guests", "127.0.0.1:0")).region("eu")]);
    let mut run = next_run(&runs);
    let id = update(&engine, &mut run).unwrap().outputs[0].id();
    let peer: std::net::SocketAddr = "192.0.2.1:5000".parse().unwrap();
    let error = engine.block_on(flow.kick_player("guests", peer)).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:5000"), "{error}");

    let reporter = run.flow.reporter.clone();
    let mut stats = reported(State::Connected, 1);
    stats.players = serde_json::from_value(serde_json::json!([{ "peer": peer, "connected_ms": 1000, "bytes": 1,
        "packets": 1, "retransmitted": 0, "lost": 0, "dropped": 0, "round_trip_ms": 0 }]))
    .unwrap();
    reporter.output(id, "node", stats.clone());
    let kicking = std::thread::spawn({
        let (engine, flow) = (engine.clone(), flow.clone());
        move || engine.block_on(flow.kick_player("guests", peer))
    });
    let kick = loop {
        if let Some(kick) = update(&engine, &mut run).unwrap().kicks.first() {
            break *kick;
        }
    };
    assert_eq!((kick.output, kick.peer), (id, peer));
    // The player is there until its node says that it has gone.
    reporter.output(id, "node", stats.clone());
    assert!(!kicking.is_finished());
    stats.players.clear();
    reporter.output(id, "node", stats);
    kicking.join().unwrap().unwrap();
}

#[test]
fn remote_output_begins_when_the_one_that_it_replaces_has_ended() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a"), partner("b")]);
    let mut run = next_run(&runs);
    let old = update(&engine, &mut run).unwrap().outputs[0].id();
    run.flow.reporter.output(old, "node", reported(State::Connected, 1));
    let replaced = flow.clone();
    let change = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replaced.replace_output("a", Output::srt_caller("a", "192.0.2.9:9").region("eu"))).unwrap();
    });
    assert_eq!(names(&engine, &mut run, 1), ["b"], "the old one ends first");
    let error = output(&flow, "a").last_error.unwrap();
    assert!(error.text.contains("the output before it is still ending"), "{}", error.text);
    run.flow.reporter.removed(old);
    change.join().unwrap();
    assert_eq!(names(&engine, &mut run, 2), ["b", "a"]);
    assert!(runs.try_recv().is_err(), "the link has run on");
}

#[test]
fn remote_output_secrets_are_shown_on_request_only() {
    let (engine, runs) = engine();
    let secret = Output::from_url("a", "srt://192.0.2.1:9000?passphrase=hunter2hunter2&streamid=hunter2").region("eu");
    let _flow = start(&engine, vec![secret]);
    let mut run = next_run(&runs);
    let update = update(&engine, &mut run).unwrap();
    let shown = format!("{update:?} {} {:?}", serde_json::to_string(&update).unwrap(), run.flow.reporter);
    assert!(!shown.contains("hunter2") && shown.contains("192.0.2.1"), "{shown}");
    assert!(update.outputs[0].output().to_json().contains("hunter2hunter2"));
}

#[test]
fn remote_region_outputs_are_checked_before_anything_starts() {
    let (engine, runs) = engine();
    let engine_error = |outputs: Vec<Output>| {
        let flow = Flow::builder("f", Bitrate::mbps(20)).source(Source::srt_listener("in", "127.0.0.1:0"));
        let flow = outputs.into_iter().fold(flow, |flow, output| flow.output(output));
        match flow.build() {
            Err(errors) => errors.to_string(),
            Ok(flow) => engine.block_on(engine.start(flow)).unwrap_err().to_string(),
        }
    };
    let rtp: Output = Output::rtp("o", "192.0.2.1:5004").region("eu").into();
    assert!(engine_error(vec![rtp]).contains("SRT sources cannot feed RTP outputs"));
    let tap: Output = Output::tap("o").region("eu").into();
    assert!(engine_error(vec![tap]).contains("a tap hands packets to this process"));
    let moon: Output = Output::srt_caller("o", "192.0.2.1:9000").region("moon").into();
    assert!(engine_error(vec![moon]).contains("there is no region `moon`; known: eu, here"));
    // Two regions of this machine are one machine, and a region has each address once.
    let bind = format!("127.0.0.1:{}", free_port());
    let at = |name: &str, region: &str| Output::srt_listener(name, &bind).region(region).into();
    let local = engine_error(vec![at("a", "here"), Output::srt_listener("b", &bind).into()]);
    assert!(local.contains("outputs[1].bind: outputs[0] already listens on"), "{local}");
    let remote = engine_error(vec![at("a", "eu"), at("b", "eu")]);
    assert!(remote.contains("outputs[1].bind: outputs[0] already listens on"), "{remote}");
    assert!(engine.flows().is_empty() && runs.try_recv().is_err());
    assert_eq!(engine.regions(), [("eu".to_owned(), true), ("here".to_owned(), false)]);
    let again = engine.add_remote_region("here", Arc::new(Scripted(mpsc::channel().0))).unwrap_err();
    assert!(again.to_string().contains("`here`"), "{again}");
}

/// Link that panics when it is called at first, then in its task, and then runs.
struct Panicking(AtomicUsize);

impl RegionLink for Panicking {
    fn run(&self, mut flow: RegionFlow) -> RegionTask {
        let call = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(call > 0, "in the call");
        Box::pin(async move {
            assert!(call > 1, "in the task");
            while flow.updates.next().await.is_some() {
                flow.reporter.notice("it runs");
            }
            Ok(())
        })
    }
}

#[test]
fn region_link_that_panics_is_run_again_and_hurts_no_one() {
    let (runs, _played) = mpsc::channel();
    let builder = Engine::builder().workers(2).remote_region("eu", Arc::new(Panicking(AtomicUsize::new(0))));
    let engine = builder.remote_region("us", Arc::new(Scripted(runs))).build().unwrap();
    let flow = start(&engine, vec![partner("a"), Output::tap("tap").into()]);
    let mut tap = flow.tap("tap").unwrap();
    let reason = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionRetrying { region, reason, .. } => Some((region, reason)),
        _ => None,
    });
    assert_eq!(reason, ("eu".to_owned(), LossReason::Internal("the link of the region has panicked".into())));
    let shown = output(&flow, "a");
    assert_eq!(shown.state, State::Waiting);
    assert!(shown.last_error.unwrap().text.contains("has panicked"));
    push(&flow.app_source("in").unwrap(), 1);
    assert!(engine.block_on(tap.next()).is_some(), "the flow goes on");
    wait_for_event(&flow, &engine, |event| matches!(event, Event::RegionNotice { .. }).then_some(()));
    assert_eq!(flow.stats().regions[0].restarts, 2);
    engine.block_on(engine.shutdown());
}

/// Link that blocks in its call, and never ends by itself.
struct Stuck {
    blocks: bool,
    release: Arc<std::sync::Barrier>,
}

impl RegionLink for Stuck {
    fn run(&self, flow: RegionFlow) -> RegionTask {
        if self.blocks {
            self.release.wait();
        }
        Box::pin(async move {
            let _flow = flow;
            std::future::pending().await
        })
    }
}

#[test]
fn region_link_that_hangs_delays_nothing_for_long() {
    for blocks in [false, true] {
        let release = Arc::new(std::sync::Barrier::new(2));
        let link = Arc::new(Stuck { blocks, release: release.clone() });
        let engine = Engine::builder().workers(2).remote_region("eu", link).build().unwrap();
        let count = if blocks { 1 } else { 40 };
        for i in 0..count {
            let flow = Flow::builder(format!("f{i}"), Bitrate::mbps(20)).source(Source::app_datagrams("in"));
            let flow = flow.output(partner("a")).output(partner("b")).build().unwrap();
            // The handles of the flows are dropped; the flows go on until the shutdown.
            std::mem::forget(engine.block_on(engine.start(flow)).unwrap());
        }
        let flow = engine.flow("f0").unwrap();
        if !blocks {
            eventually("the link runs", || flow.stats().regions.first().filter(|region| region.outputs == 2).map(drop));
        }
        let begun = Instant::now();
        engine.block_on(flow.remove_output("a")).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "a removal is bounded");
        let begun = Instant::now();
        engine.block_on(engine.shutdown());
        // One after another, the flows would take two minutes.
        assert!(begun.elapsed() < Duration::from_secs(40), "a shutdown is bounded");
        if blocks {
            release.wait();
        }
    }
}

#[test]
fn region_link_that_ends_is_run_again_with_what_has_changed() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a")]);
    let mut first = next_run(&runs);
    let id = update(&engine, &mut first).unwrap().outputs[0].id();
    first.flow.reporter.output(id, "node", reported(State::Connected, 5));
    first.end(Err(LossReason::Unreachable("relay-a".into())));
    let lost = wait_for_event(&flow, &engine, |event| matches!(event, Event::OutputLost { .. }).then_some(event));
    assert!(lost.to_string().contains("waiting for region `eu`: cannot connect to relay-a"), "{lost}");
    assert_eq!(output(&flow, "a").state, State::Waiting);
    assert!(!first.flow.reporter.output(id, "node", reported(State::Connected, 6)), "that run is over");
    assert!(update(&engine, &mut first).is_none());
    engine.block_on(flow.add_output(partner("b"))).unwrap();
    let mut second = next_run(&runs);
    assert_eq!(names(&engine, &mut second, 2), ["a", "b"]);
    second.flow.reporter.output(id, "node", reported(State::Connected, 6));
    assert_eq!((output(&flow, "a").state, output(&flow, "a").packets), (State::Connected, 6));
}

#[test]
fn region_link_that_does_not_keep_up_is_told() {
    let (engine, runs) = engine();
    let flow = start(&engine, vec![partner("a")]);
    let mut run = next_run(&runs);
    let source = flow.app_source("in").unwrap();
    // The flow holds media for a second.
    eventually("a full ring", || {
        push(&source, 1);
        std::thread::sleep(Duration::from_millis(400)); // media is spread over time
        engine.block_on(run.flow.tap.next());
        push(&source, 1);
        std::thread::sleep(Duration::from_millis(1500)); // longer than the flow holds media
        push(&source, 1);
        while run.flow.tap.try_next().is_some() {}
        (flow.stats().regions[0].dropped > 0).then_some(())
    });
    let dropped = wait_for_event(&flow, &engine, |event| match event {
        Event::RegionLagging { region, dropped } => Some((region, dropped)),
        _ => None,
    });
    assert_eq!(dropped.0, "eu");
    assert!(dropped.1 > 0 && dropped.1 <= flow.stats().regions[0].dropped);
    run.end(Ok(()));
}

#[test]
fn region_link_is_told_the_sdp_of_a_source() {
    let (engine, runs) = engine();
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(Source::app_rtsp("in"))
        .output(Output::rtsp_listener("players", "127.0.0.1:8554", "cam").region("eu"));
    let flow = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let mut run = next_run(&runs);
    assert_eq!(update(&engine, &mut run).unwrap().sdp, None);
    let sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\n";
    flow.app_source("in").unwrap().set_sdp(sdp).unwrap();
    let told = loop {
        if let Some(sdp) = update(&engine, &mut run).unwrap().sdp {
            break sdp;
        }
    };
    assert!(told.contains("m=audio 0 RTP/AVP 0"), "{told}");
}
