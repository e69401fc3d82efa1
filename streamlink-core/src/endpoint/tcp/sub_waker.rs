//! Lets a poll function skip futures that have not been woken since its last poll.
//!
//! A task that waits for several things polls all of them whenever one has woken it. Cancellation, timers and what a
//! player sends are rare beside media: they are polled with a waker of their own, which records that it was used.

use futures_util::task::AtomicWaker;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// A waker for some of the futures of a task, which are polled only after it was used.
#[derive(Debug)]
pub(in crate::endpoint) struct SubWaker {
    flag: Arc<WakeFlag>,
    /// Made of `flag`, for the futures.
    waker: Waker,
    /// The waker of the task that is registered in `flag`.
    task: Waker,
}

/// Set by the waker, and cleared by [`SubWaker::poll_if_woken`].
#[derive(Debug)]
struct WakeFlag {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl SubWaker {
    /// Returns a waker that counts as used, so that the first poll reaches the futures.
    pub(in crate::endpoint) fn new() -> Self {
        let flag = Arc::new(WakeFlag { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: flag.clone().into(), flag, task: Waker::noop().clone() }
    }

    /// Calls `poll` with this waker if it was used since the last call, or another task calls; pending otherwise.
    ///
    /// `poll` polls each of the futures until one is ready or all are pending. When it is ready the next call polls
    /// again, as futures that it has not reached may have been woken, too.
    pub(in crate::endpoint) fn poll_if_woken<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.take_woken(cx) {
            return Poll::Pending;
        }
        let result = poll(&mut Context::from_waker(&self.waker));
        if result.is_ready() {
            self.flag.woken.store(true, Ordering::Release);
        }
        result
    }

    /// Registers the task, and returns whether the waker was used since the last call.
    fn take_woken(&mut self, cx: &Context<'_>) -> bool {
        let is_known = self.task.will_wake(cx.waker());
        if is_known && !self.flag.woken.load(Ordering::Acquire) {
            return false;
        }
        // Waking the task takes its waker out of `flag`. It is registered before the flag is cleared, so that no wake-up
        // in between is lost.
        self.flag.task.register(cx.waker());
        if !is_known {
            self.task = cx.waker().clone();
        }
        self.flag.woken.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::pin};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn sub_waker_polls_first_and_after_each_wake() {
        let token = CancellationToken::new();
        let mut inner = pin!(token.cancelled());
        let mut sub_waker = SubWaker::new();
        let mut polls = 0;
        let mut poll = |cx: &mut Context<'_>| {
            sub_waker.poll_if_woken(cx, |cx| {
                polls += 1;
                inner.as_mut().poll(cx).map(|()| polls)
            })
        };
        for _ in 0..10 {
            assert!(poll_fn(|cx| Poll::Ready(poll(cx))).await.is_pending());
        }
        let again = token.clone();
        tokio::spawn(async move { again.cancel() });
        assert_eq!(poll_fn(poll).await, 2);
    }

    #[tokio::test]
    async fn sub_waker_polls_again_after_ready() {
        let mut sub_waker = SubWaker::new();
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(sub_waker.poll_if_woken(cx, |_| Poll::Ready(())))).await.is_ready());
        }
        assert!(poll_fn(|cx| Poll::Ready(sub_waker.poll_if_woken(cx, |_| Poll::<()>::Pending))).await.is_pending());
        let poll = |cx: &mut Context<'_>| sub_waker.poll_if_woken(cx, |_| -> Poll<()> { panic!("not woken") });
        let mut poll = poll;
        assert!(poll_fn(|cx| Poll::Ready(poll(cx))).await.is_pending());
    }

    #[tokio::test]
    async fn sub_waker_wakes_the_task_that_polled_last() {
        let token = CancellationToken::new();
        let inner = token.clone();
        let mut sub_waker = SubWaker::new();
        let mut waits = Box::pin(async move {
            let mut inner = pin!(inner.cancelled());
            poll_fn(|cx| sub_waker.poll_if_woken(cx, |cx| inner.as_mut().poll(cx))).await;
        });
        assert!(poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await.is_pending());
        let waiting = tokio::spawn(waits);
        tokio::task::yield_now().await;
        token.cancel();
        waiting.await.unwrap();
    }
}
