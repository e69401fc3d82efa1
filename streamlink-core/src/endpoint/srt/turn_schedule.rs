//! Turns of the task of an SRT port. Reading the socket, sending the media of the outputs and running the timers costs much
//! less for many packets than for one after the other: one wake-up of the task, one system call for each peer. So the task
//! pauses between two turns, and while something comes all the time it is woken by nothing but its own timer.
//!
//! Players do not notice: packets have the timestamps of their arrival, and are played by these, as long as they come
//! within the latency. A pause takes a part of what the latency leaves for retransmissions
//! ([`Connection::leeway`](crate::proto::srt::Connection::leeway)). With little latency there is no such pause: outputs send
//! at once, and the socket is read once in a millisecond. A source delivers at most a pause late.
//!
//! The longest pauses of all ports end at the same times, so that one wake-up of a thread serves all ports: of twenty ports
//! that receive 6 Mb/s each, this saves a seventh of the CPU time (row `rtmp-remux` of the benches).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Time from which the ends of the longest pauses are counted, for all ports of the process.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Shortest pause between two turns. The timers of the runtime may add up to a millisecond to each.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longest pause of a port that has players only.
const LONGEST: Duration = Duration::from_millis(8);
/// Longest pause of a port that receives media.
const LONGEST_OF_SOURCES: Duration = Duration::from_millis(4);
/// Number of packets in one turn from which a longer pause saves no more: nearly as many as fit into one system call.
const ENOUGH: usize = 40;
/// Number of packets in one turn from which there is no pause, because as many more may be waiting.
const FULL: usize = 400;
/// Number of turns in a row with packets after which packets are taken to come all the time. A burst of packets, as of a
/// picture, is over before: to be woken by the next one costs less than the turns between the two.
const BUSY: u32 = 5;
/// Number of turns without a packet after which the task waits to be woken by the next one.
const QUIET: u32 = 2;

/// The times of the turns.
#[derive(Debug)]
pub(super) struct TurnSchedule {
    longest: Duration,
    is_prompt: bool,
    last: Instant,
    next: Instant,
    /// The pause after the last turn.
    pause: Duration,
    /// Number of turns in a row with packets, and without.
    busy: u32,
    quiet: u32,
    /// Set from [`BUSY`] turns with packets on, up to [`QUIET`] without.
    is_busy: bool,
}

impl TurnSchedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            longest: SHORTEST,
            is_prompt: true,
            last: now,
            next: now,
            pause: LONGEST,
            busy: 0,
            quiet: QUIET,
            is_busy: false,
        }
    }

    /// Returns the time of the next turn. It is past if the task has nothing to wait for.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Returns whether outputs send at once, and do not wait for the next turn.
    pub(super) fn is_prompt(&self) -> bool {
        self.is_prompt
    }

    /// Returns whether packets come all the time, so that nothing but the next turn has to be waited for.
    pub(super) fn is_steady(&self) -> bool {
        !self.is_prompt && self.is_busy
    }

    /// Sets the shortest leeway of the connections, and whether any of them brings media.
    pub(super) fn set_leeway(&mut self, leeway: Duration, has_sources: bool) {
        self.is_prompt = leeway < SHORTEST;
        self.longest = leeway.clamp(SHORTEST, if has_sources { LONGEST_OF_SOURCES } else { LONGEST });
    }

    /// Takes account of another connection, until [`TurnSchedule::set_leeway`] is called again.
    pub(super) fn add_leeway(&mut self, leeway: Duration, is_source: bool) {
        if leeway < self.longest || is_source {
            let longest = if self.is_prompt { Duration::ZERO } else { self.longest };
            self.set_leeway(leeway.min(longest), is_source || self.longest <= LONGEST_OF_SOURCES);
        }
    }

    /// Ends a turn in which so many packets were read, or sent to each peer. If these were many, the next pause is shorter.
    pub(super) fn end(&mut self, packets: usize, now: Instant) {
        let mut pause = self.longest;
        if packets >= FULL {
            pause = Duration::ZERO;
        } else if packets > ENOUGH {
            let share = ENOUGH as f64 / packets as f64;
            let elapsed = now.saturating_duration_since(self.last).min(self.longest);
            pause = elapsed.mul_f64(share).clamp(SHORTEST, self.longest);
        }
        // At a high rate, the few packets of a turn without a pause before it are no reason for a long one behind it.
        pause = pause.min((2 * self.pause).max(SHORTEST));
        self.pause = pause;
        if packets > 0 {
            self.busy = self.busy.saturating_add(1);
            self.quiet = 0;
        } else {
            self.busy = 0;
            self.quiet = self.quiet.saturating_add(1);
        }
        self.is_busy = self.busy >= BUSY || (self.is_busy && self.quiet < QUIET);
        self.last = now;
        self.next = now + pause;
        if pause == self.longest && !self.is_prompt {
            self.next = last_multiple(*EPOCH, self.next, pause);
        }
    }
}

