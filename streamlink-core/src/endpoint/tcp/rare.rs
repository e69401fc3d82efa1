//! Waiting for what happens rarely, if ever, while something else happens all the time.
//!
//! A task that waits for several things asks all of them whenever one has woken it. What has not woken it need not be
//! asked: here, that is known.

use futures_util::task::AtomicWaker;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// A door to some of what a task waits for: that is polled, with the door's waker, when the bell has rung.
#[derive(Debug)]
pub(in crate::endpoint) struct Door {
    bell: Arc<Bell>,
    /// What is behind the door is given this to call.
    waker: Waker,
    /// The task, as the bell knows it.
    task: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Door {
    /// Its bell has rung, so that all is polled at first.
    pub(in crate::endpoint) fn new() -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: bell.clone().into(), bell, task: Waker::noop().clone() }
    }

    /// Whether the bell has rung since the last call. Then all that is behind the door must be polled until it is
    /// pending, or [`Door::leave_open`] be called.
    pub(in crate::endpoint) fn has_rung(&mut self, cx: &mut Context<'_>) -> bool {
        let known = self.task.will_wake(cx.waker());
        if known && !self.bell.rung.load(Ordering::Acquire) {
            return false;
        }
        // To wake the task uses up what is registered. Whoever rings from here on finds it.
        self.bell.task.register(cx.waker());
        if !known {
            self.task = cx.waker().clone();
        }
        self.bell.rung.swap(false, Ordering::AcqRel)
    }

    /// What is behind the door was not asked to the end.
    pub(in crate::endpoint) fn leave_open(&mut self) {
        self.bell.rung.store(true, Ordering::Release);
    }

    /// For what is behind the door.
    pub(in crate::endpoint) fn waker(&self) -> &Waker {
        &self.waker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::pin, task::Poll};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn what_is_behind_it_is_asked_once_and_when_it_has_called() {
        let token = CancellationToken::new();
        let (mut inner, mut door, mut asked) = (pin!(token.cancelled()), Door::new(), 0);
        let mut ask = |cx: &mut Context<'_>| {
            if !door.has_rung(cx) {
                return Poll::Pending;
            }
            asked += 1;
            inner.as_mut().poll(&mut Context::from_waker(door.waker())).map(|()| asked)
        };
        for _ in 0..10 {
            assert!(poll_fn(|cx| Poll::Ready(ask(cx))).await.is_pending());
        }
        let again = token.clone();
        tokio::spawn(async move { again.cancel() });
        assert_eq!(poll_fn(ask).await, 2);
    }

    #[tokio::test]
    async fn another_task_may_wait_for_it() {
        let token = CancellationToken::new();
        let (inner, mut door) = (token.clone(), Door::new());
        let mut waits = Box::pin(async move {
            let mut inner = pin!(inner.cancelled());
            poll_fn(|cx| match door.has_rung(cx) {
                true => inner.as_mut().poll(&mut Context::from_waker(door.waker())),
                false => Poll::Pending,
            })
            .await;
        });
        assert!(poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await.is_pending());
        let waiting = tokio::spawn(waits);
        tokio::task::yield_now().await;
        token.cancel();
        waiting.await.unwrap();
    }
}
