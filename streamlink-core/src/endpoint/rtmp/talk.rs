//! The sides of RTMP sessions that are sent media.

use super::super::tcp::{End, Talk};
use crate::{
    endpoint::LossReason,
    proto::rtmp::{ClientSession, Outcome, Request, ServerSession},
};

impl Talk for ServerSession {
    fn listen(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(request) = self.read(&mut bytes)? {
            if request == Request::End {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn answers(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        ServerSession::end(self);
    }
}

impl Talk for ClientSession {
    fn listen(&mut self, mut bytes: &[u8]) -> Result<bool, End> {
        self.link().received(bytes.len());
        while let Some(outcome) = self.read(&mut bytes)? {
            match outcome {
                Outcome::Rejected(what) => return Err(End::Lost(LossReason::Rejected(what.into()))),
                Outcome::End => return Ok(true),
                Outcome::Ready | Outcome::Media(_) => {}
            }
        }
        Ok(false)
    }

    fn answers(&mut self) -> Vec<u8> {
        self.link().take_output()
    }

    fn end(&mut self) {
        ClientSession::end(self);
    }
}
