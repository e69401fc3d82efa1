//! How the bytes of a batch lie in memory: as they came, or copied once so that what all outputs name to the kernel is
//! one piece instead of many. It costs less to take in a piece than many, again for each output.

use crate::media::{Packet, rtsp::frame_header};
use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// From so many outputs on that want a layout, the copy costs less than it saves.
const MANY: usize = 4;

/// What an output wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Packets one behind the other, those of one track together: a run of datagrams.
    Run,
    /// Packets of RTSP as interleaved frames on the usual channels.
    Frames,
}

/// How many outputs want which layout.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    run: AtomicUsize,
    frames: AtomicUsize,
}

impl Wishes {
    pub(super) fn add(&self, layout: Layout) {
        self.of(layout).fetch_add(1, Relaxed);
    }

    pub(super) fn take_back(&self, layout: Layout) {
        self.of(layout).fetch_sub(1, Relaxed);
    }

    fn of(&self, layout: Layout) -> &AtomicUsize {
        match layout {
            Layout::Run => &self.run,
            Layout::Frames => &self.frames,
        }
    }

    /// Lays packets out as most outputs want it; returns all of them in one piece, as frames.
    pub(super) fn lay_out(&self, packets: &mut [Packet]) -> Option<Bytes> {
        let (run, frames) = (self.run.load(Relaxed), self.frames.load(Relaxed));
        if frames >= MANY && frames >= run {
            return lay_out_frames(packets);
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

/// `None`, and nothing is changed, when there is a packet that no frame can hold.
fn lay_out_frames(packets: &mut [Packet]) -> Option<Bytes> {
    let mut all = BytesMut::with_capacity(packets.iter().map(|packet| 4 + packet.data().len()).sum());
    for packet in &*packets {
        all.extend_from_slice(&frame_header(packet)?);
        all.extend_from_slice(packet.data());
    }
    let all = all.freeze();
    let mut at = 0;
    for packet in packets {
        let (from, to) = (at + 4, at + 4 + packet.data().len());
        *packet = packet.with_data(all.slice(from..to));
        at = to;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn packets() -> Vec<Packet> {
        let packet = |track, bytes: &'static [u8]| Packet::rtsp(track, Bytes::from_static(bytes), Instant::now());
        vec![packet(0, &[0x80, 96, 1]), packet(1, &[0x80, 97, 2, 3]), packet(0, &[0x80, 200, 4])]
    }

    #[test]
    fn packets_are_what_they_were_and_lie_as_most_want_it() {
        let wishes = Wishes::default();
        let all = |change: fn(&Wishes, Layout), layout| (0..MANY).for_each(|_| change(&wishes, layout));
        let datas = |packets: &[Packet]| packets.iter().map(|packet| packet.data().clone()).collect::<Vec<_>>();
        let (before, mut some) = (datas(&packets()), packets());
        all(Wishes::add, Layout::Run);
        assert_eq!(wishes.lay_out(&mut some), None);
        assert_eq!(datas(&some), before);
        // The second packet of the first track lies behind the first one.
        assert_eq!(some[0].data().as_ptr_range().end, some[2].data().as_ptr());
        all(Wishes::add, Layout::Frames);
        let whole = wishes.lay_out(&mut some).unwrap();
        assert_eq!(datas(&some), before);
        let wanted =
            [&[b'$', 0, 0, 3, 0x80, 96, 1][..], &[b'$', 2, 0, 4, 0x80, 97, 2, 3], &[b'$', 1, 0, 3, 0x80, 200, 4]];
        assert_eq!(whole, wanted.concat());
        all(Wishes::take_back, Layout::Frames);
        assert_eq!(wishes.lay_out(&mut some), None);
        all(Wishes::take_back, Layout::Run);
        let mut alone = packets();
        let place = alone[0].data().as_ptr();
        wishes.lay_out(&mut alone);
        assert_eq!(alone[0].data().as_ptr(), place, "nobody wants it");
    }
}
