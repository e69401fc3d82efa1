//! Decoder of the packet filter: rebuilds lost packets of a receiver.

use super::{
    super::{
        packet::{DataHeader, HEADER, KeyFlag, MAX_MESSAGE, MAX_PAYLOAD},
        sequence::Sequence,
    },
    Clip, FEC_HEADER, Place, ROW,
};
use crate::packet_filter::FilterMatrix;
use bytes::Bytes;

/// Number of groups of one column that are kept: one in progress, the one before, and one that has begun too early.
const SERIES: u64 = 3;

/// Maximum number of times that the matrix is shifted: repair packets of rows tell the row, and those of columns the rest.
/// Some may be lost, or out of order.
const MAX_SHIFTS: u8 = 4;

/// Packet that was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Rebuilt {
    pub(in super::super) header: DataHeader,
    /// Header as the lost packet had it, which authenticates it.
    pub(in super::super) raw: [u8; HEADER],
    pub(in super::super) payload: Bytes,
}

/// Group of packets, as far as they have arrived.
#[derive(Debug, Default)]
struct Group {
    /// Number of the group, counted from 1; 0 for none.
    number: u64,
    /// Bit for each packet that has arrived or was rebuilt.
    arrived: [u64; 4],
    count: u8,
    /// Set when the repair packet has arrived.
    has_repair: bool,
    /// Set when the group is complete, or cannot be repaired.
    is_done: bool,
    clip: Clip,
}

impl Group {
    /// Prepares the group for one of this series. Returns `false` if a later one has taken its place.
    fn renew(&mut self, series: u64) -> bool {
        let number = series + 1;
        if number > self.number {
            self.number = number;
            self.arrived = [0; 4];
            self.count = 0;
            self.has_repair = false;
            self.is_done = false;
            self.clip.clear();
        }
        number == self.number
    }

    fn has(&self, position: u8) -> bool {
        self.arrived.get(usize::from(position / 64)).is_some_and(|bits| bits >> (position % 64) & 1 == 1)
    }

    fn add(&mut self, position: u8, part: &Part) {
        if self.has(position) {
            return;
        }
        if let Some(bits) = self.arrived.get_mut(usize::from(position / 64)) {
            *bits |= 1 << (position % 64);
        }
        self.count = self.count.saturating_add(1);
        if !self.is_done {
            let length = u16::try_from(part.payload.len()).unwrap_or(u16::MAX); // at most 1456 bytes
            self.clip.add(part.key.bits(), length, part.timestamp, &part.payload);
        }
    }

    /// Returns the position and the contents of the only missing packet, if the repair packet is there. `Some(Err)`: the
    /// repair packet contradicts the others.
    fn rebuild(&mut self, size: u8) -> Option<Result<(u8, Part), ()>> {
        if self.is_done || !self.has_repair || self.count.checked_add(1) != Some(size) {
            return None;
        }
        self.is_done = true;
        let position = (0..size).find(|position| !self.has(*position))?;
        let length = usize::from(self.clip.length);
        let key = KeyFlag::from_bits(self.clip.flags);
        // What lies behind the length is not always zero in libsrt's packets.
        let (Some(key), Some(payload)) = (key, self.clip.payload.get(..length)) else { return Some(Err(())) };
        if payload.is_empty() || length > MAX_PAYLOAD {
            return Some(Err(()));
        }
        let payload = Bytes::copy_from_slice(payload);
        Some(Ok((position, Part { key, timestamp: self.clip.timestamp, payload })))
    }
}

/// Fields of a packet from which repair packets are built.
#[derive(Clone, Debug)]
struct Part {
    key: KeyFlag,
    timestamp: u32,
    payload: Bytes,
}

/// Last packet of media that has arrived, from which the headers of rebuilt packets follow.
#[derive(Clone, Copy, Debug)]
struct Model {
    number: u64,
    message: u32,
    destination: u32,
    in_order: bool,
}

/// Decoder of one connection.
#[derive(Debug)]
pub(in super::super) struct FecDecoder {
    matrix: FilterMatrix,
    /// Sequence number of the newest packet, and its number from the start.
    newest: Sequence,
    number: u64,
    rows: Vec<Group>,
    columns: Vec<Group>,
    model: Option<Model>,
    work: Vec<(u64, Part)>,
    /// Number of times that the matrix may be shifted still. 0 once a repair packet has fitted, and without a group.
    shifts: u8,
}

