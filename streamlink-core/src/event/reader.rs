//! Readers of events, for the host: those of one flow, and those of all flows of an engine.

use super::{Event, FlowEvent, Mailbox};
use futures_core::Stream;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// Reader of a flow's events, which is also a [`Stream`]. It holds at most 1024 events: a reader that is too slow loses
/// the oldest, and is told how many.
#[derive(Debug)]
pub struct Events {
    mailbox: Mailbox<Event>,
    ended: bool,
}

impl Events {
    pub(crate) fn new(mailbox: Mailbox<Event>) -> Self {
        Self { mailbox, ended: false }
    }

    /// Waits for the next event. Returns `None` when the flow has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Returns the next event if one is available.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.mailbox.try_receive()?;
        self.ended |= event == Event::FlowStopped;
        Some(event)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = self.mailbox.poll_receive(cx);
        if let Poll::Ready(event) = &next {
            self.ended = event.as_ref().is_none_or(|event| *event == Event::FlowStopped);
        }
        next
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

/// Reader of the events of all flows of an engine, which is also a [`Stream`]. It holds at most 1024 events: a reader
/// that is too slow loses the oldest, and is told how many by [`Event::Missed`] with an empty flow name.
#[derive(Debug)]
pub struct EngineEvents {
    mailbox: Mailbox<FlowEvent>,
}

impl EngineEvents {
    pub(crate) fn new(mailbox: Mailbox<FlowEvent>) -> Self {
        Self { mailbox }
    }

    /// Waits for the next event. Returns `None` when the engine has ended.
    pub async fn next(&mut self) -> Option<FlowEvent> {
        poll_fn(|cx| self.mailbox.poll_receive(cx)).await
    }

    /// Returns the next event if one is available.
    pub fn try_next(&mut self) -> Option<FlowEvent> {
        self.mailbox.try_receive()
    }
}

impl Stream for EngineEvents {
    type Item = FlowEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FlowEvent>> {
        self.mailbox.poll_receive(cx)
    }
}
