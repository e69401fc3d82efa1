//! Players of outputs on other machines that are to be disconnected.

use super::{Attachment, RegionKick};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Maximum number of requests that a link is told at a time.
const MAX_KICKS: usize = 64;
/// Time for which a link is told a request.
const LIFETIME: Duration = Duration::from_secs(10);
/// Time that a request waits until the node reports that the player has gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Number of the last request of any flow, so that requests of a flow that is started again have other numbers.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Requests that a link is told.
#[derive(Debug, Default)]
pub(super) struct Kicks {
    pending: VecDeque<(Instant, RegionKick)>,
}

impl Kicks {
    /// Adds a request. Of more than a link is told, the oldest are forgotten.
    pub(super) fn push(&mut self, output: u64, peer: SocketAddr, now: Instant) {
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        if self.pending.len() >= MAX_KICKS {
            self.pending.pop_front();
        }
        self.pending.push_back((now, RegionKick { number, output, peer }));
    }

    /// Returns the requests of the last seconds.
    pub(super) fn recent(&mut self, now: Instant) -> Vec<RegionKick> {
        self.pending.retain(|(at, _)| now.saturating_duration_since(*at) < LIFETIME);
        self.pending.iter().map(|(_, kick)| *kick).collect()
    }
}

/// Request that a link was told.
#[derive(Debug)]
pub(in crate::engine) struct PendingKick {
    pub(super) attachment: Arc<Attachment>,
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
}

impl PendingKick {
    /// Waits until the node reports that the player has gone. Returns `false` if it has not within 5 s.
    pub(in crate::engine) async fn finished(self) -> bool {
        let gone = async {
            loop {
                // Made before the look, so that no report is missed.
                let reported = self.attachment.reported.notified();
                if !self.attachment.has_player(self.id, self.peer) {
                    return;
                }
                reported.await;
            }
        };
        tokio::time::timeout(TIMEOUT, gone).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_of_a_region_are_bounded_and_forgotten() {
        let start = Instant::now();
        let peer = SocketAddr::from(([192, 0, 2, 1], 5000));
        let mut kicks = Kicks::default();
        for output in 0..70 {
            kicks.push(output, peer, start);
        }
        let recent = kicks.recent(start);
        assert_eq!(recent.iter().map(|kick| kick.output).collect::<Vec<_>>(), (6..70).collect::<Vec<_>>());
        assert!(recent.is_sorted_by(|a, b| a.number < b.number));
        kicks.push(1, peer, start + LIFETIME);
        let later = kicks.recent(start + LIFETIME);
        assert_eq!(later.iter().map(|kick| (kick.output, kick.peer)).collect::<Vec<_>>(), [(1, peer)]);
        assert!(later[0].number > recent[63].number);
    }
}
