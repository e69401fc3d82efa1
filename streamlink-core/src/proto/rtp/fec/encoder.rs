//! Encoder: the FEC packets of a stream that is sent.

use super::{Parity, Protected, RTP, write};
use std::collections::VecDeque;

/// Largest step back of a sequence number that is a late packet, and no restart of the stream.
const MAX_MISORDER: u16 = 1000;

/// FEC packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FecPacket {
    /// True for the parity of a row, which has a port of its own.
    pub(crate) is_row: bool,
    pub(crate) bytes: Vec<u8>,
}

/// Encoder of one stream.
///
/// The parity of a row follows its last packet. The parities of the columns follow one by one, spread over the next
/// matrix. A matrix begins anew where the sequence numbers jump; the parity of a column or row with a missing packet is
/// left out, as it would be of no use.
#[derive(Clone, Debug)]
pub(crate) struct FecEncoder {
    columns: u8,
    rows: u8,
    with_rows: bool,
    matrix: Option<Matrix>,
    column_parity: Vec<Sum>,
    row_parity: Vec<Sum>,
    /// FEC packets of the columns of the last matrix.
    pending: VecDeque<(Protected, Parity)>,
    /// Packets since an FEC packet of a column was sent.
    since: u8,
    column_sequence: u16,
    row_sequence: u16,
}

/// The matrix that is being filled.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    ssrc: [u8; 4],
    base: u16,
    /// One bit for each packet that was added.
    seen: u128,
}

/// Parity of a column or a row, and the number of packets in it.
#[derive(Clone, Debug, Default)]
struct Sum {
    parity: Parity,
    count: u8,
}

impl FecEncoder {
    /// Creates an encoder of matrices of `columns` and `rows`, at most 100 packets in all. `first`: random first sequence
    /// numbers of both FEC streams.
    pub(crate) fn new(columns: u8, rows: u8, with_rows: bool, first: [u16; 2]) -> Self {
        let columns = columns.max(1);
        let rows = rows.max(1);
        Self {
            columns,
            rows,
            with_rows,
            matrix: None,
            column_parity: vec![Sum::default(); columns.into()],
            row_parity: vec![Sum::default(); rows.into()],
            pending: VecDeque::new(),
            since: 0,
            column_sequence: first[0],
            row_sequence: first[1],
        }
    }

    /// Takes a packet that is sent, and appends the FEC packets that follow it.
    pub(crate) fn push(&mut self, header: &[u8; RTP], payload: &[u8], out: &mut Vec<FecPacket>) {
        let timestamp = [header[4], header[5], header[6], header[7]];
        let Some(place) = self.place(header, timestamp, out) else { return };
        let Some(matrix) = &mut self.matrix else { return };
        let bit = 1u128.checked_shl(place.into()).unwrap_or(0);
        if matrix.seen & bit != 0 {
            return;
        }
        matrix.seen |= bit;
        let base = matrix.base;
        let column = place % u16::from(self.columns);
        let row = place / u16::from(self.columns);
        if let Some(sum) = self.column_parity.get_mut(usize::from(column)) {
            sum.add(header, payload);
        }
        if self.with_rows
            && let Some(sum) = self.row_parity.get_mut(usize::from(row))
            && sum.add(header, payload) == self.columns
        {
            let base = base.wrapping_add(row * u16::from(self.columns));
            let protected = Protected { base, offset: 1, count: self.columns, is_row: true };
            let bytes = write(protected, &sum.parity, self.row_sequence, timestamp);
            self.row_sequence = self.row_sequence.wrapping_add(1);
            out.push(FecPacket { is_row: true, bytes });
        }
        self.since = self.since.saturating_add(1);
        if self.since >= self.rows {
            self.since = 0;
            self.send_column(timestamp, out);
        }
    }

    /// Returns the place of a packet in the current matrix; `None` if it is late. Begins another matrix where it is due.
    fn place(&mut self, header: &[u8; RTP], timestamp: [u8; 4], out: &mut Vec<FecPacket>) -> Option<u16> {
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let ssrc = [header[8], header[9], header[10], header[11]];
        let size = u16::from(self.columns) * u16::from(self.rows);
        let Some(matrix) = self.matrix.filter(|matrix| matrix.ssrc == ssrc) else {
            self.begin(ssrc, sequence, timestamp, out);
            return Some(0);
        };
        let ahead = sequence.wrapping_sub(matrix.base);
        if ahead < size {
            return Some(ahead);
        }
        if ahead.wrapping_neg() <= MAX_MISORDER {
            return None;
        }
        // The next matrix is aligned with this one, unless the stream has jumped.
        let base = if ahead < 2 * size { matrix.base.wrapping_add(size) } else { sequence };
        self.begin(ssrc, base, timestamp, out);
        Some(sequence.wrapping_sub(base))
    }

    /// Ends the current matrix, whose columns are sent during the next, and begins another.
    fn begin(&mut self, ssrc: [u8; 4], base: u16, timestamp: [u8; 4], out: &mut Vec<FecPacket>) {
        while !self.pending.is_empty() {
            self.send_column(timestamp, out);
        }
        if let Some(before) = self.matrix.take() {
            for (column, sum) in (0u16..).zip(&mut self.column_parity) {
                if sum.count == self.rows {
                    let base = before.base.wrapping_add(column);
                    let protected = Protected { base, offset: self.columns, count: self.rows, is_row: false };
                    self.pending.push_back((protected, std::mem::take(&mut sum.parity)));
                }
            }
        }
        for sum in self.column_parity.iter_mut().chain(&mut self.row_parity) {
            sum.parity.clear();
            sum.count = 0;
        }
        self.since = 0;
        self.matrix = Some(Matrix { ssrc, base, seen: 0 });
    }

    fn send_column(&mut self, timestamp: [u8; 4], out: &mut Vec<FecPacket>) {
        if let Some((protected, parity)) = self.pending.pop_front() {
            let bytes = write(protected, &parity, self.column_sequence, timestamp);
            self.column_sequence = self.column_sequence.wrapping_add(1);
            out.push(FecPacket { is_row: false, bytes });
        }
    }
}

impl Sum {
    /// Adds a packet; returns the number of packets so far. One that is too long leaves the parity incomplete.
    fn add(&mut self, header: &[u8; RTP], payload: &[u8]) -> u8 {
        if self.parity.add(header, payload) {
            self.count = self.count.saturating_add(1);
        }
        self.count
    }
}
