//! RTMP sessions in the sending direction: server sessions of players, and client sessions that publish.

use super::{
    super::tcp::{End, SendSession},
    refused,
};
use crate::proto::rtmp::{ClientEvent, ClientSession, Request, ServerSession};

impl SendSession for ServerSession {
    fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(request) = self.read(&mut bytes)? {
            if request == Request::End {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        ServerSession::end(self);
    }
}

impl SendSession for ClientSession {
    fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(outcome) = self.read(&mut bytes)? {
            match outcome {
                ClientEvent::Rejected(what) => return Err(End::Lost(refused(what))),
                ClientEvent::End => return Ok(true),
                ClientEvent::Ready | ClientEvent::Media(_) => {}
            }
        }
        Ok(false)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        ClientSession::end(self);
    }
}
