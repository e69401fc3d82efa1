//! The library doing the work of its peers: from one URL to many, or several such flows.
//!
//! `bench-relay [--observed] [--mbps N] COALESCE_MS|default IN OUT… [-- IN OUT…]…`
//!
//! The maximum bandwidth of each flow is 10 Gb/s, or N Mb/s: memory for reception goes by it.
//!
//! Observed: statistics of all flows and the OpenMetrics text are read every second, and all events as they come, as a
//! host with a console and a monitoring system does.

use std::time::Duration;
use streamlink_core::{Bitrate, Engine, Flow, Output, PeerLimits, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_observed = arguments.next_if(|argument| argument == "--observed").is_some();
    let mbps = match arguments.next_if(|argument| argument == "--mbps") {
        Some(_) => arguments.next().ok_or("how many Mb/s?")?.parse()?,
        None => 10_000,
    };
    let coalesce = arguments.next().ok_or("how long to coalesce?")?;
    let coalesce = if coalesce == "default" { None } else { Some(Duration::from_millis(coalesce.parse()?)) };
    let urls: Vec<String> = arguments.collect();
    // All its peers are at one address.
    let limits = PeerLimits::new().connections(100_000).pending(100_000).refusals_per_second(100_000);
    let engine = Engine::builder().peer_limits(limits).build()?;
    let mut flows = Vec::new();
    for (number, urls) in urls.split(|url| url == "--").enumerate() {
        let (input, outputs) = urls.split_first().ok_or("where to receive?")?;
        let source = Source::from_url("in", input);
        let mut flow = Flow::builder(format!("bench-{number}"), Bitrate::mbps(mbps)).source(source);
        if let Some(coalesce) = coalesce {
            flow = flow.coalesce(coalesce);
        }
        for (i, url) in outputs.iter().enumerate() {
            flow = flow.output(Output::from_url(format!("out-{i}"), url));
        }
        flows.push(engine.block_on(engine.start(flow.build()?))?);
    }
    println!("ready");
    if is_observed {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                    std::hint::black_box((engine.stats(), engine.metrics()));
                }
            });
            for flow in &flows[1..] {
                scope.spawn(|| engine.block_on(async { while flow.next_event().await.is_some() {} }));
            }
            engine.block_on(async { while flows[0].next_event().await.is_some() {} });
        });
    }
    engine.block_on(async { while flows[0].next_event().await.is_some() {} });
    Ok(())
}
