//! Tests of the ring in virtual time.

use super::*;
use std::{
    task::{Context, Poll},
    time::Instant,
};

impl Ring {
    pub(crate) fn publish(&self, packets: &mut Vec<Packet>) {
        self.publish_marked(packets, None);
    }

    fn publish_start(&self, packets: &mut Vec<Packet>, preamble: Preamble) {
        self.publish_marked(packets, Some(preamble));
    }

    fn publish_marked(&self, packets: &mut Vec<Packet>, start: Option<Preamble>) {
        let Some(newest) = packets.last().map(Packet::arrival) else { return };
        self.publish_batch(packets, start, None, Published { newest, in_burst: false });
    }
}

const GENEROUS: Limits = Limits { bytes: 1 << 30, time: Duration::from_secs(3600) };

fn packets(at: Instant, sizes: &[usize]) -> Vec<Packet> {
    sizes.iter().map(|n| Packet::datagram(vec![0; *n], at)).collect()
}

fn lengths(window: &mut Vec<Arc<Batch>>) -> Vec<usize> {
    window.drain(..).flat_map(|b| b.packets().iter().map(|p| p.data().len()).collect::<Vec<_>>()).collect()
}

#[test]
fn ring_has_readers_while_read_or_retained() {
    let ring = Ring::new(GENEROUS);
    assert!(!ring.has_readers());
    let readers = (ring.reader(), ring.reader_from_start(100));
    assert!(ring.has_readers());
    drop(readers.0);
    assert!(ring.has_readers());
    drop(readers.1);
    assert!(!ring.has_readers());
    ring.retain_gop(0);
    assert!(!ring.has_readers(), "nothing is kept");
    ring.retain_gop(100);
    ring.retain_gop(200);
    drop(ring.reader());
    assert!(ring.has_readers());
}

#[test]
fn ring_readers_get_everything_from_their_start() {
    let ring = Ring::new(GENEROUS);
    let now = Instant::now();
    let mut window = Vec::new();
    let mut early = ring.reader();
    ring.publish(&mut packets(now, &[1, 2]));
    let mut late = ring.reader();
    ring.publish(&mut packets(now, &[3]));
    ring.publish(&mut packets(now, &[]));
    assert_eq!(early.read(&mut window), Totals::default());
    assert_eq!(window[1].first_packet(), 2);
    assert_eq!(lengths(&mut window), [1, 2, 3]);
    assert_eq!(late.read(&mut window), Totals::default());
    assert_eq!(lengths(&mut window), [3]);
    assert_eq!((early.position(), late.position()), (2, 2));
}

#[test]
fn ring_counts_unread_packets_and_advances() {
    let ring = Ring::new(GENEROUS);
    let now = Instant::now();
    let mut window = Vec::new();
    ring.publish(&mut packets(now, &[1]));
    drop(ring.reader());
    ring.publish(&mut packets(now, &[2, 3]));
    assert!(ring.lock().batches.is_empty());
    let mut reader = ring.reader();
    assert_eq!(reader.position(), 2);
    ring.publish(&mut packets(now, &[4]));
    assert_eq!(reader.read(&mut window), Totals::default());
    assert_eq!((window[0].sequence(), window[0].first_packet()), (2, 3));
    assert_eq!(lengths(&mut window), [4]);
    // Once media is retained for future readers, it is stored without a reader.
    drop(reader);
    ring.retain_gop(100);
    ring.publish_start(&mut packets(now, &[5]), Arc::new([]));
    ring.reader_from_start(100).read(&mut window);
    assert_eq!(lengths(&mut window), [5]);
}

#[test]
fn ring_releases_read_batches_and_reuses_memory() {
    let ring = Ring::new(GENEROUS);
    let now = Instant::now();
    let mut window = Vec::new();
    let mut reader = ring.reader();
    let mut batch = Vec::new();
    for _ in 0..1000 {
        batch.extend(packets(now, &[1316; 10]));
        ring.publish(&mut batch);
        assert!(batch.is_empty());
        reader.read(&mut window);
        window.clear();
    }
    let inner = ring.lock();
    assert!(inner.batches.len() <= 1 && inner.spare.batches.len() <= 2, "{inner:?}");
    assert!(batch.capacity() >= 10);
}