/// Returns the last time that is a whole number of `interval` after `epoch`, and not after `time`.
fn last_multiple(epoch: Instant, time: Instant, interval: Duration) -> Instant {
    let elapsed = time.saturating_duration_since(epoch).as_nanos();
    let over = elapsed.checked_rem(interval.as_nanos()).and_then(|over| u64::try_from(over).ok());
    time.checked_sub(Duration::from_nanos(over.unwrap_or(0))).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Returns the pause after a turn with so many packets, a pause after the one before.
    fn pause(turns: &mut TurnSchedule, packets: usize) -> Duration {
        turns.end(packets, turns.next());
        turns.pause
    }

    #[test]
    fn srt_turns_of_all_ports_end_their_pauses_together() {
        let start = last_multiple(*EPOCH, Instant::now(), LONGEST);
        for millis in 0..4 {
            let mut turns = TurnSchedule::new(start);
            turns.set_leeway(ms(90), true);
            turns.end(1, start + ms(millis));
            assert_eq!(turns.next(), start + ms(4), "{millis}");
            turns.end(1, turns.next());
            assert_eq!(turns.next(), start + ms(8), "{millis}");
        }
    }

    #[test]
    fn srt_turns_pause_for_the_shortest_leeway() {
        let mut turns = TurnSchedule::new(Instant::now());
        assert!(turns.is_prompt() && !turns.is_steady());
        for (leeway, sources, expected, is_prompt) in [
            (0, false, 1, true),
            (1, false, 1, false),
            (5, false, 5, false),
            (90, false, 8, false),
            (90, true, 4, false),
        ] {
            turns.set_leeway(ms(leeway), sources);
            for _ in 0..3 {
                pause(&mut turns, 1); // pauses grow from one to the next
            }
            assert_eq!((pause(&mut turns, 1), turns.is_prompt()), (ms(expected), is_prompt), "{leeway}");
        }
    }

    #[test]
    fn srt_turns_heed_each_new_connection() {
        let mut turns = TurnSchedule::new(Instant::now());
        turns.add_leeway(ms(90), false);
        assert!(turns.is_prompt(), "until it is known that no other has less");
        turns.set_leeway(ms(90), false);
        turns.add_leeway(ms(5), false);
        turns.add_leeway(ms(6), false);
        assert_eq!(pause(&mut turns, 1), ms(5));
        turns.add_leeway(ms(90), true);
        assert_eq!(pause(&mut turns, 1), ms(4));
        turns.add_leeway(ms(0), false);
        assert!(turns.is_prompt());
    }

    #[test]
    fn srt_turns_are_more_frequent_with_many_packets() {
        let mut turns = TurnSchedule::new(last_multiple(*EPOCH, Instant::now(), LONGEST));
        turns.set_leeway(ms(4), false);
        assert_eq!(pause(&mut turns, 40), ms(4));
        assert_eq!(pause(&mut turns, 80), ms(2));
        assert_eq!(pause(&mut turns, 399), ms(1));
        assert_eq!(pause(&mut turns, 400), ms(0));
        assert_eq!(pause(&mut turns, 0), ms(1));
    }

    #[test]
    fn srt_turns_stay_frequent_at_a_high_rate() {
        let mut turns = TurnSchedule::new(Instant::now());
        let per_ms = 100;
        turns.set_leeway(ms(4), true);
        pause(&mut turns, 1);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            // What arrived in the last pause, or while the last turn was handled.
            let packets = (turns.pause.as_millis() as usize * per_ms).max(5);
            longest = longest.max(pause(&mut turns, packets));
        }
        assert!(longest <= ms(1), "{longest:?}");
        assert_eq!([1, 1, 1].map(|packets| pause(&mut turns, packets)), [ms(2), ms(4), ms(4)]);
    }

    #[test]
    fn srt_turns_are_steady_until_nothing_comes() {
        let mut turns = TurnSchedule::new(Instant::now());
        turns.set_leeway(ms(8), false);
        let mut is_steady = |packets: &[usize]| {
            for packets in packets {
                pause(&mut turns, *packets);
            }
            turns.is_steady()
        };
        assert!(!is_steady(&[0, 1, 1, 1, 1]) && is_steady(&[1]));
        assert!(is_steady(&[0, 3, 0]) && !is_steady(&[0]));
        assert!(!is_steady(&[0, 1]) && !is_steady(&[1, 1, 1]) && is_steady(&[1]));
        turns.set_leeway(ms(0), false);
        assert!(!turns.is_steady());
    }

    #[test]
    fn srt_turns_wait_for_each_burst_of_pictures() {
        let mut turns = TurnSchedule::new(Instant::now());
        turns.set_leeway(ms(90), true);
        for _ in 0..10 {
            // A picture, then what acknowledges it.
            for packets in [23, 1, 0, 0, 0] {
                pause(&mut turns, packets);
                assert!(!turns.is_steady());
            }
        }
    }
}
