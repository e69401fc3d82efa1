//! Writes to a peer beside media, each with a timeout, so that a peer that does not read cannot hold up its task.

use super::End;
use crate::{endpoint::LossReason, net::Stream};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Time for a peer to take a response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the last bytes of a connection to be written.
pub(in crate::endpoint) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes all of `bytes`, without a timeout.
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

/// Writes a response, until the flow stops or [`ANSWER_TIMEOUT`] has passed.
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

/// Writes `bytes`, then shuts down our side of the connection, within [`CLOSE_TIMEOUT`].
pub(in crate::endpoint) async fn close_with(stream: &mut Stream, bytes: &[u8]) {
    let last = async {
        let _ = write_all(stream, bytes).await; // fails if the peer is gone
        stream.shut_down().await;
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, last).await; // a peer that does not read is not waited for
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

    /// A TLS connection on which no operation ever completes, not even closing.
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
    async fn tcp_writes_to_unresponsive_peer_time_out() -> io::Result<()> {
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