#[test]
fn ring_lagging_reader_loses_oldest_with_exact_count() {
    let ring = Ring::new(Limits { bytes: 100, ..GENEROUS });
    let now = Instant::now();
    let mut window = Vec::new();
    let mut slow = ring.reader();
    let mut fast = ring.reader();
    for i in 1..=10 {
        ring.publish(&mut packets(now, &[20 + i, 10]));
        assert_eq!(fast.read(&mut window), Totals::default());
    }
    window.clear();
    // The last two batches hold 39 and 40 bytes; a third would exceed 100.
    assert_eq!(slow.read(&mut window), Totals { packets: 16, bytes: (21..=28).sum::<u64>() + 80 });
    assert_eq!(lengths(&mut window), [29, 10, 30, 10]);
    // Loss by age: an hour and a second later, only the newest batch is left.
    ring.publish(&mut packets(now, &[1]));
    ring.publish(&mut packets(now + Duration::from_secs(3601), &[2]));
    assert_eq!(slow.read(&mut window), Totals { packets: 1, bytes: 1 });
    assert_eq!(lengths(&mut window), [2]);
    // A single batch above the bound still passes.
    ring.publish(&mut packets(now, &[1000]));
    assert_eq!(slow.read(&mut window), Totals::default());
    assert_eq!(lengths(&mut window), [1000]);
}

/// An RTMP publisher may send any number of empty messages, which count no bytes.
#[test]
fn ring_of_empty_packets_is_bounded() {
    let ring = Ring::new(Limits { bytes: 300_000, ..GENEROUS });
    let now = Instant::now();
    let mut window = Vec::new();
    let mut slow = ring.reader();
    let most = most_packets(300_000);
    assert_eq!(most, 1171);
    for _ in 0..5000 {
        ring.publish(&mut packets(now, &[0]));
    }
    assert_eq!(ring.lock().batches.len() as u64, most);
    assert_eq!(slow.read(&mut window), Totals { packets: 5000 - most, bytes: 0 });
    drop((slow, window));
    // A group of pictures that exceeds the bound is no longer retained.
    ring.retain_gop(1 << 20);
    ring.publish_start(&mut packets(now, &[1]), Arc::new([]));
    for _ in 0..5000 {
        ring.publish(&mut packets(now, &[0]));
    }
    assert!(ring.lock().batches.len() as u64 <= most_packets(1 << 20), "{}", ring.lock().batches.len());
    assert_eq!(ring.lock().start, None);
}

/// A backup that takes over brings a group of pictures at once, which may have more packets than the flow in a second.
#[test]
fn ring_holds_the_packets_of_a_burst_beside_its_own() {
    let limits = Limits { bytes: 300_000, ..GENEROUS };
    let ring = Ring::new(limits);
    let now = Instant::now();
    let mut window = Vec::new();
    let mut slow = ring.reader();
    let most = most_packets(limits.bytes);
    let burst = |count: usize| {
        let mut burst = packets(now, &vec![10; count]);
        ring.publish_batch(&mut burst, None, None, Published { newest: now, in_burst: true });
    };
    for _ in 0..3 {
        burst(1000);
    }
    for _ in 0..most {
        ring.publish(&mut packets(now, &[1]));
    }
    assert_eq!(slow.read(&mut window), Totals::default());
    assert_eq!(lengths(&mut window).len() as u64, 3000 + most);
    // More than a backup holds is too much.
    for _ in 0..200 {
        burst(1000);
    }
    let lost = slow.read(&mut window);
    assert!(lost.packets > 100_000, "{lost:?}");
    assert!((window.drain(..).count() as u64) < 70);
    let inner = ring.lock();
    assert_eq!(inner.burst_packets, inner.batches.iter().map(|batch| batch.packets().len() as u64).sum::<u64>());
}

#[test]
fn ring_fork_rereads_and_retains_its_batch() {
    let ring = Ring::new(GENEROUS);
    let now = Instant::now();
    let mut window = Vec::new();
    let mut reader = ring.reader();
    ring.publish(&mut packets(now, &[1]));
    ring.publish(&mut packets(now, &[2]));
    reader.read(&mut window);
    let mut fork = reader.fork(&window[1]);
    window.clear();
    ring.publish(&mut packets(now, &[3]));
    reader.read(&mut window);
    window.clear();
    ring.publish(&mut packets(now, &[4]));
    assert_eq!(fork.read(&mut window), Totals::default());
    assert_eq!(lengths(&mut window), [2, 3, 4]);
    drop(fork);
    assert_eq!(ring.lock().readers.iter().filter(|s| s.position != FREE).count(), 1);
}

