//! The library at the work that its peers do: RTP from one address to many.
//!
//!     bench-relay COALESCE_MS IN OUT…

use std::time::Duration;
use streamlink_core::{Bitrate, Engine, Flow, Output, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let coalesce = Duration::from_millis(arguments.next().ok_or("how long to coalesce?")?.parse()?);
    let input = arguments.next().ok_or("where to receive?")?;
    let mut flow = Flow::builder("bench", Bitrate::mbps(20)).source(Source::rtp("in", &input)).coalesce(coalesce);
    for (i, peer) in arguments.enumerate() {
        flow = flow.output(Output::rtp(format!("out-{i}"), &peer));
    }
    let engine = Engine::new()?;
    let running = engine.block_on(engine.start(flow.build()?))?;
    println!("ready");
    engine.block_on(async { while running.next_event().await.is_some() {} });
    Ok(())
}
