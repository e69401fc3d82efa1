//! Turns of the task of an SRT port. Reading the socket, sending the media of the outputs and running the timers costs much
//! less for many packets than for one after the other: one wake-up of the task, one system call for each peer. So the task
//! pauses between two turns. Nothing is delivered later for it, save by a source, which delivers at most a pause late: the
//! packets have the timestamps of their arrival, and peers play them by these, as long as they come within the latency.
//! A pause takes up to one part in [`SHARE`] of it.

use std::time::{Duration, Instant};

/// Range of the pause between two turns. The timers of the runtime may add up to a millisecond.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(4);
/// Share of the shortest latency of a connection of the port, which the pause takes up at most.
const SHARE: u32 = 30;
/// Number of packets in one turn from which a longer pause saves no more: nearly as many as fit into one system call.
const ENOUGH: usize = 40;
/// Number of packets in one turn from which there is no pause, because as many more may be waiting.
const MANY: usize = 400;

/// The times of the turns.
#[derive(Debug)]
pub(super) struct Turns {
    longest: Duration,
    is_prompt: bool,
    last: Instant,
    next: Instant,
}

impl Turns {
    pub(super) fn new(now: Instant) -> Self {
        Self { longest: SHORTEST, is_prompt: true, last: now, next: now }
    }

    /// Returns the time of the next turn. It is past if the task has nothing to wait for.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Returns whether outputs send at once, and do not wait for the next turn, because a connection has a latency against
    /// which a pause is long.
    pub(super) fn is_prompt(&self) -> bool {
        self.is_prompt
    }

    /// Sets the shortest latency of the connections; `None` if there are none.
    pub(super) fn set_latency(&mut self, shortest: Option<Duration>) {
        let share = shortest.map_or(Duration::ZERO, |latency| latency / SHARE);
        self.is_prompt = share < SHORTEST;
        self.longest = share.clamp(SHORTEST, LONGEST);
    }

    /// Takes account of a connection with this latency.
    pub(super) fn add_latency(&mut self, latency: Duration) {
        if latency / SHARE < self.longest {
            self.set_latency(Some(latency));
        }
    }

    /// Ends a turn in which so many packets were read, or sent to each peer. If these were many, the next pause is shorter.
    pub(super) fn end(&mut self, packets: usize, now: Instant) {
        let mut pause = self.longest;
        if packets >= MANY {
            pause = Duration::ZERO;
        } else if packets > ENOUGH {
            let share = ENOUGH as f64 / packets as f64;
            let elapsed = now.saturating_duration_since(self.last).min(self.longest);
            pause = elapsed.mul_f64(share).clamp(SHORTEST, self.longest);
        }
        self.last = now;
        self.next = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Returns the pause after a turn with so many packets, a pause after the one before.
    fn pause(turns: &mut Turns, packets: usize) -> Duration {
        let now = turns.next();
        turns.end(packets, now);
        turns.next() - now
    }

    #[test]
    fn srt_turns_pause_for_a_share_of_the_shortest_latency() {
        let mut turns = Turns::new(Instant::now());
        assert!(turns.is_prompt());
        for (latency, expected, is_prompt) in
            [(0, 1, true), (20, 1, true), (60, 2, false), (120, 4, false), (8000, 4, false)]
        {
            turns.set_latency(Some(ms(latency)));
            assert_eq!((pause(&mut turns, 1), turns.is_prompt()), (ms(expected), is_prompt), "{latency}");
        }
        turns.add_latency(ms(60));
        turns.add_latency(ms(500));
        assert_eq!(pause(&mut turns, 1), ms(2));
        turns.set_latency(None);
        assert!(turns.is_prompt());
    }

    #[test]
    fn srt_turns_are_more_frequent_with_many_packets() {
        let mut turns = Turns::new(Instant::now());
        turns.set_latency(Some(ms(120)));
        assert_eq!(pause(&mut turns, 40), ms(4));
        assert_eq!(pause(&mut turns, 80), ms(2));
        assert_eq!(pause(&mut turns, 399), ms(1));
        assert_eq!(pause(&mut turns, 400), ms(0));
        assert_eq!(pause(&mut turns, 0), ms(4));
    }
}
