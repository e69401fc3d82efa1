//! Memory layout of a batch: as it came, or copied once so that each output passes one slice to the kernel instead of
//! many. The copy is paid once, the gathering of many slices once for each output.

use crate::media::Packet;
use bytes::{Bytes, BytesMut};
use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Number of outputs interested in a layout from which on the copy costs less than it saves.
const MIN_INTERESTED_OUTPUTS: usize = 4;

/// The memory layout that an output can use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BatchLayout {
    /// Packets as they came. The output sends them one by one, but is woken less often by those that are published together.
    Separate,
    /// Packets one behind the other, those of one track together: a run of datagrams.
    Contiguous,
    /// All of a batch as it goes over a connection. All outputs of a flow with this interest use the same framing.
    Framed(Write),
}

/// Writes a packet as it goes over a connection.
pub(crate) type Write = fn(&Packet, &mut BytesMut) -> WriteOutcome;

/// The result of writing a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// The packet's bytes are the last ones written, unchanged.
    Whole,
    /// Headers stand between the packet's bytes.
    InPieces,
    /// The packet cannot be written.
    Unsupported,
}

/// Bytes reserved for the framing of a packet; more of it only costs a reallocation.
const FRAMING_RESERVE: usize = 32;

/// Number of outputs interested in each layout.
#[derive(Debug, Default)]
pub(super) struct LayoutInterests {
    separate: AtomicUsize,
    contiguous: AtomicUsize,
    framed: AtomicUsize,
    write: OnceLock<Write>,
}

impl LayoutInterests {
    pub(super) fn add(&self, layout: BatchLayout) {
        if let BatchLayout::Framed(write) = layout {
            self.write.get_or_init(|| write);
        }
        self.of(layout).fetch_add(1, Relaxed);
    }

    pub(super) fn remove(&self, layout: BatchLayout) {
        self.of(layout).fetch_sub(1, Relaxed);
    }

    /// Returns the number of outputs with an interest in batches.
    pub(super) fn outputs(&self) -> usize {
        self.separate.load(Relaxed) + self.contiguous.load(Relaxed) + self.framed.load(Relaxed)
    }

    fn of(&self, layout: BatchLayout) -> &AtomicUsize {
        match layout {
            BatchLayout::Separate => &self.separate,
            BatchLayout::Contiguous => &self.contiguous,
            BatchLayout::Framed(_) => &self.framed,
        }
    }

    /// Lays out packets for the majority of the outputs; returns the framed bytes of all of them, if that is the
    /// layout.
    pub(super) fn lay_out(&self, packets: &mut [Packet]) -> Option<Bytes> {
        let contiguous = self.contiguous.load(Relaxed);
        let framed = self.framed.load(Relaxed);
        if framed >= MIN_INTERESTED_OUTPUTS && framed >= contiguous {
            return lay_out_framed(packets, *self.write.get()?);
        }
        if contiguous >= MIN_INTERESTED_OUTPUTS {
            lay_out_contiguous(packets);
        }
        None
    }
}

fn lay_out_contiguous(packets: &mut [Packet]) {
    let mut order: Vec<usize> = (0..packets.len()).collect();
    order.sort_by_key(|at| packets[*at].rtsp_track());
    let mut all = BytesMut::with_capacity(packets.iter().map(|packet| packet.data().len()).sum());
    for at in &order {
        all.extend_from_slice(packets[*at].data());
    }
    let mut all = all.freeze();
    for at in order {
        packets[at] = packets[at].with_data(all.split_to(packets[at].data().len()));
    }
}

/// Writes all packets framed. Packets whose bytes are whole then share this memory; of others there are two copies.
/// Returns `None`, and changes nothing, when a packet cannot be written.
fn lay_out_framed(packets: &mut [Packet], write: Write) -> Option<Bytes> {
    let mut all = BytesMut::with_capacity(packets.iter().map(|packet| FRAMING_RESERVE + packet.data().len()).sum());
    let mut ends = Vec::with_capacity(packets.len());
    for packet in &*packets {
        let written = write(packet, &mut all);
        if written == WriteOutcome::Unsupported {
            return None;
        }
        ends.push((all.len(), written));
    }
    let all = all.freeze();
    for (packet, (end, written)) in packets.iter_mut().zip(ends) {
        if written == WriteOutcome::Whole {
            *packet = packet.with_data(all.slice(end - packet.data().len()..end));
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Writes a length and the packet, with a stroke in the middle of long ones.
    fn write(packet: &Packet, out: &mut BytesMut) -> WriteOutcome {
        out.extend_from_slice(&[packet.data().len() as u8]);
        match packet.data().split_at_checked(3) {
            Some((head, tail)) if !tail.is_empty() => {
                for part in [head, b"|", tail] {
                    out.extend_from_slice(part);
                }
                WriteOutcome::InPieces
            }
            _ if packet.data().is_empty() => WriteOutcome::Unsupported,
            _ => {
                out.extend_from_slice(packet.data());
                WriteOutcome::Whole
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
    fn layout_follows_majority_and_keeps_packets() {
        let interests = LayoutInterests::default();
        let all = |change: fn(&LayoutInterests, BatchLayout), layout| {
            for _ in 0..MIN_INTERESTED_OUTPUTS {
                change(&interests, layout);
            }
        };
        let mut some = packets(&[b"ab", b"cde", b"fg", b"hijk"]);
        let before = datas(&some);
        all(LayoutInterests::add, BatchLayout::Contiguous);
        assert_eq!(interests.lay_out(&mut some), None);
        assert_eq!(datas(&some), before);
        // The second packet of the first track lies behind the first one.
        assert_eq!(some[0].data().as_ptr_range().end, some[2].data().as_ptr());
        all(LayoutInterests::add, BatchLayout::Framed(write));
        let whole = interests.lay_out(&mut some).unwrap();
        assert_eq!(datas(&some), before);
        assert_eq!(whole, b"\x02ab\x03cde\x02fg\x04hij|k"[..]);
        // The last one lies elsewhere, as it is written in pieces.
        let inside = |packet: &Packet| whole.as_ptr_range().contains(&packet.data().as_ptr());
        assert_eq!(some.iter().map(inside).collect::<Vec<_>>(), [true, true, true, false]);
        let mut some = packets(&[b"ab", b""]);
        let place = some[0].data().as_ptr();
        assert_eq!(interests.lay_out(&mut some), None, "the second one cannot be written");
        assert_eq!(some[0].data().as_ptr(), place);
        all(LayoutInterests::remove, BatchLayout::Framed(write));
        assert_eq!(interests.lay_out(&mut some), None);
        all(LayoutInterests::remove, BatchLayout::Contiguous);
        let mut alone = packets(&[b"ab", b"cd", b"ef"]);
        let place = alone[2].data().as_ptr();
        interests.lay_out(&mut alone);
        assert_eq!(alone[2].data().as_ptr(), place, "nobody wants it");
    }
}
