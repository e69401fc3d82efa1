//! The host's end of a flow's events.

use crate::endpoint::{Event, Mailbox};

/// A reader of a flow's events. One that is too slow loses the oldest, and is told how many.
#[derive(Debug)]
pub struct Events {
    mailbox: Mailbox,
    ended: bool,
}

impl Events {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, ended: false }
    }

    /// The next event; `None` when the flow has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.mailbox.receive().await?;
        self.ended = event == Event::FlowStopped;
        Some(event)
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.mailbox.try_receive()?;
        self.ended |= event == Event::FlowStopped;
        Some(event)
    }
}