impl FecDecoder {
    pub(in super::super) fn new(matrix: FilterMatrix, first: Sequence) -> Self {
        let groups = |count: u64| std::iter::repeat_with(Group::default).take(count as usize).collect();
        // A row is needed while a packet of it can be repaired.
        let rows = if matrix.repairs_rows { matrix.span() / matrix.width() + 3 } else { 0 };
        let columns = if matrix.has_columns() { matrix.width() * SERIES } else { 0 };
        Self {
            matrix,
            newest: first,
            number: 0,
            rows: groups(rows),
            columns: groups(columns),
            model: None,
            work: Vec::new(),
            shifts: 0,
        }
    }

    /// Lets the matrix of a member of a group begin where its first repair packets say.
    pub(in super::super) fn find_matrix(&mut self) {
        self.shifts = MAX_SHIFTS;
    }

    /// Returns the number of a packet, counted from the start of the connection. `None`: it lies before that.
    fn number(&mut self, sequence: Sequence) -> Option<u64> {
        let number = self.number.checked_add_signed(self.newest.distance(sequence).into())?;
        if number > self.number {
            self.number = number;
            self.newest = sequence;
        }
        Some(number)
    }

    /// Returns the first packet that can still be repaired. `None`: all of them can.
    pub(in super::super) fn horizon(&self) -> Option<Sequence> {
        let horizon = self.matrix.horizon(self.number);
        let back = u32::try_from(self.number - horizon).ok()?; // the span is at most some thousands
        (horizon > 0).then(|| self.newest.before(back))
    }

    fn row(&mut self, series: u64) -> Option<&mut Group> {
        let count = self.rows.len() as u64;
        let at = series.checked_rem(count)?;
        self.rows.get_mut(at as usize).and_then(|group| group.renew(series).then_some(group))
    }

    fn column(&mut self, column: u8, series: u64) -> Option<&mut Group> {
        let at = u64::from(column) * SERIES + series % SERIES;
        self.columns.get_mut(at as usize).and_then(|group| group.renew(series).then_some(group))
    }

    /// Adds a packet of media, as it arrived. Packets that it makes it possible to rebuild are appended to `rebuilt`.
    /// Returns the number of repair packets that proved to be wrong.
    pub(in super::super) fn add(
        &mut self,
        header: &DataHeader,
        in_order: bool,
        payload: &Bytes,
        rebuilt: &mut Vec<Rebuilt>,
    ) -> u64 {
        let Some(number) = self.number(header.sequence) else { return 0 };
        let message = header.message;
        let destination = header.destination;
        self.model = Some(Model { number, message, destination, in_order });
        let part = Part { key: header.key, timestamp: header.timestamp, payload: payload.clone() };
        self.work.push((number, part));
        self.run(rebuilt)
    }

    /// Adds a repair packet. Packets that it makes it possible to rebuild are appended to `rebuilt`. Returns the number of
    /// repair packets that proved to be wrong.
    pub(in super::super) fn add_repair(
        &mut self,
        header: &DataHeader,
        payload: &[u8],
        rebuilt: &mut Vec<Rebuilt>,
    ) -> u64 {
        let Some((&[index, flags, high, low], payload)) = payload.split_first_chunk::<FEC_HEADER>() else { return 1 };
        let Some(number) = self.number(header.sequence) else { return 1 };
        let number = number + self.shift(index, number);
        let matrix = self.matrix;
        // A repair packet has the number of the last packet of its group.
        let group = if index == ROW && matrix.repairs_rows {
            let Place { series, position } = matrix.in_row(number);
            let is_last = position + 1 == matrix.columns;
            is_last.then(|| self.row(series)).map(|group| (group, matrix.columns, None, series))
        } else {
            let place = matrix.in_column(number).filter(|_| index == matrix.column(number));
            let last = place.filter(|place| place.position + 1 == matrix.rows);
            last.map(|place| (self.column(index, place.series), matrix.rows, Some(index), place.series))
        };
        let Some((group, size, column, series)) = group else { return 1 };
        let Some(group) = group.filter(|group| !group.has_repair) else { return 0 };
        group.has_repair = true;
        group.clip.add(flags, u16::from_be_bytes([high, low]), header.timestamp, payload);
        match group.rebuild(size) {
            None => 0,
            Some(Err(())) => 1,
            Some(Ok((position, part))) => {
                let number = self.number_of(column, series, position);
                self.finish(number, part, rebuilt) + self.run(rebuilt)
            }
        }
    }

