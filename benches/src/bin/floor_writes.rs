//! The floor of serving RTMP players: a program that has all bytes ready and only writes them, at their time, to each
//! of so many connections.
//!
//! `bench-floor-writes PORT CONNECTIONS WINDOW_MS FILE.flv`: with a window of 0, each message is a write; otherwise
//! what falls into a window is.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};
use streamlink_benches::rtmp::read_tags;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, count, window, file] = &arguments[..] else { return Err("PORT CONNECTIONS WINDOW_MS FILE".into()) };
    let (count, window): (usize, u32) = (count.parse()?, window.parse()?);
    let tags = read_tags(&std::fs::read(file)?.into());
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    println!("ready");
    let mut streams = Vec::new();
    for _ in 0..count {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.read_exact(&mut [0; 1537])?;
        stream.write_all(&[3; 1 + 2 * 1536])?;
        streams.push(stream);
    }
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    let mut writes: Vec<(u32, Vec<u8>)> = Vec::new();
    for tag in &tags {
        match writes.last_mut() {
            Some((from, bytes)) if window > 0 && tag.time < *from + window => bytes.extend(tag.chunks()),
            _ => writes.push((tag.time, tag.chunks())),
        }
    }
    for (time, bytes) in writes {
        let due = Duration::from_millis(u64::from(time + window));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        for stream in &mut streams {
            let _ = stream.write_all(&bytes); // a player that is gone is no reason to stop
        }
    }
    loop {
        std::thread::park();
    }
}
