//! Tests of the loop in virtual time, with a scripted protocol.

use super::*;
use crate::event::Mailbox;
use std::{collections::VecDeque, sync::Mutex};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1935);

/// One step of a script: the time until the peer agrees, the duration of the connection, and its end.
struct Step {
    lasts: Option<Duration>,
    outcome: fn() -> Outcome,
}

/// Caller that follows a script, and is then stopped.
struct Scripted {
    steps: VecDeque<Step>,
    started: Arc<Mutex<Vec<Instant>>>,
    stop: CancellationToken,
    is_source: bool,
    is_live: bool,
}

impl Caller for Scripted {
    async fn connect_and_run(&mut self, connection: &mut ConnectionAttempt<'_>) -> Outcome {
        self.started.lock().unwrap().push(now());
        let Some(step) = self.steps.pop_front() else {
            self.stop.cancel();
            return Outcome::Stopped;
        };
        if let Some(lasts) = step.lasts {
            connection.up(PEER);
            self.is_live = self.is_source && !lasts.is_zero();
            tokio::time::sleep(lasts).await;
        }
        (step.outcome)()
    }

    fn end(&mut self, _: Option<&LossReason>, _: Instant) -> bool {
        std::mem::take(&mut self.is_live)
    }
}

fn refused() -> Outcome {
    Outcome::Lost(LossReason::Rejected("no such stream".into()))
}

fn silent() -> Outcome {
    Outcome::Lost(LossReason::TimedOut)
}

fn closed() -> Outcome {
    Outcome::Lost(LossReason::Closed)
}

fn fails(outcome: fn() -> Outcome) -> Step {
    Step { lasts: None, outcome }
}

fn lasts(seconds: u64, outcome: fn() -> Outcome) -> Step {
    Step { lasts: Some(Duration::from_secs(seconds)), outcome }
}

/// Runs a script. Returns the delays between the end of each step and the next, the events and the status.
async fn run(is_source: bool, steps: Vec<Step>) -> (Vec<Duration>, Vec<Event>, Arc<Status>) {
    let status = Status::new("x", None);
    let events = EventSink::alone("flow");
    let stop = CancellationToken::new();
    let mut mailbox = events.subscribe();
    let started = Arc::<Mutex<Vec<Instant>>>::default();
    let durations: Vec<Duration> = steps.iter().map(|step| step.lasts.unwrap_or_default()).collect();
    let reconnecting = ReconnectLoop {
        is_source,
        reconnect: Reconnect::default(),
        random: Random::of(|bytes| bytes.fill(128)),
        status: status.clone(),
        events,
        stop: stop.clone(),
        connections: ConnectionCount::default(),
    };
    let caller = Scripted { steps: steps.into(), started: started.clone(), stop, is_source, is_live: false };
    reconnecting.run(caller).await;
    let started = started.lock().unwrap();
    let delays = started.windows(2).zip(durations).map(|(pair, lasted)| pair[1] - pair[0] - lasted).collect();
    (delays, drain(&mut mailbox), status)
}

fn drain(mailbox: &mut Mailbox<Event>) -> Vec<Event> {
    std::iter::from_fn(|| mailbox.try_receive()).collect()
}

