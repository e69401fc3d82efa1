//! Tells the changes of a link to a relay as events.

use crate::{
    event::{EventSink, MoqEvent},
    transport::{LinkState, RelayLink},
};
use tokio::task::JoinHandle;

/// Task that tells when a relay is connected and lost. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct RelayWatch(JoinHandle<()>);

impl RelayWatch {
    pub(crate) fn start(link: &RelayLink, events: &EventSink) -> Self {
        // The task must not keep the link alive.
        let mut changes = link.changes();
        let relay = link.address().to_string();
        let events = events.clone();
        Self(tokio::spawn(async move {
            let mut connects = 0;
            let mut is_up = false;
            let mut told = None;
            loop {
                let status = changes.borrow_and_update().clone();
                let is_connected = status.state == LinkState::Connected;
                let is_new = status.connects != connects;
                if let Some(reason) = status.last_error.filter(|_| !is_connected || is_new && is_up)
                    && (is_up || told.as_ref() != Some(&reason))
                {
                    events.send(MoqEvent::RelayLost { relay: relay.clone(), reason: reason.clone() });
                    told = Some(reason);
                }
                if is_connected && is_new {
                    events.send(MoqEvent::RelayConnected { relay: relay.clone() });
                    told = None;
                }
                connects = status.connects;
                is_up = is_connected;
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Drop for RelayWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
