//! Packets that a receiver misses: which are reported, and when (draft-sharabayko-srt-01, section 4.8.2).
//!
//! A loss is reported at once, and then periodically, until the packet arrives or is given up. On a path that does not
//! keep the order, the first report waits for as long as packets were late before. A packet filter may have losses reported
//! later, or never.

use super::sequence::Sequence;
use crate::packet_filter::FilterArq;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of loss ranges that are tracked. Beyond it the oldest are given up.
const MAX_LOSSES: usize = 1024;
/// Maximum number of ranges of given up packets that are remembered, to tell those that arrive late from duplicates.
const MAX_GIVEN_UP: usize = 256;
/// Maximum number of ranges in one loss report, so that it fits into a packet.
const MAX_REPORT: usize = 180;
/// Minimum lateness of a packet that counts as reordering.
const MIN_REORDERING: Duration = Duration::from_millis(2);
/// Maximum time for which losses are held back on account of it, beside a quarter of the latency.
const MAX_REORDERING: Duration = Duration::from_millis(100);
/// Time without reordering after which a smaller one is assumed.
const REORDERING_MEMORY: Duration = Duration::from_secs(2);

/// First and last number of missing packets.
pub(super) type LossRange = (Sequence, Sequence);

#[derive(Clone, Copy, Debug)]
struct Loss {
    first: Sequence,
    last: Sequence,
    /// Time of the last report, or that at which the loss was found.
    reported: Instant,
    /// Time at which the loss was found, until it is reported: the packets may only be out of order.
    found: Option<Instant>,
    /// Set while the packet filter may still rebuild the packets.
    repairable: bool,
}

impl Loss {
    /// Returns the number of packets.
    fn count(&self) -> u64 {
        u64::from(self.first.distance(self.last).unsigned_abs()) + 1
    }
}

/// Times after which losses are reported.
#[derive(Clone, Copy, Debug)]
struct ReportTimes {
    /// From one report to the next.
    interval: Duration,
    /// While a packet filter may rebuild them.
    patience: Duration,
    /// While they may only be out of order.
    reordering: Duration,
}

/// Returns the time after which a loss is reported again, or, if a packet filter may still rebuild it, for the first time.
/// `None`: it is not reported.
fn wait(loss: &Loss, filter: Option<FilterArq>, times: ReportTimes) -> Option<Duration> {
    match filter {
        Some(FilterArq::Never) => None,
        Some(FilterArq::OnRequest) if loss.repairable => Some(times.patience),
        _ if loss.found.is_some() => Some(times.reordering),
        _ => Some(times.interval),
    }
}

/// Removes a range of numbers from a list of ranges, which holds at most `most`. Returns whether any of them was in it.
fn remove_range(ranges: &mut VecDeque<Loss>, from: Sequence, to: Sequence, most: usize) -> bool {
    let mut found = false;
    let mut at = 0;
    while let Some(range) = ranges.get_mut(at) {
        let Loss { first, last, .. } = *range;
        if last.distance(from) > 0 || to.distance(first) > 0 {
            at += 1; // the ranges do not overlap
            continue;
        }
        found = true;
        let keeps_start = first.distance(from) > 0;
        let keeps_end = to.distance(last) > 0;
        match (keeps_start, keeps_end) {
            (false, false) => {
                ranges.remove(at);
                continue;
            }
            (true, false) => range.last = from.before(1),
            (false, true) => range.first = to.after(1),
            (true, true) => {
                range.last = from.before(1);
                let rest = Loss { first: to.after(1), last, ..*range };
                if ranges.len() < most {
                    ranges.insert(at + 1, rest);
                }
                return true;
            }
        }
        at += 1;
    }
    found
}

/// Packets that are missing, the oldest first.
#[derive(Debug)]
pub(super) struct LossList {
    losses: VecDeque<Loss>,
    /// Time for which the receiver holds packets.
    latency: Duration,
    /// Use of retransmissions beside the packet filter; `None` without a filter.
    filter: Option<FilterArq>,
    /// Time by which packets come out of order. Losses are reported after it, and at once on a path that keeps the order.
    reordering: Duration,
    /// Start of the period in which no packet has come out of order by as much.
    ordered_since: Instant,
}

impl LossList {
    pub(super) fn new(latency: Duration, now: Instant) -> Self {
        Self { losses: VecDeque::new(), latency, filter: None, reordering: Duration::ZERO, ordered_since: now }
    }

    /// Leaves it to a packet filter to rebuild what is missing, with this use of retransmissions beside it.
    pub(super) fn set_filter(&mut self, arq: FilterArq) {
        self.filter = Some(arq);
    }

    /// Returns the first missing number.
    pub(super) fn first(&self) -> Option<Sequence> {
        self.losses.front().map(|loss| loss.first)
    }

    /// Returns the number of packets of the first range, if it begins with this number; otherwise 0.
    pub(super) fn missing_from(&self, number: Sequence) -> usize {
        let known = self.losses.front().filter(|loss| loss.first == number);
        known.and_then(|loss| usize::try_from(number.distance(loss.last)).ok()).map_or(0, |n| n + 1)
    }

    /// Adds a loss, behind all others. Returns whether it is to be reported at once.
    pub(super) fn add(&mut self, (first, last): LossRange, now: Instant) -> bool {
        if self.losses.len() == MAX_LOSSES {
            self.losses.pop_front();
        }
        let may_be_late = self.reports_at_once() && !self.reordering.is_zero();
        let found = may_be_late.then_some(now);
        self.losses.push_back(Loss { first, last, reported: now, found, repairable: self.filter.is_some() });
        self.reports_without_delay()
    }

