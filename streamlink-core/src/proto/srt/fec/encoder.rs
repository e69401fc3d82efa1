//! Encoder of the packet filter: makes the repair packets of a sender.

use super::{
    super::{
        packet::{DataHeader, HEADER, filter_header},
        sequence::Sequence,
    },
    Clip, FEC_HEADER, Place, ROW,
};
use crate::packet_filter::FilterMatrix;
use bytes::Bytes;
use std::collections::VecDeque;

/// Group of packets for which a repair packet is being built.
#[derive(Debug, Default)]
struct Group {
    series: u64,
    count: u8,
    clip: Clip,
}

impl Group {
    /// Adds a packet. Returns whether the group is complete.
    fn add(&mut self, place: Place, size: u8, header: &DataHeader, payload: &[u8]) -> bool {
        if self.series != place.series || place.position == 0 {
            self.series = place.series;
            self.count = 0;
            self.clip.clear();
        }
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX); // a packet has at most 1456 bytes
        self.clip.add(header.key.bits(), length, header.timestamp, payload);
        self.count = self.count.saturating_add(1);
        self.count == size
    }
}

/// Encoder of one connection.
#[derive(Debug)]
pub(in super::super) struct FecEncoder {
    matrix: FilterMatrix,
    /// Sequence number of the next packet, and its number from the start.
    next: Sequence,
    number: u64,
    row: Group,
    columns: Vec<Group>,
    /// Repair packets that wait to be sent, at most two for each packet that was sent.
    ready: VecDeque<([u8; HEADER], Bytes)>,
}

impl FecEncoder {
    pub(in super::super) fn new(matrix: FilterMatrix, first: Sequence) -> Self {
        let columns = if matrix.has_columns() { matrix.columns.into() } else { 0 };
        Self {
            matrix,
            next: first,
            number: 0,
            row: Group::default(),
            columns: std::iter::repeat_with(Group::default).take(columns).collect(),
            ready: VecDeque::new(),
        }
    }

    /// Returns the bytes of repair packets for a million bytes of media.
    pub(in super::super) fn share(&self) -> u64 {
        self.matrix.share()
    }

    /// Adds a packet that is sent for the first time. Groups in which the sender has left out packets get no repair
    /// packet.
    pub(in super::super) fn add(&mut self, header: &DataHeader, payload: &[u8]) {
        let Ok(skipped) = u64::try_from(self.next.distance(header.sequence)) else { return };
        let number = self.number + skipped;
        self.number = number + 1;
        self.next = header.sequence.after(1);
        let FilterMatrix { columns, rows, .. } = self.matrix;
        let column = self.matrix.column(number);
        if let Some(place) = self.matrix.in_column(number)
            && let Some(group) = self.columns.get_mut(usize::from(column))
            && group.add(place, rows, header, payload)
        {
            self.ready.push_back(repair(&group.clip, column, header));
        }
        if self.matrix.repairs_rows && self.row.add(self.matrix.in_row(number), columns, header, payload) {
            self.ready.push_back(repair(&self.row.clip, ROW, header));
        }
    }

    /// Returns the next repair packet, which is to be sent before the next packet of media.
    pub(in super::super) fn peek(&self) -> Option<&([u8; HEADER], Bytes)> {
        self.ready.front()
    }

    pub(in super::super) fn pop(&mut self) -> Option<([u8; HEADER], Bytes)> {
        self.ready.pop_front()
    }
}

/// Returns the repair packet of a group, of which `last` is the last packet.
fn repair(clip: &Clip, index: u8, last: &DataHeader) -> ([u8; HEADER], Bytes) {
    let mut body = Vec::with_capacity(FEC_HEADER + clip.payload.len());
    body.extend([index, clip.flags]);
    body.extend(clip.length.to_be_bytes());
    body.extend(&clip.payload);
    (filter_header(last.sequence, last.key, clip.timestamp, last.destination), body.into())
}
