//! Packets that leave together. A data packet stays where the sender holds it, and is neither copied nor shared on its way
//! to the socket; an encrypted one is encrypted into the batch (`Connection::put_data`), whose memory is used again for
//! the next.
//!
//! Encryption cannot be done once for all receivers of a stream. In SRT the caller generates key and salt (section 6.1.2),
//! so that those of each caller of a listener differ. The counter starts with the packet's sequence number (section 6.2.2),
//! which begins at random for each connection, and a counter must never encrypt two texts with one key. What can be shared
//! is the plain payload, which 50 connections hold once; it is encrypted only when it leaves, into memory that is in the
//! cache, and again if it is retransmitted.

use super::{packet::HEADER, send::SendHalf};
use bytes::Bytes;
use std::ops::Range;

/// Packets to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct SendBatch {
    packets: Vec<Outgoing>,
    /// Encrypted payloads, one behind the other.
    pub(super) sealed: Vec<u8>,
}

/// One packet.
#[derive(Debug)]
struct Outgoing {
    header: [u8; HEADER],
    body: Body,
}

/// Place of the bytes behind the header.
#[derive(Debug)]
pub(super) enum Body {
    /// Payload that the sender holds, by its index.
    Held(usize),
    /// Part of [`SendBatch::sealed`].
    Sealed(Range<usize>),
    Repair(Bytes),
    /// The whole of a control packet, with its header.
    Control(Bytes),
}

impl SendBatch {
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.packets.clear();
        self.sealed.clear();
    }

    pub(super) fn push(&mut self, header: [u8; HEADER], body: Body) {
        self.packets.push(Outgoing { header, body });
    }

    /// Returns header and body of each packet; the header is empty for control packets.
    pub(super) fn parts<'a>(&'a self, sender: &'a SendHalf) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.packets.iter().map(|packet| {
            let body = match &packet.body {
                Body::Held(index) => sender.payload(*index).map_or(&[][..], |payload| payload),
                Body::Sealed(range) => self.sealed.get(range.clone()).unwrap_or_default(),
                Body::Repair(bytes) => bytes,
                Body::Control(bytes) => return (&[][..], &bytes[..]),
            };
            (&packet.header[..], body)
        })
    }
}
