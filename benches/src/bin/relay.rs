//! The library doing the work of its peers: from one URL to many, or several such flows.
//!
//! `bench-relay COALESCE_MS IN OUT… [-- IN OUT…]…`

use std::time::Duration;
use streamlink_core::{Bitrate, Engine, Flow, Output, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let coalesce = Duration::from_millis(arguments.next().ok_or("how long to coalesce?")?.parse()?);
    let urls: Vec<String> = arguments.collect();
    let engine = Engine::new()?;
    let mut flows = Vec::new();
    for (number, urls) in urls.split(|url| url == "--").enumerate() {
        let (input, outputs) = urls.split_first().ok_or("where to receive?")?;
        let source = Source::from_url("in", input);
        let mut flow =
            Flow::builder(format!("bench-{number}"), Bitrate::mbps(10_000)).source(source).coalesce(coalesce);
        for (i, url) in outputs.iter().enumerate() {
            flow = flow.output(Output::from_url(format!("out-{i}"), url));
        }
        flows.push(engine.block_on(engine.start(flow.build()?))?);
    }
    println!("ready");
    engine.block_on(async { while flows[0].next_event().await.is_some() {} });
    Ok(())
}
