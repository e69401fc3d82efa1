//! Event reader of a flow, for the host.

use super::{Event, Mailbox};

/// Reader of a flow's events. A reader that is too slow loses the oldest events, and is told how many.
#[derive(Debug)]
pub struct Events {
    mailbox: Mailbox,
    ended: bool,
}

impl Events {
    pub(crate) fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, ended: false }
    }

    /// Waits for the next event. Returns `None` when the flow has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.mailbox.receive().await?;
        self.ended = event == Event::FlowStopped;
        Some(event)
    }

    /// Returns the next event if one is available.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.mailbox.try_receive()?;
        self.ended |= event == Event::FlowStopped;
        Some(event)
    }
}
