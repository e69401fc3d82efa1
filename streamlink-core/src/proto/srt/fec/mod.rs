//! Packet filter FEC of libsrt (`packet-filtering-and-fec.md`; after SMPTE ST 2022-1): repair packets are the exclusive
//! or of the packets of a row or a column. They are built from packets as they are sent, so that encrypted packets stay
//! encrypted.
//!
//! Packets are counted from the first one of a connection, without a wrap. Memory: one buffer for each row and column of
//! some three matrices, which has at most [`crate::packet_filter::PacketFilter::MAX_PACKETS`] packets.

mod decoder;
mod encoder;
#[cfg(test)]
mod tests;

pub(super) use decoder::{FecDecoder, Rebuilt};
pub(super) use encoder::FecEncoder;

use crate::packet_filter::{FilterLayout, FilterMatrix};

/// Length of the fields before the payload of a repair packet, in bytes: index, flags, length.
pub(super) const FEC_HEADER: usize = 4;
/// Index of a repair packet of a row. Those of columns have the number of the column.
const ROW: u8 = 0xff;

/// Place of a packet in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Number of the group among those of its row or column number, counted from the start.
    series: u64,
    /// Position in the group.
    position: u8,
}

impl FilterMatrix {
    fn width(&self) -> u64 {
        self.columns.into()
    }

    fn has_columns(&self) -> bool {
        self.rows > 1
    }

    /// Returns the number of the column of a packet.
    fn column(&self, packet: u64) -> u8 {
        (packet % self.width()) as u8 // below the number of columns
    }

    /// Returns the place of a packet in its row.
    fn in_row(&self, packet: u64) -> Place {
        Place { series: packet / self.width(), position: self.column(packet) }
    }

    /// Returns the number of the first packet of a column.
    fn start_of_column(&self, column: u8) -> u64 {
        let down = match self.layout {
            FilterLayout::Even => 0,
            FilterLayout::Staircase => u64::from(column % self.rows),
        };
        u64::from(column) + down * self.width()
    }

    /// Returns the place of a packet in its column. The first packets of a staircase are in no column.
    fn in_column(&self, packet: u64) -> Option<Place> {
        if !self.has_columns() {
            return None;
        }
        let down = packet.checked_sub(self.start_of_column(self.column(packet)))? / self.width();
        let rows = u64::from(self.rows);
        Some(Place { series: down / rows, position: (down % rows) as u8 })
    }

    /// Returns the number of packets by which a packet lies before the newest one when it can no longer be repaired.
    fn span(&self) -> u64 {
        let matrix = if self.has_columns() { self.width() * u64::from(self.rows) } else { 0 };
        // Some packets more, as the network may change their order.
        matrix + self.width() / 3
    }

    /// Returns the number of the first packet that can still be repaired when this one is the newest.
    fn horizon(&self, newest: u64) -> u64 {
        let end = newest.saturating_sub(self.span());
        if self.has_columns() { end } else { end - end % self.width() }
    }

    /// Returns the bytes of repair packets for a million bytes of media.
    pub(super) fn share(&self) -> u64 {
        let rows = if self.repairs_rows { 1_000_000 / self.width() } else { 0 };
        let columns = if self.has_columns() { 1_000_000 / u64::from(self.rows) } else { 0 };
        rows + columns
    }
}

/// Exclusive or of packets: fields of their headers, and their payloads, of which shorter ones are filled up with zeros.
#[derive(Debug, Default)]
struct Clip {
    flags: u8,
    length: u16,
    timestamp: u32,
    payload: Vec<u8>,
}

impl Clip {
    fn clear(&mut self) {
        self.flags = 0;
        self.length = 0;
        self.timestamp = 0;
        self.payload.clear();
    }

    fn add(&mut self, flags: u8, length: u16, timestamp: u32, payload: &[u8]) {
        self.flags ^= flags;
        self.length ^= length;
        self.timestamp ^= timestamp;
        if self.payload.len() < payload.len() {
            self.payload.resize(payload.len(), 0);
        }
        for (byte, other) in self.payload.iter_mut().zip(payload) {
            *byte ^= other;
        }
    }
}
