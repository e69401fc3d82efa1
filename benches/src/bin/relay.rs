//! The library at the work that its peers do: from one URL to many.
//!
//! `bench-relay COALESCE_MS IN OUT…`

use std::time::Duration;
use streamlink_core::{Bitrate, Engine, Flow, Output, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let coalesce = Duration::from_millis(arguments.next().ok_or("how long to coalesce?")?.parse()?);
    let input = arguments.next().ok_or("where to receive?")?;
    let source = Source::from_url("in", &input);
    let mut flow = Flow::builder("bench", Bitrate::mbps(1000)).source(source).coalesce(coalesce);
    for (i, url) in arguments.enumerate() {
        flow = flow.output(Output::from_url(format!("out-{i}"), &url));
    }
    let engine = Engine::new()?;
    let running = engine.block_on(engine.start(flow.build()?))?;
    println!("ready");
    engine.block_on(async { while running.next_event().await.is_some() {} });
    Ok(())
}