    /// Removes a range of numbers. Only known losses are visited: a range from the network may be too wide to walk.
    pub(super) fn remove(&mut self, first: Sequence, last: Sequence) {
        remove_range(&mut self.losses, first, last, MAX_LOSSES);
    }

    /// Returns whether losses are reported when they are found, on a path that keeps the order.
    fn reports_at_once(&self) -> bool {
        matches!(self.filter, None | Some(FilterArq::Always))
    }

    /// Returns whether a loss that is found now is reported at once.
    pub(super) fn reports_without_delay(&self) -> bool {
        self.reports_at_once() && self.reordering.is_zero()
    }

    /// Learns from a packet that was taken for lost, and was only late, by how much packets come out of order.
    pub(super) fn observe_reordering(&mut self, sequence: Sequence, now: Instant) {
        let is_it = |loss: &&Loss| loss.first.distance(sequence) >= 0 && sequence.distance(loss.last) >= 0;
        let Some(loss) = self.losses.iter().find(is_it) else { return };
        // One report later the time is still a lower bound.
        let late = now.saturating_duration_since(loss.found.unwrap_or(loss.reported));
        if late >= MIN_REORDERING {
            let most = (self.latency / 4).min(MAX_REORDERING);
            self.reordering = self.reordering.max(late + late / 4).min(most);
            self.ordered_since = now;
        }
    }

    /// Forgets the reordering of a path by and by.
    pub(super) fn relax_reordering(&mut self, now: Instant) {
        if !self.reordering.is_zero() && now.saturating_duration_since(self.ordered_since) >= REORDERING_MEMORY {
            self.ordered_since = now;
            let less = self.reordering - self.reordering / 4;
            self.reordering = if less < MIN_REORDERING { Duration::ZERO } else { less };
        }
    }

    /// Gives up the repair of the losses before `horizon`, which the packet filter cannot rebuild any more. Returns the
    /// number of packets, and the ranges that are to be reported now.
    pub(super) fn give_up_repair(&mut self, horizon: Sequence, now: Instant) -> (u64, Vec<LossRange>) {
        let mut count = 0;
        let mut due = Vec::new();
        let mut at = 0;
        while let Some(loss) = self.losses.get_mut(at).filter(|loss| loss.first.distance(horizon) > 0) {
            at += 1;
            if !std::mem::replace(&mut loss.repairable, false) {
                continue;
            }
            let beyond = Loss { first: horizon, repairable: true, ..*loss };
            let is_split = loss.last.distance(horizon) <= 0;
            if is_split {
                loss.last = horizon.before(1);
            }
            loss.reported = now;
            count += loss.count();
            if self.filter == Some(FilterArq::OnRequest) {
                due.push((loss.first, loss.last));
            }
            if is_split && self.losses.len() < MAX_LOSSES {
                self.losses.insert(at, beyond);
            }
        }
        due.truncate(MAX_REPORT);
        (count, due)
    }

    /// Returns the number of packets up to `last` that the packet filter may still rebuild.
    pub(super) fn repairable_until(&self, last: Sequence) -> u64 {
        if self.filter.is_none() {
            return 0;
        }
        let mut count = 0;
        for loss in self.losses.iter().take_while(|loss| loss.first.distance(last) >= 0).filter(|loss| loss.repairable)
        {
            let end = if loss.last.distance(last) < 0 { last } else { loss.last };
            count += Loss { last: end, ..*loss }.count();
        }
        count
    }

    /// Returns the losses that were last reported at least `interval` ago, as many as fit into one packet, and the number of
    /// packets whose repair is given up with that.
    pub(super) fn overdue(&mut self, now: Instant, interval: Duration) -> (u64, Vec<LossRange>) {
        let mut count = 0;
        let mut due = Vec::new();
        let filter = self.filter;
        let times = self.report_times(interval);
        for loss in &mut self.losses {
            if due.len() == MAX_REPORT {
                break;
            }
            let Some(wait) = wait(loss, filter, times) else { continue };
            if now.saturating_duration_since(loss.reported) >= wait {
                if filter == Some(FilterArq::OnRequest) && std::mem::replace(&mut loss.repairable, false) {
                    count += loss.count();
                }
                loss.reported = now;
                loss.found = None;
                due.push((loss.first, loss.last));
            }
        }
        (count, due)
    }

    fn report_times(&self, interval: Duration) -> ReportTimes {
        ReportTimes { interval, patience: self.latency / 2, reordering: self.reordering }
    }

    /// Returns the time at which losses are to be reported again.
    pub(super) fn next_report(&self, interval: Duration) -> Option<Instant> {
        let times = self.report_times(interval);
        let at = |loss: &Loss| loss.reported.checked_add(wait(loss, self.filter, times)?);
        self.losses.iter().filter_map(at).min()
    }
}

/// Packets that were given up and have not arrived since, the oldest first.
#[derive(Debug, Default)]
pub(super) struct GivenUp(VecDeque<Loss>);

impl GivenUp {
    /// Adds a range, behind all others.
    pub(super) fn add(&mut self, (first, last): LossRange, now: Instant) {
        if self.0.len() == MAX_GIVEN_UP {
            self.0.pop_front();
        }
        self.0.push_back(Loss { first, last, reported: now, found: None, repairable: false });
    }

    /// Removes a packet that arrives. Returns whether it was given up.
    pub(super) fn remove(&mut self, number: Sequence) -> bool {
        remove_range(&mut self.0, number, number, MAX_GIVEN_UP)
    }
}
