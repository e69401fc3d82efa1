//! The host's end of a flow's events.

use crate::endpoint::Event;
use tokio::sync::broadcast;

/// A reader of a flow's events. One that is too slow loses the oldest, and is told how many.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    ended: bool,
}

impl Events {
    pub(super) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self { receiver, ended: false }
    }

    /// The next event; `None` when the flow has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.receiver.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(count)) => Event::Missed { count },
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        self.ended = event == Event::FlowStopped;
        Some(event)
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = match self.receiver.try_recv() {
            Ok(event) => event,
            Err(broadcast::error::TryRecvError::Lagged(count)) => Event::Missed { count },
            Err(_) => return None,
        };
        self.ended |= event == Event::FlowStopped;
        Some(event)
    }
}
