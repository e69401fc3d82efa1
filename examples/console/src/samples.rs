//! Statistics of the last minutes, one value a second, for the charts of the page.

use crate::document::Direction;
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use streamlink_core::{EndpointStats, Engine, FlowStats};
use utoipa::ToSchema;

/// Number of values that are kept of each endpoint.
const KEPT: usize = 300;
/// Time between two values.
const PERIOD: Duration = Duration::from_secs(1);

/// Values of the last minutes, the oldest first, one a second.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Series {
    /// `source` or `output`.
    direction: &'static str,
    /// Name of the endpoint.
    name: String,
    /// Bits per second.
    bit_rate: Vec<u64>,
    /// Packets lost or dropped in the second.
    lost: Vec<u64>,
    /// Round-trip time in milliseconds; 0 if it is not measured.
    round_trip_ms: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    bit_rate: u64,
    lost: u64,
    round_trip_ms: f32,
}

#[derive(Debug, Default)]
struct Endpoint {
    samples: VecDeque<Sample>,
    /// Counter of lost and dropped packets at the last sample.
    counted: Option<u64>,
}

type Key = (Direction, String);

/// The values of all flows, and their latest statistics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    flows: Mutex<HashMap<String, HashMap<Key, Endpoint>>>,
    latest: Mutex<Arc<HashMap<String, FlowStats>>>,
}

impl Samples {
    fn flows(&self) -> MutexGuard<'_, HashMap<String, HashMap<Key, Endpoint>>> {
        self.0.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the statistics of all flows that ran at the last second, by their names: one reading for all who ask.
    pub(crate) fn latest(&self) -> Arc<HashMap<String, FlowStats>> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a value of every endpoint, once a second.
    pub(crate) async fn collect(self, engine: Engine) {
        let mut next = tokio::time::Instant::from_std(Instant::now());
        loop {
            let engine = engine.clone();
            let samples = self.clone();
            // Reading a thousand endpoints takes a while, in which requests are answered.
            let taken = tokio::task::spawn_blocking(move || {
                let stats = engine.stats();
                samples.take(&stats);
                let latest = stats.into_iter().map(|stats| (stats.name.clone(), stats)).collect();
                *samples.0.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(latest);
            });
            if let Err(error) = taken.await {
                log::error!("statistics cannot be taken: {error}");
            }
            next = (next + PERIOD).max(tokio::time::Instant::now());
            tokio::time::sleep_until(next).await;
        }
    }

    fn take(&self, stats: &[FlowStats]) {
        let mut flows = self.flows();
        let present: HashSet<&str> = stats.iter().map(|flow| flow.name.as_str()).collect();
        flows.retain(|name, _| present.contains(name.as_str()));
        for flow in stats {
            let endpoints = flows.entry(flow.name.clone()).or_default();
            let sources = flow.sources.iter().map(|stats| (Direction::Source, stats));
            let all = sources.chain(flow.outputs.iter().map(|stats| (Direction::Output, stats)));
            let present: HashSet<Key> = all.clone().map(|(kind, stats)| (kind, stats.name.clone())).collect();
            endpoints.retain(|key, _| present.contains(key));
            for (direction, stats) in all {
                endpoints.entry((direction, stats.name.clone())).or_default().push(stats);
            }
        }
    }

    /// Returns the values of a flow, its sources first.
    pub(crate) fn of(&self, flow: &str) -> Vec<Series> {
        let flows = self.flows();
        let mut series: Vec<Series> = flows.get(flow).into_iter().flatten().map(series).collect();
        series.sort_by(|a, b| (b.direction, &a.name).cmp(&(a.direction, &b.name)));
        series
    }
}

fn series(((direction, name), endpoint): (&Key, &Endpoint)) -> Series {
    let samples = || endpoint.samples.iter();
    Series {
        direction: direction.noun(),
        name: name.clone(),
        bit_rate: samples().map(|sample| sample.bit_rate).collect(),
        lost: samples().map(|sample| sample.lost).collect(),
        round_trip_ms: samples().map(|sample| sample.round_trip_ms).collect(),
    }
}

impl Endpoint {
    fn push(&mut self, stats: &EndpointStats) {
        let counted = stats.lost.saturating_add(stats.dropped);
        let lost = counted.saturating_sub(self.counted.unwrap_or(counted));
        self.counted = Some(counted);
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        let round_trip_ms = stats.round_trip.as_secs_f32() * 1e3;
        self.samples.push_back(Sample { bit_rate: stats.bit_rate.as_bps(), lost, round_trip_ms });
    }
}
