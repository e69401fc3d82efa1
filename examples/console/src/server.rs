//! The HTTP server: a bounded number of connections, each of which has to say soon what it wants.

use crate::https::Https;
use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

/// Maximum number of connections at the same time; more wait until one ends.
const MAX_CONNECTIONS: usize = 512;
/// Time within which a connection has to bring the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Maximum size of the head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Time within which a peer has to take more of an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Delay after an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves the routes to all who connect, over TLS if there is a certificate.
pub(crate) async fn serve(listener: TcpListener, routes: Router, connections: Arc<Semaphore>, https: Option<Https>) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("no connection can be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Answers are small and are to leave at once; a connection without it works, too.
        let _ = stream.set_nodelay(true);
        let routes = routes.clone();
        let https = https.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match https {
                None => serve_connection(stream, peer, routes).await,
                Some(https) => match tokio::time::timeout(HEAD_TIME, https.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => serve_connection(stream, peer, routes).await,
                    Ok(Err(error)) => log::debug!("connection of {peer}: {error}"),
                    Err(_) => log::debug!("connection of {peer}: no TLS handshake in time"),
                },
            }
        });
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, routes: Router) {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        // A router is always ready.
        routes.clone().call(request)
    });
    // A peer that reads no more holds neither its place nor that of an event stream.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(ANSWER_TIME));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    if let Err(error) = connection.await {
        log::debug!("connection of {peer}: {error}");
    }
}

/// Returns the permits of connections.
pub(crate) fn connections() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_CONNECTIONS))
}
