//! The presentation that RTSP players of a flow are offered.

use crate::media::rtsp::Presentation;
use std::sync::Arc;
use tokio::sync::watch;

/// The presentation of a flow's RTSP source, once there is one; the last one stays when the source is lost.
#[derive(Debug, Default)]
pub(crate) struct CurrentPresentation(watch::Sender<Option<Arc<Presentation>>>);

impl CurrentPresentation {
    /// Returns the presentation.
    pub(crate) fn current(&self) -> Option<Arc<Presentation>> {
        self.0.borrow().clone()
    }

    /// Replaces the presentation. Waiters are woken only if the new one is not compatible with the old one.
    pub(super) fn set(&self, presentation: &Arc<Presentation>) {
        self.0.send_if_modified(|current| {
            let compatible = current.as_ref().is_some_and(|current| presentation.is_compatible_with(current));
            *current = Some(presentation.clone());
            !compatible
        });
    }

    /// Waits for a presentation that is not compatible with `known`, or for any if that is `None`.
    pub(crate) async fn changed_from(&self, known: Option<&Arc<Presentation>>) {
        let other = |current: &Option<Arc<Presentation>>| match (current, known) {
            (Some(current), Some(known)) => !current.is_compatible_with(known),
            (current, None) => current.is_some(),
            (None, Some(_)) => false,
        };
        // Never fails: the sender is `self`.
        let _ = self.0.subscribe().wait_for(other).await;
    }
}
