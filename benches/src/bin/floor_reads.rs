//! The floor of taking RTMP publishers: a program that only reads what comes, as soon as it has come, and throws it away.
//!
//! `bench-floor-reads PORT CONNECTIONS`

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use std::{
    io::{Read, Write},
    net::TcpListener,
};

/// Maximum number of bytes of one read.
const READ: usize = 64 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, count] = &arguments[..] else { return Err("PORT CONNECTIONS".into()) };
    let count: usize = count.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    println!("ready");
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(count);
    let mut streams = Vec::new();
    for place in 0..count {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0; 1537])?;
        stream.write_all(&[3; 1 + 2 * 1536])?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(place), Interest::READABLE)?;
        streams.push(stream);
    }
    let mut buffer = vec![0; READ];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            // Until all is read; a publisher that is gone has nothing more.
            while streams[event.token().0].read(&mut buffer).is_ok_and(|length| length == READ) {}
        }
    }
}
