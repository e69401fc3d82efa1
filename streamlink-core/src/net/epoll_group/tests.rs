//! Tests of grouped sockets over the loopback.

use crate::{
    lock::lock,
    net::{GroupPoller, ReadAction, ReadOutcome, ReadSink, Stream, listen},
};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    sync::{Arc, Mutex},
    task::Poll,
};
use tokio::net::TcpStream;

/// Returns the two ends of a connection, the second in the group.
async fn pair(poller: &GroupPoller) -> io::Result<(Stream, Stream)> {
    let listener = listen(([127, 0, 0, 1], 0).into())?;
    let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    Ok((Stream::accepted(peer?), Stream::accepted(accepted?.0).grouped(poller.group())?))
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await
}

/// Reads what has arrived, if anything.
async fn read(stream: &mut Stream) -> io::Result<usize> {
    match poll_fn(|cx| Poll::Ready(stream.poll_read(cx, |_| {}))).await {
        Poll::Ready(read) => read,
        Poll::Pending => Ok(0),
    }
}

#[tokio::test]
async fn epoll_group_request_more_reads_before_next_poll() -> io::Result<()> {
    let poller = GroupPoller::new()?;
    let (mut peer, mut stream) = pair(&poller).await?;
    write(&mut peer, b"head").await?;
    while read(&mut stream).await? == 0 {
        stream.request_more();
        tokio::task::yield_now().await;
    }
    write(&mut peer, b"body").await?;
    assert_eq!(read(&mut stream).await?, 0, "nobody has looked");
    loop {
        stream.request_more();
        match read(&mut stream).await? {
            0 => tokio::task::yield_now().await,
            length => {
                assert_eq!(length, 4);
                return Ok(());
            }
        }
    }
}

/// Keeps what it is given, requests more after a `:`, notifies of each `!`, and panics on a `?`.
#[derive(Default)]
struct RecordingSink(Vec<u8>);

impl ReadSink for RecordingSink {
    fn on_read(&mut self, bytes: &[u8]) -> ReadAction {
        assert!(!bytes.contains(&b'?'), "a bug");
        self.0.extend_from_slice(bytes);
        match bytes.last() {
            Some(b':') => ReadAction::RequestMore,
            _ if bytes.contains(&b'!') => ReadAction::Notify,
            _ => ReadAction::Continue,
        }
    }
}

/// Polls the group once, then the stream.
async fn poll_once(
    poller: &mut GroupPoller,
    stream: &mut Stream,
    sink: &Arc<Mutex<RecordingSink>>,
) -> Poll<io::Result<ReadOutcome>> {
    tokio::task::yield_now().await;
    poll_fn(|cx| {
        poller.poll(cx);
        Poll::Ready(stream.poll_read_to_sink(cx, sink))
    })
    .await
}

#[tokio::test]
async fn epoll_group_sink_is_fed_until_it_notifies() -> io::Result<()> {
    let mut poller = GroupPoller::new()?;
    let (mut peer, mut stream) = pair(&poller).await?;
    let sink = Arc::new(Mutex::new(RecordingSink::default()));
    let mut sent = Vec::new();
    for (words, notified) in [("some", false), ("thing", false), ("!", true), ("and on", false), ("!", true)] {
        assert!(poll_once(&mut poller, &mut stream, &sink).await.is_pending());
        write(&mut peer, words.as_bytes()).await?;
        sent.extend_from_slice(words.as_bytes());
        let outcome = loop {
            let outcome = poll_once(&mut poller, &mut stream, &sink).await;
            if lock(&sink).0 == sent {
                break outcome;
            }
            assert!(outcome.is_pending());
        };
        assert_eq!(matches!(outcome, Poll::Ready(Ok(ReadOutcome::Notified))), notified, "{outcome:?}");
    }
    assert!(poll_once(&mut poller, &mut stream, &sink).await.is_pending());
    stream.detach_sink();
    write(&mut peer, b"later").await?;
    peer.shut_down().await;
    // It is not lost: a later read returns it.
    while !matches!(poll_once(&mut poller, &mut stream, &sink).await, Poll::Ready(Ok(ReadOutcome::Closed))) {}
    sent.extend_from_slice(b"later");
    assert_eq!(lock(&sink).0, sent);
    Ok(())
}

#[tokio::test]
async fn epoll_group_bounds_reads_and_isolates_panics() -> io::Result<()> {
    const BYTES: usize = 8 << 20;
    let mut poller = GroupPoller::new()?;
    let (mut loud, mut heard) = pair(&poller).await?;
    let (mut bad, mut send_only) = pair(&poller).await?;
    let ears: [Arc<Mutex<RecordingSink>>; 2] = Default::default();
    assert!(poll_once(&mut poller, &mut heard, &ears[0]).await.is_pending());
    assert!(poll_once(&mut poller, &mut send_only, &ears[1]).await.is_pending());
    write(&mut bad, b"?").await?;
    tokio::spawn(async move {
        let mut sent = 0;
        while sent < BYTES {
            sent += write(&mut loud, &vec![7; BYTES - sent]).await?;
        }
        loud.shut_down().await;
        io::Result::Ok(())
    });
    while !matches!(poll_once(&mut poller, &mut heard, &ears[0]).await, Poll::Ready(Ok(ReadOutcome::Closed))) {}
    assert_eq!(lock(&ears[0]).0, vec![7; BYTES]);
    while !matches!(poll_once(&mut poller, &mut send_only, &ears[1]).await, Poll::Ready(Err(_))) {}
    Ok(())
}

#[tokio::test]
async fn epoll_group_polls_at_once_for_nagle_peers() -> io::Result<()> {
    for parts in [&["head:body"][..], &["head:", "body"]] {
        let mut poller = GroupPoller::new()?;
        let listener = listen(([127, 0, 0, 1], 0).into())?;
        // Nagle's algorithm is on, as by default.
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        let peer = peer?;
        let mut stream = Stream::accepted(accepted?.0).grouped(poller.group())?;
        let sink = Arc::new(Mutex::new(RecordingSink::default()));
        let mut rounds = 0_usize;
        let mut waits = false;
        // The others are held back sooner or later.
        while if parts.len() == 1 { !waits } else { rounds < 3000 } {
            for part in parts {
                assert_eq!(peer.try_write(part.as_bytes())?, part.len());
            }
            rounds += 1;
            while lock(&sink).0.len() < 9 * rounds {
                assert!(poll_once(&mut poller, &mut stream, &sink).await.is_pending());
                waits |= poller.is_periodic;
            }
        }
        assert_eq!(waits, parts.len() == 1);
    }
    Ok(())
}

#[tokio::test]
async fn epoll_group_reports_writability() -> io::Result<()> {
    const BYTES: usize = 32 << 20;
    let mut poller = GroupPoller::new()?;
    let (mut peer, mut stream) = pair(&poller).await?;
    let mut sent = 0;
    let send = poll_fn(|cx| {
        poller.poll(cx);
        while sent < BYTES {
            match stream.poll_write(cx, &[IoSlice::new(&[7; 1 << 16])]) {
                Poll::Ready(written) => sent += written?,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(sent))
    });
    // A task of its own, so that its wake-ups do not wake the sender.
    let receive = tokio::spawn(async move {
        let mut received = 0;
        while received < BYTES {
            received += poll_fn(|cx| peer.poll_read(cx, |_| {})).await?;
        }
        io::Result::Ok(received)
    });
    let sent: io::Result<usize> = send.await;
    assert!(sent? >= BYTES && receive.await?? >= BYTES);
    Ok(())
}
