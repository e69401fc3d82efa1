//! Tests of what a host keeps and shows: clones of handles, the events of all flows, statistics as JSON.

use super::*;
use crate::{
    event::Event,
    flow::{Bitrate, Output, Source},
};
use std::time::Duration;

/// Timeout of each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn flow(name: &str) -> Flow {
    Flow::builder(name, Bitrate::mbps(1)).source(Source::app_rtp("in")).output(Output::tap("out")).build().unwrap()
}

#[test]
fn flow_handle_clones_keep_the_flow_running() {
    let engine = Engine::builder().workers(1).build().unwrap();
    let clone = engine.clone();
    drop(engine);
    let first = clone.block_on(clone.start(flow("b"))).unwrap();
    let second = clone.block_on(clone.start(flow("a"))).unwrap();
    let names: Vec<String> = clone.flows().iter().map(|flow| flow.name().to_owned()).collect();
    assert_eq!(names, ["a", "b"]);
    let again = clone.flow("b").unwrap();
    drop(first);
    assert_eq!(again.stats().name, "b");
    assert_eq!(clone.flows().len(), 2, "one clone is left");
    drop(again);
    assert!(clone.flow("b").is_none(), "the last clone is gone");
    clone.block_on(second.stop());
    assert!(clone.flows().is_empty());
}

#[test]
fn engine_events_name_their_flows_and_end_with_the_engine() {
    let engine = Engine::builder().workers(1).build().unwrap();
    let mut events = engine.events();
    engine.block_on(async {
        let all = async {
            let one = engine.start(flow("one")).await.unwrap();
            let two = engine.start(flow("two")).await.unwrap();
            one.stop().await;
            engine.shutdown().await;
            let mut seen = Vec::new();
            while let Some(event) = events.next().await {
                seen.push((event.flow, event.event));
            }
            drop(two);
            seen
        };
        let seen = tokio::time::timeout(PATIENCE, all).await.unwrap();
        let of = |name: &str| seen.iter().filter(|(flow, _)| flow == name).map(|(_, e)| e.clone()).collect::<Vec<_>>();
        for name in ["one", "two"] {
            assert_eq!(of(name).first(), Some(&Event::FlowStarted));
            assert_eq!(of(name).last(), Some(&Event::FlowStopped));
        }
    });
}

#[cfg(feature = "serde")]
#[test]
fn flow_stats_json_has_stable_names_and_hides_keys() {
    let engine = Engine::builder().workers(1).build().unwrap();
    let source = Source::rtmp("in", "127.0.0.1:0", "live").key(crate::flow::StreamKey::new("hunter2").unwrap());
    let flow = Flow::builder("f", Bitrate::mbps(1)).source(source).output(Output::tap("out")).build().unwrap();
    let running = engine.block_on(engine.start(flow)).unwrap();
    let stats = serde_json::to_value(running.stats()).unwrap();
    assert_eq!(stats["max_bandwidth"], 1_000_000);
    let source = &stats["sources"][0];
    assert_eq!(source["state"], "waiting");
    assert_eq!(source["protocol"], "RTMP");
    assert_eq!(source["connected_ms"], serde_json::Value::Null);
    assert_eq!(source["jitter_ms"], 0.0);
    assert_eq!(source["transport"]["pcr_discontinuity"], 0);
    assert!(source["url"].as_str().unwrap().ends_with("/live/…"), "{source}");
    assert_eq!(source["url_ipv4"], serde_json::Value::Null);
    assert!(!stats.to_string().contains("hunter2"));
    assert_eq!(stats["outputs"][0]["state"], "connected");
}
