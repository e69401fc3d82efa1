//! The clip of the examples, and hostile streams.

mod forge;
mod remuxed;
mod splices;

use super::*;
use crate::media::{
    RtmpKind,
    flv::{Role, Tag},
};
use proptest::prelude::*;

fn clip() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/clip.ts")).unwrap()
}

fn remux(bytes: &[u8], size: usize) -> (Remuxer, Vec<Packet>) {
    let mut remuxer = Remuxer::new();
    let mut out = Vec::new();
    let now = Instant::now();
    for payload in bytes.chunks(size) {
        remuxer.push(payload, now, &mut out);
    }
    remuxer.finish(now, &mut out);
    (remuxer, out)
}

fn times(packets: &[Packet], wanted: RtmpKind) -> Vec<u32> {
    packets
        .iter()
        .filter_map(|p| {
            let (kind, time) = p.rtmp_message()?;
            let header = Tag::parse(kind, p.data()).is_none_or(|t| matches!(t.role, Role::Header { .. }));
            (kind == wanted && !header).then_some(time)
        })
        .collect()
}

#[test]
fn remux_of_clip_is_complete_at_any_datagram_size() {
    let clip = clip();
    let (mut remuxer, whole) = remux(&clip, 1316);
    let selection = remuxer.selection().unwrap();
    assert_eq!((selection.carried.len(), selection.left_out.len()), (2, 0));
    let video = times(&whole, RtmpKind::Video);
    let audio = times(&whole, RtmpKind::Audio);
    assert_eq!((video.len(), video[0]), (125, 0));
    assert!(audio.len() > 225, "{}", audio.len());
    assert!(video.is_sorted() && audio.is_sorted());
    assert!(video.windows(2).all(|w| (39..=41).contains(&(w[1] - w[0]))), "{video:?}");
    assert!(audio.windows(2).all(|w| (21..=24).contains(&(w[1] - w[0]))), "{audio:?}");
    let tags: Vec<_> = whole.iter().filter_map(|p| Tag::parse(p.rtmp_message()?.0, p.data())).collect();
    assert!(matches!(tags[0].role, Role::Header { .. }));
    assert_eq!(tags.iter().find(|t| !matches!(t.role, Role::Header { .. })).map(|t| t.role), Some(Role::Key));
    for size in [188, 1000, 7 * 188 + 1] {
        let (_, other) = remux(&clip, size);
        assert!(whole.iter().map(Packet::data).eq(other.iter().map(Packet::data)), "{size}");
    }
}

#[test]
fn remux_hides_timestamp_wrap() {
    // Every timestamp of the clip is moved so that the wrap comes in its middle.
    let mut clip = clip();
    forge::shift(&mut clip, (1i64 << 33) - 90_000 * 3);
    let (_, moved) = remux(&clip, 1316);
    let (_, plain) = remux(&self::clip(), 1316);
    for kind in [RtmpKind::Video, RtmpKind::Audio] {
        let a = times(&moved, kind);
        let b = times(&plain, kind);
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1), "{a:?} {b:?}");
    }
}

#[test]
fn remux_loss_costs_only_affected_frames() {
    let clip = clip();
    let mut lossy: Vec<u8> = Vec::new();
    for (i, packet) in clip.chunks_exact(188).enumerate() {
        if i % 500 != 250 {
            lossy.extend_from_slice(packet);
        }
    }
    let (_, out) = remux(&lossy, 1316);
    let video = times(&out, RtmpKind::Video);
    let audio = times(&out, RtmpKind::Audio);
    assert!(video.is_sorted() && audio.is_sorted());
    assert!(video.len() > 110 && audio.len() > 200, "{} {}", video.len(), audio.len());
}

proptest! {
    /// A clip with bytes changed at random: no panic, and times that never go back.
    #[test]
    fn remux_survives_damaged_clip(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60), size in 1usize..3000) {
        let mut clip = clip();
        clip.truncate(188 * 800);
        for (at, value) in changes {
            let at = at.index(clip.len());
            clip[at] = value;
        }
        let (_, out) = remux(&clip, size);
        prop_assert!(times(&out, RtmpKind::Video).is_sorted());
        prop_assert!(times(&out, RtmpKind::Audio).is_sorted());
    }

    /// Packets that are valid only in their sync byte.
    #[test]
    fn remux_survives_any_packets(mut bytes in prop::collection::vec(any::<u8>(), 188 * 20)) {
        for packet in bytes.chunks_exact_mut(188) {
            packet[0] = 0x47;
            packet[1] &= 0x41; // few PIDs, so that they have something to do with each other
            packet[3] &= 0x3f;
        }
        remux(&bytes, 1316);
    }
}
