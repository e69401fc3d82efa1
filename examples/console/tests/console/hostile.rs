//! Peers that are no browsers: they say nothing, too much, or nonsense. The console stays, and answers others.

use crate::support::{Console, srt_flow};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};
use streamlink_tests::PATIENCE;

fn connect(console: &Console) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", console.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn connections_that_say_nothing_or_trickle_are_closed() {
    let console = Console::start();
    let start = Instant::now();
    let mut silent = connect(&console);
    let mut slow = connect(&console);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
    let mut body = connect(&console);
    body.write_all(
        b"POST /api/v1/flows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    )
    .unwrap();
    let mut end = Vec::new();
    assert_eq!(silent.read_to_end(&mut end).unwrap_or(0), 0);
    // A peer that trickles is answered or not, and closed.
    let _ = slow.read_to_end(&mut end);
    let mut answer = [0; 64];
    let read = body.read(&mut answer).unwrap();
    assert!(read == 0 || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(console.get("/healthz").status, 200);
}

#[test]
fn garbage_and_oversized_requests_are_refused() {
    let console = Console::start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let headers = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-A: b\r\n".repeat(5000));
    let tunnel = "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let absolute = "GET http://evil.example/api/v1/flows HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let smuggled = "POST /api/v1/flows HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let requests: [&[u8]; 7] = [
        &[0x16, 3, 1, 2, 0, 1, 0, 1],
        b"\r\n\r\n\r\n",
        long.as_bytes(),
        headers.as_bytes(),
        tunnel.as_bytes(),
        absolute.as_bytes(),
        smuggled.as_bytes(),
    ];
    for request in requests {
        let mut stream = connect(&console);
        // The console may close before it has read all.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(console.get("/api/v1/flows").of(200)["flows"], serde_json::json!([]));
}

#[test]
fn crowd_of_connections_leaves_the_console_usable() {
    let console = Console::start();
    streamlink_tests::more_descriptors(4096);
    console.post("/api/v1/flows", &srt_flow("f")).of(201);
    let crowd: Vec<TcpStream> = (0..600).map(|_| connect(&console)).collect();
    // Those that say nothing are closed after ten seconds, which makes room for others: here for one that comes last.
    let mut last = connect(&console);
    last.write_all(b"GET /api/v1/flows HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("waiting"), "{answer}");
    drop(crowd);
    assert_eq!(console.get("/healthz").status, 200);
}

#[test]
fn connections_that_read_no_answer_are_closed() {
    let console = Console::start();
    streamlink_tests::more_descriptors(4096);
    // As many as the console serves. Each asks again and again and reads nothing, so that answers wait to be written.
    let request = b"GET /flow.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let deaf: Vec<TcpStream> = (0..512)
        .map(|_| {
            let mut stream = connect(&console);
            stream.set_nonblocking(true).unwrap();
            // What does not fit into the buffers any more is not sent.
            while stream.write(&request).is_ok() {}
            stream
        })
        .collect();
    let mut last = connect(&console);
    last.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(deaf);
}
