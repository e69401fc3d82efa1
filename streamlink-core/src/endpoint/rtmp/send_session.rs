//! RTMP sessions in the sending direction: server sessions of players, and client sessions that publish.

use super::{
    super::tcp::{End, SendSession},
    refused,
};
use crate::{
    endpoint::LossReason,
    flow::shown_url,
    proto::rtmp::{ClientEvent, ClientSession, Request, ServerSession},
    text::PeerText,
};

impl SendSession for ServerSession {
    fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(request) = self.read(&mut bytes)? {
            if request == Request::End {
                self.keep_rest(bytes);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_paused(&self) -> bool {
        Self::is_paused(self)
    }

    fn goes_on(&self) -> bool {
        self.is_between_streams()
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        Self::end(self);
    }
}

impl SendSession for ClientSession {
    fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(outcome) = self.read(&mut bytes)? {
            match outcome {
                ClientEvent::End => return Ok(true),
                ClientEvent::Ready | ClientEvent::Media(_) => {}
                other => after_consent(other)?,
            }
        }
        Ok(false)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        Self::end(self);
    }
}

/// Handles an event of a server that has agreed, apart from media and the end of the stream.
pub(super) fn after_consent(event: ClientEvent<'_>) -> Result<(), End> {
    match event {
        ClientEvent::Rejected(what) | ClientEvent::Challenged(what) => Err(End::Lost(refused(what))),
        // The next attempt is led there from the configured address again.
        ClientEvent::Redirected(to) => {
            let text = format!("redirected to {}", shown_url(to.url.reveal()));
            Err(End::Lost(LossReason::Rejected(text.into())))
        }
        ClientEvent::Told(what) => {
            log::warn!("RTMP server says: {}", PeerText::new(what));
            Ok(())
        }
        ClientEvent::Ready | ClientEvent::Media(_) | ClientEvent::End => Ok(()),
    }
}
