//! Task that runs the link of a region for one flow, and runs it again when it fails.

use super::{RegionFlow, RegionReporter, RegionUpdates, attachment::Attachment};
use crate::{
    endpoint::{Backoff, Tap},
    event::{Event, LossReason},
    flow::Reconnect,
    lock,
    router::Reader,
};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Interval at which the reports of a link are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Time that a link has to end the outputs when the flow leaves the region.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Delays between two runs of a link that fails.
const RESTARTS: Reconnect = Reconnect { start: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Runs the link until the flow leaves the region. `first`: position of the first tap in the ring.
pub(super) async fn drive(attachment: Arc<Attachment>, first: Reader) {
    let _ended = attachment.ended.clone().drop_guard();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backoff = Backoff::new(RESTARTS, attachment.parts.random.clone());
    let mut told = None;
    let mut first = Some(first);
    while !attachment.stop.is_cancelled() {
        let reader = first.take().unwrap_or_else(|| attachment.parts.ring.reader());
        let started = Instant::now();
        let Some(reason) = run_once(&attachment, reader, &mut ticks).await else { return };
        let lasted = started.elapsed();
        if lasted >= Reconnect::HEALTHY_AFTER {
            backoff.connected(lasted);
            told = None;
        }
        let delay = backoff.failed(Some(&reason));
        // Failures for the same reason as the one before are not reported again.
        if told.as_ref() != Some(&reason) {
            told = Some(reason.clone());
            let region = attachment.region.name.clone();
            attachment.emit([Event::RegionRetrying { region, attempt: backoff.attempts(), delay, reason }]);
        }
        wait(&attachment, delay, &mut ticks).await;
    }
}

/// Waits before the next run, or until the flow leaves the region.
async fn wait(attachment: &Attachment, delay: Duration, ticks: &mut Interval) {
    let mut delay = pin!(tokio::time::sleep(delay));
    loop {
        tokio::select! {
            () = &mut delay => return,
            () = attachment.stop.cancelled() => return,
            _ = ticks.tick() => attachment.check(Instant::now()),
        }
    }
}

/// Runs the link once. Returns the reason for which it has failed, or `None` when the flow has left the region.
async fn run_once(attachment: &Arc<Attachment>, reader: Reader, ticks: &mut Interval) -> Option<LossReason> {
    let parts = &attachment.parts;
    let closer = reader.closer();
    let over = CancellationToken::new();
    let run = attachment.begin_run();
    let weak = Arc::downgrade(attachment);
    let flow = RegionFlow {
        name: parts.flow.clone(),
        region: attachment.region.name.clone(),
        input: parts.input,
        family: parts.family,
        tap: Tap::new(reader, attachment.tap.clone(), parts.tasks.clone()),
        updates: RegionUpdates::new(weak.clone(), attachment.version.subscribe(), over.clone()),
        reporter: RegionReporter::new(weak, run),
    };
    let failure = watch(attachment, call(attachment.clone(), flow), &over, ticks).await;
    over.cancel();
    closer.close();
    attachment.end_run(failure.clone());
    failure
}

/// Passes changes on to the link, and looks at its reports, until it has ended. Returns the reason if it has failed.
async fn watch(
    attachment: &Attachment,
    link: impl Future<Output = LossReason>,
    over: &CancellationToken,
    ticks: &mut Interval,
) -> Option<LossReason> {
    let mut link = pin!(link);
    let mut presentation = attachment.parts.presentation.current();
    let leave = async {
        attachment.stop.cancelled().await;
        over.cancel();
        tokio::time::sleep(LEAVE_TIMEOUT).await;
    };
    let mut leave = pin!(leave);
    loop {
        tokio::select! {
            biased;
            reason = &mut link => return (!attachment.stop.is_cancelled()).then_some(reason),
            () = &mut leave => {
                let region = attachment.region.name.clone();
                let text = format!("its link has not ended within {} s, and is dropped", LEAVE_TIMEOUT.as_secs());
                attachment.emit([Event::RegionNotice { region, text: text.into() }]);
                return None;
            }
            () = attachment.changed.notified() => attachment.version.send_modify(|version| *version += 1),
            () = attachment.parts.presentation.changed_from(presentation.as_ref()) => {
                presentation = attachment.parts.presentation.current();
                attachment.version.send_modify(|version| *version += 1);
            }
            _ = ticks.tick() => attachment.check(Instant::now()),
        }
    }
}

/// Calls the link and runs its task. Returns the reason why that has ended.
async fn call(attachment: Arc<Attachment>, flow: RegionFlow) -> LossReason {
    let panicked = || LossReason::Internal("the link of the region has panicked".into());
    let region = &attachment.region;
    let Ok(permit) = region.calls.clone().acquire_owned().await else { return panicked() };
    let link = region.link.clone();
    // A call that blocks keeps its permit until it returns, and no thread that media needs.
    let called = tokio::task::spawn_blocking(move || {
        let task = lock::on_task(|| link.run(flow));
        drop(permit);
        task
    });
    let Ok(task) = called.await else { return panicked() };
    let running = AbortOnDropHandle::new(attachment.parts.tasks.runtime.spawn(lock::task(task)));
    match running.await {
        Ok(Ok(())) => LossReason::Internal("the link of the region has ended by itself".into()),
        Ok(Err(reason)) => super::report::sanitized(reason).of_region_link(&attachment.region.name),
        Err(_) => panicked(),
    }
}