#[test]
fn ring_late_reader_starts_at_retained_entry_point() {
    let ring = Ring::new(Limits { bytes: 100, ..GENEROUS });
    let now = Instant::now();
    let mut window = Vec::new();
    ring.retain_gop(500);
    let preamble: Preamble = packets(now, &[7]).into();
    ring.publish(&mut packets(now, &[50]));
    ring.publish_start(&mut packets(now, &[200]), preamble.clone());
    ring.publish(&mut packets(now, &[100]));
    assert_eq!(ring.lock().batches.len(), 2, "kept though above the bound, and though nobody reads");
    let mut late = ring.reader_from_start(300);
    assert_eq!(late.read(&mut window), Totals::default());
    assert!(Arc::ptr_eq(window[0].start().unwrap(), &preamble));
    assert_eq!(lengths(&mut window), [200, 100]);
    // The retained media exceeds the limit of this reader, so it starts with the next batch.
    let mut picky = ring.reader_from_start(299);
    ring.publish_start(&mut packets(now, &[10]), preamble.clone());
    assert_eq!(ring.lock().batches.len(), 1, "the last start is where late readers begin");
    picky.read(&mut window);
    assert_eq!(lengths(&mut window), [10]);
    // The media exceeds the retention limit, so it is dropped.
    late.read(&mut window);
    window.clear();
    ring.publish(&mut packets(now, &[491]));
    ring.publish(&mut packets(now, &[5]));
    assert_eq!(ring.lock().batches.len(), 1);
    ring.reader_from_start(u64::MAX).read(&mut window);
    assert_eq!(lengths(&mut window), [0; 0]);
}

#[test]
fn ring_tells_readers_where_a_stream_begins() {
    let ring = Ring::new(GENEROUS);
    let mut window = Vec::new();
    ring.retain_gop(1000);
    let mut reader = ring.reader();
    assert_eq!((reader.stream_start(), reader.position()), (0, 0));
    ring.publish_start(&mut packets(Instant::now(), &[1]), Preamble::from([]));
    ring.publish(&mut packets(Instant::now(), &[2]));
    ring.end_gop();
    assert!(reader.position() < reader.stream_start(), "the old stream is still to be read");
    ring.publish(&mut packets(Instant::now(), &[3]));
    reader.read(&mut window);
    let begins: Vec<bool> = window.iter().map(|batch| batch.sequence() >= reader.stream_start()).collect();
    assert_eq!(begins, [false, false, true]);
    ring.end_gop();
    assert_eq!(reader.position(), reader.stream_start());
}

#[test]
fn ring_closes_a_single_reader() {
    let ring = Ring::new(GENEROUS);
    let mut window = Vec::new();
    let mut a = ring.reader();
    let mut b = ring.reader();
    ring.publish(&mut packets(Instant::now(), &[1]));
    a.closer().close();
    let cx = &mut Context::from_waker(Waker::noop());
    assert_eq!(a.poll_ready(cx), Poll::Ready(Ok(())), "what is there can still be read");
    a.read(&mut window);
    assert_eq!(a.poll_ready(cx), Poll::Ready(Err(Closed)));
    b.read(&mut window);
    assert_eq!(b.poll_ready(cx), Poll::Pending);
}

#[tokio::test]
async fn ring_wakes_readers_once_per_batch() {
    let ring = Ring::new(GENEROUS);
    let now = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let mut reader = ring.reader();
            tokio::spawn(async move {
                let mut window = Vec::new();
                let mut count = 0;
                while reader.ready().await.is_ok() {
                    reader.read(&mut window);
                    count += lengths(&mut window).len();
                }
                count
            })
        })
        .collect();
    for _ in 0..50 {
        ring.publish(&mut packets(now, &[1, 1]));
        tokio::task::yield_now().await;
    }
    ring.close();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 100);
    }
}

#[test]
fn ring_holds_what_a_backup_brings_at_once_until_it_could_be_read() {
    let limits = Limits { bytes: 1000, time: Duration::from_secs(1) };
    let ring = Ring::new(limits);
    let start = Instant::now();
    let mut reader = ring.reader();
    let at = |ms| start + Duration::from_millis(ms);
    let packet = |ms| Packet::datagram(vec![0; 200], at(ms));
    // Two seconds of media, which decoding may begin in at the first packet, and for want of that every half second.
    let mut backlog = MediaBatch::default();
    for ms in (0..2000).step_by(100) {
        match ms {
            0 => backlog.mark_entry_point(Arc::new([])),
            _ if ms % 500 == 0 => backlog.mark_fallback(Arc::new([])),
            _ => {}
        }
        backlog.packets.push(packet(ms));
    }
    ring.deliver(&mut backlog);
    // What follows is as large as the ring.
    for ms in [1910, 1920, 1930, 1940, 1950] {
        ring.publish(&mut vec![packet(ms)]);
    }
    let mut window = Vec::new();
    assert_eq!(reader.read(&mut window), Totals::default(), "nothing is lost");
    assert_eq!(window.iter().map(|batch| batch.packets().len()).sum::<usize>(), 25);
    assert!(window[0].start().is_some());
    // A reader that has not read it after the time that the ring holds media loses it.
    let mut slow = ring.reader();
    let mut backlog = MediaBatch { packets: (0..40).map(|i| packet(2000 + 50 * i)).collect(), ..MediaBatch::default() };
    ring.deliver(&mut backlog);
    ring.publish(&mut vec![packet(5000)]);
    window.clear();
    assert_eq!(slow.read(&mut window).packets, 40);
    assert_eq!(window.len(), 1);
}
