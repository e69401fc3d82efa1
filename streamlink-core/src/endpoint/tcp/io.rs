//! What is said to a peer beside media. None of it waits for a peer that does not listen for longer than is decent.

use super::End;
use crate::{endpoint::LossReason, net::Stream};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a peer may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last words may take.
pub(in crate::endpoint) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes all of it, however long that takes.
pub(in crate::endpoint) async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// Writes an answer, until the flow stops, or the peer has taken too long for it.
pub(in crate::endpoint) async fn answer(
    stream: &mut Stream,
    bytes: &[u8],
    stop: &CancellationToken,
) -> Result<(), End> {
    if bytes.is_empty() {
        return Ok(());
    }
    tokio::select! {
        () = stop.cancelled() => Err(End::Stopped),
        result = tokio::time::timeout(ANSWER_TIMEOUT, write_all(stream, bytes)) => match result {
            Ok(result) => Ok(result?),
            Err(_) => Err(End::Lost(LossReason::TooSlow)),
        },
    }
}

/// Says the last words, and ends our side of the connection.
pub(in crate::endpoint) async fn close_with(stream: &mut Stream, bytes: &[u8]) {
    let last = async {
        let _ = write_all(stream, bytes).await; // the peer may be gone
        stream.shut_down().await;
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, last).await; // one that does not read misses it
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Secured;
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };
    use tokio::{
        io::{AsyncRead, AsyncWrite, ReadBuf},
        net::{TcpListener, TcpStream},
    };

    /// A peer within TLS that takes nothing, not even that we close.
    #[derive(Debug)]
    struct Unresponsive(TcpStream);

    impl AsyncRead for Unresponsive {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Unresponsive {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Secured for Unresponsive {
        fn socket(&self) -> &TcpStream {
            &self.0
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_not_waited_for() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut stream = Stream::secured(Box::new(Unresponsive(TcpStream::connect(listener.local_addr()?).await?)));
        tokio::time::pause();
        let stop = CancellationToken::new();
        assert!(answer(&mut stream, &[], &stop).await.is_ok());
        let slow = answer(&mut stream, b"answer", &stop).await;
        assert!(matches!(slow, Err(End::Lost(LossReason::TooSlow))), "{slow:?}");
        close_with(&mut stream, &[]).await;
        close_with(&mut stream, b"goodbye").await;
        stop.cancel();
        assert!(matches!(answer(&mut stream, b"answer", &stop).await, Err(End::Stopped)));
        Ok(())
    }
}
