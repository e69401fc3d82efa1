//! Destinations of the outputs, and what they see.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, Engine, Flow, FlowHandle, Output, Source, StreamKey, TapCallback};

/// Server that an output pushes to, with a measure of what arrives.
pub(crate) struct Destination {
    /// Name of its flow, which is that of the output as well.
    pub(crate) name: String,
    flow: FlowHandle,
    seen: Arc<Mutex<Seen>>,
    _tap: TapCallback,
}

struct Seen {
    last: Option<Instant>,
    longest: Duration,
    bytes: u64,
}

/// Observations of a destination since the last look.
pub(crate) struct Look {
    pub(crate) kbps: u64,
    pub(crate) silence: Option<Duration>,
    pub(crate) longest: Duration,
}

impl Destination {
    /// Starts a server for SRT.
    pub(crate) async fn srt(engine: &Engine, name: &str) -> Result<Self, Box<dyn Error>> {
        Self::start(engine, name, Source::srt_listener("in", "127.0.0.1:0").into()).await
    }

    /// Starts a server for RTMP.
    pub(crate) async fn rtmp(engine: &Engine, name: &str) -> Result<Self, Box<dyn Error>> {
        Self::start(engine, name, Source::rtmp("in", "127.0.0.1:0", "live").key(StreamKey::new("demo")?).into()).await
    }

    async fn start(engine: &Engine, name: &str, source: Source) -> Result<Self, Box<dyn Error>> {
        let flow = Flow::builder(name, Bitrate::mbps(50)).source(source).output(Output::tap("measure")).build()?;
        let flow = engine.start(flow).await?;
        let seen = Arc::new(Mutex::new(Seen { last: None, longest: Duration::ZERO, bytes: 0 }));
        let sees = seen.clone();
        let tap = flow.tap("measure")?.for_each(move |packet| {
            let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if let Some(last) = seen.last {
                seen.longest = seen.longest.max(now - last);
            }
            seen.last = Some(now);
            seen.bytes += u64::try_from(packet.data().len()).unwrap_or_default();
        });
        Ok(Self { name: name.to_owned(), flow, seen, _tap: tap })
    }

    /// Returns the output that pushes to it from a region.
    pub(crate) fn output(&self, region: &str) -> Result<Output, Box<dyn Error>> {
        let input = self.flow.input_addresses().first().cloned().ok_or("the destination does not listen")?;
        let output = match input.strip_prefix("rtmp://") {
            Some(rest) => {
                let host = rest.split('/').next().unwrap_or_default();
                Output::rtmp_push(&self.name, &format!("rtmp://{host}/live"), StreamKey::new("demo")?).into()
            }
            None => {
                let rest = input.trim_start_matches("srt://");
                let host = rest.split(['?', '/']).next().unwrap_or_default();
                Output::from(Output::srt_caller(&self.name, host))
            }
        };
        Ok(output.region(region))
    }

    /// Returns what has arrived during the last second.
    pub(crate) fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut seen.bytes);
        Look { kbps: bytes * 8 / 1000, silence: seen.last.map(|last| last.elapsed()), longest: seen.longest }
    }
}