fn is_about(delay: Duration, millis: u64) -> bool {
    let bounds = millis..=millis + millis / 4 + 1;
    bounds.contains(&u64::try_from(delay.as_millis()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_tells_each_reason_once_until_it_changes() {
    let (delays, events, status) = run(false, vec![fails(silent), fails(silent), fails(refused), fails(refused)]).await;
    let [Event::OutputLost { reason: LossReason::TimedOut, peer: None, .. }, first, second] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(matches!(first, Event::OutputRetrying { attempt: 1, reason: LossReason::TimedOut, .. }), "{first:?}");
    assert!(matches!(second, Event::OutputRetrying { attempt: 3, reason: LossReason::Rejected(_), .. }), "{second:?}");
    for (delay, millis) in delays.iter().zip([500, 1000, 2000, 4000]) {
        assert!(is_about(*delay, millis), "{delays:?}");
    }
    assert_eq!(status.counters.state(), State::Idle);
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_resets_the_delay_after_a_healthy_connection() {
    let (delays, events, status) =
        run(false, vec![fails(silent), fails(silent), lasts(3, closed), lasts(11, closed), lasts(1, closed)]).await;
    for (delay, millis) in delays.iter().zip([500, 1000, 2000, 500, 1000]) {
        assert!(is_about(*delay, millis), "{delays:?}");
    }
    assert_eq!(status.counters.reconnections.get(), 2);
    let told = |name: &str| events.iter().filter(|event| format!("{event:?}").starts_with(name)).count();
    assert_eq!((told("OutputConnected"), told("OutputLost"), told("OutputRetrying")), (3, 4, 4), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_slows_down_for_a_source_that_brings_no_media() {
    let (delays, events, _) = run(true, vec![lasts(0, closed), lasts(0, closed), lasts(0, closed)]).await;
    for (delay, millis) in delays.iter().zip([500, 1000, 2000]) {
        assert!(is_about(*delay, millis), "{delays:?}");
    }
    let [Event::SourceLost { .. }, Event::SourceRetrying { attempt: 1, .. }] = &events[..] else {
        panic!("{events:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_bounds_attempts_without_a_delay() {
    let other = || Outcome::TryNext(Some(LossReason::Idle));
    let (delays, events, _) = run(true, (0..12).map(|_| fails(other)).collect()).await;
    let immediate = delays.iter().take_while(|delay| delay.is_zero()).count();
    assert_eq!(immediate, MAX_IMMEDIATE as usize, "{delays:?}");
    let [Event::SourceRetrying { attempt: 1, delay: Duration::ZERO, reason: LossReason::Idle, .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_waits_30_s_after_a_refused_password() {
    let denied = || Outcome::Lost(LossReason::Unauthorized("401 Unauthorized (to DESCRIBE)".into()));
    let (delays, _, status) = run(true, vec![fails(denied), fails(denied), fails(silent)]).await;
    for (delay, millis) in delays.iter().zip([30_000, 30_000, 2000]) {
        assert!(is_about(*delay, millis), "{delays:?}");
    }
    let error = status.snapshot().last_error(Instant::now()).unwrap();
    assert_eq!((error.kind, error.text.as_str()), ("timed_out", "no answer from the peer in time"));
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_stops_while_it_waits() {
    let status = Status::new("x", None);
    let events = EventSink::alone("flow");
    let stop = CancellationToken::new();
    let reconnecting = ReconnectLoop {
        is_source: true,
        reconnect: Reconnect::default(),
        random: Random::of(|bytes| bytes.fill(128)),
        status: status.clone(),
        events,
        stop: stop.clone(),
        connections: ConnectionCount::default(),
    };
    let steps = VecDeque::from([fails(silent)]);
    let started = Arc::default();
    let caller = Scripted { steps, started, stop: CancellationToken::new(), is_source: true, is_live: false };
    let running = tokio::spawn(reconnecting.run(caller));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(status.counters.state(), State::Waiting);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(status.counters.state(), State::Idle);
}

#[tokio::test(start_paused = true)]
async fn reconnect_loop_stays_away_as_long_as_a_busy_peer_asks_within_bounds() {
    let steps =
        vec![fails(|| Outcome::Busy(LossReason::Rejected("503".into()), Duration::from_secs(30))), fails(refused)];
    let (delays, ..) = run(true, steps).await;
    assert!(is_about(delays[0], 30_000) && is_about(delays[1], 1000), "{delays:?}");
    let (delays, ..) = run(true, vec![fails(|| Outcome::Busy(LossReason::TimedOut, Duration::MAX))]).await;
    assert_eq!(delays[0], MAX_ASKED_WAIT);
    let (delays, ..) = run(true, vec![fails(|| Outcome::Busy(LossReason::TimedOut, Duration::ZERO))]).await;
    assert!(is_about(delays[0], 500), "{delays:?}");
}
