//! The floor of pacing: a program that only sleeps to the time of each datagram, and sends it to each receiver by itself.
//! It is fed as the programs beside it are, begins with the first datagram of the feed, and reads nothing after it.
//!
//! `bench-floor-sleeps IN COUNT OUT…`

use std::net::UdpSocket;
use streamlink_benches::feed::{Clock, PAYLOAD, departure};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = UdpSocket::bind(arguments.next().ok_or("where to receive?")?)?;
    let count: u64 = arguments.next().ok_or("how many datagrams?")?.parse()?;
    let peers = arguments.map(|address| {
        let peer = UdpSocket::bind("127.0.0.1:0")?;
        peer.connect(address)?;
        Ok(peer)
    });
    let peers = peers.collect::<std::io::Result<Vec<_>>>()?;
    println!("ready");
    let mut datagram = [0; PAYLOAD];
    socket.recv(&mut datagram)?;
    let clock = Clock::start();
    for number in 0..count {
        clock.sleep_until(departure(number));
        for peer in &peers {
            // A receiver that is gone is no reason to stop.
            let _ = peer.send(&datagram);
        }
    }
    loop {
        std::thread::park();
    }
}
