//! Beginnings of groups: at random access points, or else every 500 ms; those of RTP at each 64th sequence number.

use super::{headers, number::RtpNumbers, ts};
use crate::transport::{MAX_GROUP, MAX_GROUP_OBJECTS};
use streamlink_core::{MediaFamily, Packet};

/// Length of a group without random access points, in microseconds.
const PLAIN: u64 = 500_000;
/// Maximum length of a group (draft-gregoire-moq-msfts, Group Boundaries), in microseconds.
const LONGEST: u64 = 2_000_000;
/// Maximum size of a group, in bytes.
const MAX_BYTES: usize = 8 << 20;

/// Fate of the group when a packet is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The packet goes on with the present group.
    Continue,
    /// The packet begins the group of this number.
    Begin(u64),
}

/// Decides where groups begin, and numbers them.
#[derive(Debug)]
pub(crate) struct Cutter {
    rtp: Option<RtpNumbers>,
    /// Number of the present group, its beginning, its objects and bytes.
    present: Option<(u64, u64)>,
    objects: usize,
    bytes: usize,
    /// Number of the first group.
    first: u64,
    /// Time of the last random access point.
    last_point: Option<u64>,
}

impl Cutter {
    /// Makes a cutter for a family. The first group of other families than RTP is numbered by the wall clock in
    /// milliseconds, so that a publisher that begins again goes on: no flow has a thousand groups a second.
    pub(crate) fn new(family: MediaFamily, unix_micros: u64) -> Self {
        let rtp = (family == MediaFamily::Rtp).then(RtpNumbers::default);
        let first = (unix_micros / 1000).min(MAX_GROUP);
        Self { rtp, present: None, objects: 0, bytes: 0, first, last_point: None }
    }

    /// Returns the sequence number of the RTP packet before the next one.
    pub(crate) fn last_sequence(&self) -> Option<u16> {
        self.rtp.as_ref().and_then(RtpNumbers::last)
    }

    /// Notes that an object was published.
    pub(crate) fn published(&mut self, bytes: usize) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Decides about a packet, with its time in microseconds. `is_entry_point`: whether the flow knows that receivers can
    /// begin with it.
    pub(crate) fn next(&mut self, packet: &Packet, time: u64, is_entry_point: bool) -> Cut {
        if let Some(rtp) = &mut self.rtp {
            return match rtp.next(packet.data(), time) {
                Some(number) => self.begin(number, time),
                None if self.present.is_none() => self.begin(self.first, time),
                None => Cut::Continue,
            };
        }
        let is_point = match packet.family() {
            MediaFamily::Datagrams => ts::has_random_access_point(packet.data()),
            MediaFamily::Rtmp => is_entry_point || headers::begins_key_frame(packet),
            _ => is_entry_point,
        };
        let Some((number, began)) = self.present else {
            self.last_point = is_point.then_some(time);
            return self.begin(self.first, time);
        };
        let age = time.saturating_sub(began);
        let has_points = is_point || self.last_point.is_some_and(|last| time.saturating_sub(last) <= LONGEST);
        let is_due = age >= if has_points { LONGEST } else { PLAIN };
        let is_full = self.objects >= MAX_GROUP_OBJECTS || self.bytes >= MAX_BYTES;
        if is_point {
            self.last_point = Some(time);
        }
        if (is_point && self.objects > 0) || is_due || is_full {
            return self.begin((number + 1).min(MAX_GROUP), time);
        }
        Cut::Continue
    }

    fn begin(&mut self, number: u64, time: u64) -> Cut {
        self.present = Some((number, time));
        self.objects = 0;
        self.bytes = 0;
        Cut::Begin(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use streamlink_core::RtmpKind;

    fn cuts(cutter: &mut Cutter, packets: impl Iterator<Item = (Packet, u64)>) -> Vec<u64> {
        packets
            .filter_map(|(packet, time)| {
                let cut = cutter.next(&packet, time, false);
                cutter.published(packet.data().len());
                matches!(cut, Cut::Begin(_)).then_some(time / 1000)
            })
            .collect()
    }

    #[test]
    fn groups_without_random_access_points_last_500_ms() {
        let mut cutter = Cutter::new(MediaFamily::Datagrams, 77_000);
        let packet = |i: u64| (Packet::datagram(vec![5; 100], Instant::now()), 10_000 * i);
        assert_eq!(cuts(&mut cutter, (0..200).map(packet)), [0, 500, 1000, 1500]);
        assert_eq!(cutter.present.unwrap().0, 80);
    }

    #[test]
    fn groups_begin_at_random_access_points_and_last_2_s() {
        let mut cutter = Cutter::new(MediaFamily::Rtmp, 0);
        let key = |i: u64| if i.is_multiple_of(100) { 0x17 } else { 0x27 };
        let packet = |i: u64| (Packet::rtmp(RtmpKind::Video, 0, vec![key(i), 1], Instant::now()), 10_000 * i);
        assert_eq!(cuts(&mut cutter, (0..301).map(packet)), [0, 1000, 2000, 3000]);
        // Key frames end: the groups are cut at their longest, and then every 500 ms.
        let rest: Vec<_> = cuts(&mut cutter, (301..700).map(|i| (packet(301).0, 10_000 * i)));
        assert_eq!(rest, [5000, 5500, 6000, 6500]);
    }

    #[test]
    fn groups_are_bounded() {
        let mut cutter = Cutter::new(MediaFamily::Datagrams, 0);
        let packet = |_| (Packet::datagram(vec![5; 1], Instant::now()), 0);
        assert_eq!(cuts(&mut cutter, (0..20_000).map(packet)).len(), 3);
    }
}
