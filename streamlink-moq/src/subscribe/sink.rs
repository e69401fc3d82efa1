//! Passes merged media to the app source.

use crate::wire::{Headers, Kind, MediaPacket};
use std::time::Instant;
use streamlink_core::{AppSource, Packet, PushError};

/// The end of the merge: counts packets, leaves out headers that the source has, and keeps its SDP.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) refusals: u64,
    headers: Headers,
    sdp: Option<String>,
    is_sdp_set: bool,
    ready: Vec<Packet>,
}

impl Sink {
    /// Sets the SDP for sources of family RTSP.
    pub(crate) fn set_sdp(&mut self, sdp: &str) {
        if self.sdp.as_deref() != Some(sdp) {
            self.sdp = Some(sdp.to_owned());
            self.is_sdp_set = false;
        }
    }

    /// Passes packets on. `false` when the source takes no more.
    pub(crate) fn push(&mut self, source: Option<&AppSource>, packets: Vec<MediaPacket>, now: Instant) -> bool {
        let Some(source) = source else { return true };
        if let Some(sdp) = self.sdp.as_ref().filter(|_| !self.is_sdp_set) {
            self.is_sdp_set = true;
            if source.set_sdp(sdp).is_err() {
                self.refusals += 1;
            }
        }
        if packets.is_empty() {
            return true;
        }
        for packet in packets {
            let is_repeated = packet.is_repeated;
            let is_message = matches!(packet.kind, Kind::Rtmp(..));
            let packet = packet.into_packet(now);
            if is_repeated && self.headers.contains(&packet) {
                continue;
            }
            if is_message {
                self.headers.observe(&packet);
            }
            self.packets += 1;
            self.bytes += u64::try_from(packet.data().len()).unwrap_or_default();
            self.ready.push(packet);
        }
        match source.push_all(self.ready.drain(..)) {
            Ok(()) => true,
            Err(PushError::Closed) => false,
            Err(_) => {
                self.refusals += 1;
                true
            }
        }
    }
}
