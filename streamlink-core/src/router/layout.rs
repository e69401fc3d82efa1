//! How the bytes of a batch lie in memory: as they came, or copied once so that what all outputs name to the kernel is
//! one piece instead of many. It costs less to take in a piece than many, again for each output.

use crate::media::Packet;
use bytes::{Bytes, BytesMut};
use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// From so many outputs on that want a layout, the copy costs less than it saves.
const MANY: usize = 4;

/// What an output wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Packets one behind the other, those of one track together: a run of datagrams.
    Run,
    /// All of a batch as it goes over a connection. All outputs of a flow that want this want the same.
    Stream(Write),
}

/// Writes a packet as it goes over a connection.
pub(crate) type Write = fn(&Packet, &mut BytesMut) -> Written;

/// How a packet was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Its bytes are the last ones, as they are.
    Whole,
    /// Something else is between them.
    InPieces,
    /// It cannot be.
    Not,
}

/// Bytes that are set aside for what is written beside a packet's own; more of it only costs a copy.
const BESIDE: usize = 32;

/// How many outputs want which layout.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    run: AtomicUsize,
    stream: AtomicUsize,
    write: OnceLock<Write>,
}

impl Wishes {
    pub(super) fn add(&self, layout: Layout) {
        if let Layout::Stream(write) = layout {
            self.write.get_or_init(|| write);
        }
        self.of(layout).fetch_add(1, Relaxed);
    }

    pub(super) fn take_back(&self, layout: Layout) {
        self.of(layout).fetch_sub(1, Relaxed);
    }

    fn of(&self, layout: Layout) -> &AtomicUsize {
        match layout {
            Layout::Run => &self.run,
            Layout::Stream(_) => &self.stream,
        }
    }

    /// Lays packets out as most outputs want it; returns all of them as they go over a connection, in one piece.
    pub(super) fn lay_out(&self, packets: &mut [Packet]) -> Option<Bytes> {
        let (run, stream) = (self.run.load(Relaxed), self.stream.load(Relaxed));
        if stream >= MANY && stream >= run {
            return lay_out_stream(packets, *self.write.get()?);
        }
        if run >= MANY {
            lay_out_run(packets);
        }
        None
    }
}

fn lay_out_run(packets: &mut [Packet]) {
    let mut order: Vec<usize> = (0..packets.len()).collect();
    order.sort_by_key(|at| packets[*at].rtsp_track());
    let mut all = BytesMut::with_capacity(packets.iter().map(|packet| packet.data().len()).sum());
    order.iter().for_each(|at| all.extend_from_slice(packets[*at].data()));
    let mut all = all.freeze();
    for at in order {
        packets[at] = packets[at].with_data(all.split_to(packets[at].data().len()));
    }
}

/// Packets whose bytes are whole lie in the piece from then on; of others there are two copies. `None`, and nothing is
/// changed, when there is one that cannot be written.
fn lay_out_stream(packets: &mut [Packet], write: Write) -> Option<Bytes> {
    let mut all = BytesMut::with_capacity(packets.iter().map(|packet| BESIDE + packet.data().len()).sum());
    let mut ends = Vec::with_capacity(packets.len());
    for packet in &*packets {
        let written = write(packet, &mut all);
        if written == Written::Not {
            return None;
        }
        ends.push((all.len(), written));
    }
    let all = all.freeze();
    for (packet, (end, written)) in packets.iter_mut().zip(ends) {
        if written == Written::Whole {
            *packet = packet.with_data(all.slice(end - packet.data().len()..end));
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// With its length before it, and a stroke in the middle if it is long.
    fn write(packet: &Packet, out: &mut BytesMut) -> Written {
        out.extend_from_slice(&[packet.data().len() as u8]);
        match packet.data().split_at_checked(3) {
            Some((head, tail)) if !tail.is_empty() => {
                [head, b"|", tail].into_iter().for_each(|part| out.extend_from_slice(part));
                Written::InPieces
            }
            _ if packet.data().is_empty() => Written::Not,
            _ => {
                out.extend_from_slice(packet.data());
                Written::Whole
            }
        }
    }

    fn packets(datas: &[&'static [u8]]) -> Vec<Packet> {
        let packet = |(at, bytes): (usize, &&'static [u8])| Packet::rtsp(at as u8 % 2, *bytes, Instant::now());
        datas.iter().enumerate().map(packet).collect()
    }

    fn datas(packets: &[Packet]) -> Vec<Bytes> {
        packets.iter().map(|packet| packet.data().clone()).collect()
    }

    #[test]
    fn packets_are_what_they_were_and_lie_as_most_want_it() {
        let wishes = Wishes::default();
        let all = |change: fn(&Wishes, Layout), layout| (0..MANY).for_each(|_| change(&wishes, layout));
        let mut some = packets(&[b"ab", b"cde", b"fg", b"hijk"]);
        let before = datas(&some);
        all(Wishes::add, Layout::Run);
        assert_eq!(wishes.lay_out(&mut some), None);
        assert_eq!(datas(&some), before);
        // The second packet of the first track lies behind the first one.
        assert_eq!(some[0].data().as_ptr_range().end, some[2].data().as_ptr());
        all(Wishes::add, Layout::Stream(write));
        let whole = wishes.lay_out(&mut some).unwrap();
        assert_eq!(datas(&some), before);
        assert_eq!(whole, b"\x02ab\x03cde\x02fg\x04hij|k"[..]);
        // The last one lies elsewhere, as it is in pieces here.
        let inside = |packet: &Packet| whole.as_ptr_range().contains(&packet.data().as_ptr());
        assert_eq!(some.iter().map(inside).collect::<Vec<_>>(), [true, true, true, false]);
        let mut some = packets(&[b"ab", b""]);
        let place = some[0].data().as_ptr();
        assert_eq!(wishes.lay_out(&mut some), None, "the second one cannot be written");
        assert_eq!(some[0].data().as_ptr(), place);
        all(Wishes::take_back, Layout::Stream(write));
        assert_eq!(wishes.lay_out(&mut some), None);
        all(Wishes::take_back, Layout::Run);
        let mut alone = packets(&[b"ab", b"cd", b"ef"]);
        let place = alone[2].data().as_ptr();
        wishes.lay_out(&mut alone);
        assert_eq!(alone[2].data().as_ptr(), place, "nobody wants it");
    }
}