    /// Shifts the matrix, if a repair packet that is the last of its group says that it begins elsewhere than with the first
    /// packet, as it does in libsrt for members that join a group that sends. Returns the number of packets by which all
    /// numbers have gone up.
    fn shift(&mut self, index: u8, number: u64) -> u64 {
        let matrix = self.matrix;
        let width = matrix.width();
        let is_row = index == ROW && matrix.repairs_rows;
        if self.shifts == 0 || !(is_row || u64::from(index) < width && matrix.has_columns()) {
            return 0;
        }
        // The number of the last packet of a group, which repeats itself after each matrix, or each row.
        let (last, period) = if is_row {
            (width - 1, width)
        } else {
            (matrix.start_of_column(index) + (u64::from(matrix.rows) - 1) * width, width * u64::from(matrix.rows))
        };
        let shift = (last % period + period - number % period) % period;
        if shift == 0 {
            // A row says nothing about the place of the columns.
            self.shifts = if is_row && matrix.has_columns() { self.shifts } else { 0 };
            return 0;
        }
        self.shifts -= 1;
        self.number += shift;
        if let Some(model) = &mut self.model {
            model.number += shift;
        }
        for group in self.rows.iter_mut().chain(&mut self.columns) {
            *group = Group::default();
        }
        shift
    }

    /// Returns the number of a packet by its place in a row, or in a column.
    fn number_of(&self, column: Option<u8>, series: u64, position: u8) -> u64 {
        let matrix = &self.matrix;
        match column {
            None => series * matrix.width() + u64::from(position),
            Some(column) => {
                let down = series * u64::from(matrix.rows) + u64::from(position);
                matrix.start_of_column(column) + down * matrix.width()
            }
        }
    }

    /// Adds packets to their groups until nothing more can be rebuilt. Each rebuilt packet is a new one of its groups, so
    /// that the work is bounded by the packets of the groups.
    fn run(&mut self, rebuilt: &mut Vec<Rebuilt>) -> u64 {
        let mut wrong = 0;
        while let Some((number, part)) = self.work.pop() {
            let matrix = self.matrix;
            let in_row = matrix.in_row(number);
            let mut found = Vec::new();
            if let Some(group) = self.row(in_row.series) {
                group.add(in_row.position, &part);
                found.extend(group.rebuild(matrix.columns).map(|result| (None, in_row.series, result)));
            }
            let column = matrix.column(number);
            if let Some(place) = matrix.in_column(number)
                && let Some(group) = self.column(column, place.series)
            {
                group.add(place.position, &part);
                found.extend(group.rebuild(matrix.rows).map(|result| (Some(column), place.series, result)));
            }
            for (column, series, result) in found {
                match result {
                    Err(()) => wrong += 1,
                    Ok((position, part)) => {
                        let number = self.number_of(column, series, position);
                        wrong += self.finish(number, part, rebuilt);
                    }
                }
            }
        }
        wrong
    }

    /// Hands a rebuilt packet on, and adds it to its groups.
    fn finish(&mut self, number: u64, part: Part, rebuilt: &mut Vec<Rebuilt>) -> u64 {
        let Some(model) = self.model else { return 0 };
        let Some(back) = self.number.checked_sub(number).and_then(|back| u32::try_from(back).ok()) else { return 1 };
        // In live mode each packet is a message of its own, so that their numbers go up together. They start at 1.
        let ahead = i128::from(number) - i128::from(model.number);
        let message = (i128::from(model.message) - 1 + ahead).rem_euclid(i128::from(MAX_MESSAGE)) as u32 + 1;
        let header = DataHeader {
            sequence: self.newest.before(back),
            key: part.key,
            retransmitted: false,
            message,
            timestamp: part.timestamp,
            destination: model.destination,
        };
        let mut raw = header.to_bytes();
        if !model.in_order {
            raw[4] &= !0x20;
        }
        rebuilt.push(Rebuilt { header, raw, payload: part.payload.clone() });
        self.work.push((number, part));
        0
    }
}
