//! The task of a paced output: it reads the flow, and sends each packet at the time that its pacer gives it.

use super::output::Leg;
use crate::{
    endpoint::{EventSink, FlowMedia, Status, driver::OutputDrive, lagging::LagReport},
    media::Packet,
    net::TimerFd,
    proto::rtp::{Pacer, Placed, unwrap},
    router::{Reader, State},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Packets that are due within this time leave together: less than a packet's time below 50 Mb/s.
const SLACK: Duration = Duration::from_micros(200);

/// A paced output, which runs until its flow ends or it is removed.
pub(super) struct Paced {
    legs: Vec<Leg>,
    pacer: Pacer,
    timer: TimerFd,
    reader: Reader,
    status: Arc<Status>,
    events: EventSink,
    lag: LagReport,
    /// Number of restarts of the pacer that were logged.
    told: u64,
}

impl Paced {
    pub(super) fn new(legs: Vec<Leg>, timer: TimerFd, status: Arc<Status>, flow: &FlowMedia) -> Self {
        Self {
            legs,
            pacer: Pacer::default(),
            timer,
            reader: flow.ring.reader(),
            status,
            events: flow.events.clone(),
            lag: LagReport::new(),
            told: 0,
        }
    }

    pub(super) fn drive(self) -> OutputDrive {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        self.status.counters.set_state(State::Connected, Instant::now());
        OutputDrive::Task { stop, task: Box::pin(self.run(stopped)) }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = self.pacer.next_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = expired(&self.timer, wait) => {}
                ready = self.reader.ready() => {
                    if ready.is_err() {
                        self.pacer.flush(Instant::now());
                        return self.send_due(Instant::now());
                    }
                    self.read();
                }
            }
            self.send_due(Instant::now());
        }
    }

    /// Hands new packets to the pacer.
    fn read(&mut self) {
        let mut window = Vec::new();
        let lost = self.reader.read(&mut window);
        let now = Instant::now();
        self.drop_packets(lost.packets, now);
        for batch in window {
            for (place, packet) in (batch.first_packet()..).zip(batch.packets()) {
                let payload = unwrap(packet.data()).unwrap_or_default();
                self.pacer.push(Placed { packet: packet.clone(), place }, payload, now);
            }
        }
    }

    fn send_due(&mut self, now: Instant) {
        self.pacer.handle_timeout(now);
        let until = now.checked_add(SLACK).unwrap_or(now);
        let mut packets = Vec::new();
        let mut first = 0;
        while let Some(Placed { packet, place }) = self.pacer.pop(until) {
            // Numbers follow from places, which are consecutive unless the flow has lost packets.
            if place != first + packets.len() as u64 {
                self.send(&packets, first, now);
                packets.clear();
                first = place;
            }
            packets.push(packet);
        }
        self.send(&packets, first, now);
        if self.pacer.restarts() > self.told {
            log::debug!("output `{}`: paced anew ({} times)", self.status.name(), self.pacer.restarts());
            self.told = self.pacer.restarts();
        }
    }

    fn send(&mut self, packets: &[Packet], first: u64, now: Instant) {
        let mut least = packets.len();
        for leg in &mut self.legs {
            least = least.min(leg.send_packets(packets, first, now));
        }
        // A full socket buffer: the packets have had their time.
        self.drop_packets((packets.len() - least) as u64, now);
    }

    fn drop_packets(&mut self, count: u64, now: Instant) {
        self.status.counters.dropped.add(count);
        self.lag.note(count, &self.status, &self.events, now);
    }
}

/// Waits for a time; without one, for ever.
async fn expired(timer: &TimerFd, wait: Option<Duration>) {
    match wait {
        Some(wait) => timer.wait(wait).await,
        None => std::future::pending().await,
    }
}
