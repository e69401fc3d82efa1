//! RTSP sessions that send media over TCP: server sessions of players, and client sessions that record.

use super::{
    super::tcp::{End, SendSession},
    end_of,
};
use crate::proto::rtsp::{ClientSession, Request, ResolvedStream, ServerSession, Status, StreamDirectory};
use std::time::Instant;

/// Empty directory for sessions that have chosen a path already. Rejects every further lookup.
pub(super) struct EmptyDirectory;

impl StreamDirectory for EmptyDirectory {
    fn find(&mut self, _: bool, _: &str) -> Result<ResolvedStream, Status> {
        Err(Status::NOT_VALID_IN_THIS_STATE)
    }

    fn open_udp(&mut self, _: bool, _: &str, _: usize, _: (u16, u16)) -> Result<(u16, u16), Status> {
        Err(Status::NOT_VALID_IN_THIS_STATE)
    }
}

impl SendSession for ServerSession {
    fn on_bytes(&mut self, bytes: &[u8]) -> Result<bool, End> {
        self.push(bytes);
        while let Some(request) = self.next(&mut EmptyDirectory)? {
            match request {
                Request::End => return Ok(true),
                Request::Frame { data, .. } => self.report(&data),
                _ => {}
            }
        }
        Ok(false)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.take_output()
    }

    fn is_paused(&self) -> bool {
        Self::is_paused(self)
    }

    fn reported_lost(&self) -> u64 {
        Self::reported_lost(self)
    }

    fn end(&mut self) {}
}

/// A client session that records and sends keep-alive requests.
pub(super) struct RecordingClient<'a> {
    pub(super) session: &'a mut ClientSession,
    pub(super) next_keep_alive: Instant,
}

impl SendSession for RecordingClient<'_> {
    fn on_bytes(&mut self, bytes: &[u8]) -> Result<bool, End> {
        self.session.push(bytes);
        while let Some(outcome) = self.session.next()? {
            if let Some(reason) = end_of(&outcome) {
                return Err(End::Lost(reason));
            }
        }
        Ok(false)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.session.take_output()
    }

    fn end(&mut self) {
        self.session.end();
    }

    fn tick(&mut self, now: Instant) {
        if now >= self.next_keep_alive {
            self.next_keep_alive = now + self.session.keep_alive_interval();
            self.session.keep_alive();
        }
    }
}
